"""The comparison of unlearning methods as rows of strings, the same for the page and for the terminal.

Rates stand in percent with one decimal; gaps, which lie close together, in percentage points with two.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.evaluation.report.tables import MISSING, REFERENCES, Number, Table, count, percent, seconds

Row = Mapping[str, Any]

PARTS = {
    "unlearn": "Unlearn accuracy",
    "retain": "Retain accuracy",
    "test": "Test accuracy",
    "forget_vs_test_auc": "Attack AUC",
}
"""What the gap is the mean of, as results.json and as a reader calls it."""

SVC = {
    "confidence": "Confidence",
    "entropy": "Entropy",
    "modified_entropy": "Modified entropy",
    "correctness": "Correctness",
}
"""The features of the SVC attack."""

KINDS = {"own": "PGD, original model", "fgsm": "FGSM, original model", "transferred": "PGD, another model"}
"""How a set of neighbours was made, and on which model."""

_RMIA = {
    "FT AUC %": "rmia_forget_vs_test",
    "FR AUC %": "rmia_forget_vs_retain",
    "RT AUC %": "rmia_retain_vs_test",
}

_TERMS = {
    "distance": "Distance δ",
    "transfer": "Transfer %",
    "loss_original": "ℓ(f_o(x′), y)",
    "loss_unlearned": "ℓ(f_θ′(x′), y′)",
    "loss_retrained": "ℓ(f_u(x), y)",
    "loss_retrained_adversarial": "ℓ(f_u(x′), y′)",
    "c": "C",
    "weights_distance": "‖θ′ − θ_o‖²",
}


def methods_by_gap(models: Mapping[str, Row]) -> list[str]:
    """The methods, nearest to retraining first; the original and retrained models are none of them.

    A method of which runs diverged, or were left out for want of neighbours, comes after all others: the gap of those
    that are there is no gap of the method.
    """
    names = [name for name in models if name not in REFERENCES]
    return sorted(
        names,
        key=lambda name: (
            bool(models[name].get("diverged") or models[name].get("left_out")),
            _or_last(models[name].get("gap_to_retrain")),
        ),
    )


def in_order(models: Mapping[str, Row]) -> list[str]:
    """As tables list them: retrained models and the original apart at the top, beneath them the methods by gap."""
    first = [name for name in ("retrain", "retrain_again", "original") if name in models]
    return first + methods_by_gap(models)


def methods_table(results: Row, compact: bool = False) -> Table:
    """Header and one row a model in the order of `in_order`; behind a mean its standard deviation.

    With a pool the attack is RMIA, in three AUCs; without one it is the loss attack's. Time is of preparation and
    training. `compact` is for a terminal of 120 columns: standard deviations of gaps alone, and an empty row that sets
    the methods apart.
    """
    models = results["models"]
    attacks = _RMIA if has_pool(results) else {"Loss AUC %": "loss_threshold"}
    robust = any(model.get("robust_accuracy") is not None for model in models.values())
    if compact:
        attacks = {name: key for name, key in attacks.items() if key != "rmia_retain_vs_test"}
        header = ["Model", "Gap pp", "Unlearn", "Retain", "Test", *(name[:-2] for name in attacks), "SVC"]
        header += [*(["Robust"] if robust else []), "Time s", "Of retrain"]
    else:
        header = ["Model", "n", "Gap to retrain, pp", "Unlearn %", "Retain %", "Test %", *attacks, "SVC %"]
        header += [*(["Robust %"] if robust else []), "Time, s (of it before training)", "Of retrain's"]
    retrain = total_seconds(models.get("retrain", {}))
    rows = []
    for name in in_order(models):
        model = models[name]
        accuracy, deviation = model.get("accuracy", {}), model.get("accuracy_sd") or {}
        areas = [model.get("attacks", {}).get(key, {}) for key in attacks.values()]
        svc = model.get("attacks", {}).get("svc", {})
        rates = [
            *((accuracy.get(part), deviation.get(part)) for part in ("forget", "retain", "test")),
            *((area.get("auc"), area.get("auc_sd")) for area in areas),
            (svc.get("confidence"), svc.get("confidence_sd")),
            *([(model.get("robust_accuracy"), model.get("robust_accuracy_sd"))] if robust else []),
        ]
        time, share = seconds(total_seconds(model)), _share(total_seconds(model), retrain)
        # From retrain to itself; not a mean of anything.
        spread = None if name == "retrain" else model.get("gap_sd")
        if compact:
            gap = _plain(points(model.get("gap_to_retrain")), spread, points)
            cells = [gap, *(percent(value) for value, _ in rates), time, share]
        else:
            if before := model.get("preparation_seconds"):
                time += f" ({seconds(before)})"
            gap = beneath(model.get("gap_to_retrain"), spread, points)
            cells = [count(model.get("n")), gap, *(beneath(*rate, percent) for rate in rates), time, share]
        if compact and name == next(iter(methods_by_gap(models)), None):
            rows.append([""] * len(header))
        rows.append([name, *cells])
    return header, rows


def parts_table(results: Row) -> Table:
    """The absolute differences from retraining whose mean is the gap, in percentage points."""
    models = results["models"]
    header = ["Model", *(f"{title}, pp" for title in PARTS.values()), "Mean (gap), pp"]
    return header, [
        [
            name,
            *(points((models[name].get("gap_parts") or {}).get(part)) for part in PARTS),
            points(models[name].get("gap_to_retrain")),
        ]
        for name in in_order(models)
    ]


def attacks_table(results: Row) -> Table:
    """The share of the forget set that the SVC attack calls non-member by each feature, and the loss attack's AUC."""
    models = results["models"]
    header = ["Model", *(f"SVC, {title.lower()} %" for title in SVC.values()), "Loss attack's AUC %"]
    rows = []
    for name in in_order(models):
        attacks = models[name].get("attacks", {})
        svc, loss = attacks.get("svc", {}), attacks.get("loss_threshold", {})
        cells = [beneath(svc.get(feature), svc.get(f"{feature}_sd"), percent) for feature in SVC]
        rows.append([name, *cells, beneath(loss.get("auc"), loss.get("auc_sd"), percent)])
    return header, rows


def cost_table(results: Row) -> Table:
    """What each model cost: seconds apart, how many times faster than retraining, and examples trained."""
    models = results["models"]
    header = ["Model", "Training, s", "Preparation, s", "Compilation, s", "Times faster than retrain"]
    header += ["Examples trained"]
    retrain = total_seconds(models.get("retrain", {}))
    rows = []
    for name in in_order(models):
        model, total = models[name], total_seconds(models[name])
        times = MISSING if name in REFERENCES or not (total and retrain) else f"{_digits(retrain / total)}×"
        kinds = ("seconds", "preparation_seconds", "compile_seconds")
        cells = [seconds(model.get(kind)) for kind in kinds]
        rows.append([name, *cells, times, count(model.get("trained_samples"))])
    return header, rows


def neighbours_table(results: Row) -> Table:
    """Of each set of neighbours: how many there are and are left out, and how far they lie."""
    header = ["Made by", "Base", "Forget set", "Neighbours", "Of them misclassified", "Did not flip"]
    header += ["Flipped back", "Mean distance", "Time, s"]
    rows = []
    for made in results.get("neighbours") or ():
        names = [KINDS.get(made["kind"], made["kind"]), str(made["base"]), str(made["forget_set"])]
        numbers = [
            made["examples"],
            made["misclassified"],
            len(made["not_flipped"]),
            len(made["flipped_back"]),
        ]
        distance = _digits(made["mean_distance"]) + (f" ({made['norm']})" if made.get("norm") else "")
        rows.append([*names, *map(count, numbers), distance, seconds(made.get("seconds"))])
    return header, rows


def bound_table(results: Row) -> Table:
    """The terms of the theorem for each model, means over its runs; losses in nats."""
    rows = rows_of(results, "bound")
    terms = [key for key in _TERMS if any(row.get(key) is not None for row in rows)]
    header = ["Model", *(_TERMS[key] for key in terms), "Gap, pp"]
    found = by_name(rows)
    content = []
    for name in in_order(results["models"]):
        if name in found:
            cells = [
                percent(mean(found[name], key)) if key == "transfer" else _digits(mean(found[name], key))
                for key in terms
            ]
            content.append([name, *cells, points(mean(found[name], "gap"))])
    return header, content


def requests_table(results: Row) -> Table:
    """One row a request met, the two ways of making neighbours one after the other."""
    columns = {
        "FT AUC %": ("ft_auc", percent),
        "FR AUC %": ("fr_auc", percent),
        "FR − FT, pp": ("fr_minus_ft", signed),
        "Unlearn %": ("forget", percent),
        "Retain %": ("retain", percent),
        "Test %": ("test", percent),
    }
    rows = rows_of(results, "requests")
    columns = {
        title: column
        for title, column in columns.items()
        if any(row.get(column[0]) is not None for row in rows)
    }
    header = ["Neighbours from", "Request", "Deleted so far", *columns]
    return header, [
        [
            request_kind(row["kind"]),
            str(row["request"]),
            count(row["deleted"]),
            *(shown(row.get(key)) for key, shown in columns.values()),
        ]
        for row in rows
    ]


def runs_table(results: Row) -> Table:
    """Every single model's figures."""
    columns = {
        "Unlearn %": "forget",
        "Retain %": "retain",
        "Test %": "test",
        "FT AUC %": "ft_auc",
        "FR AUC %": "fr_auc",
        "RT AUC %": "rt_auc",
        "Loss AUC %": "loss_auc",
        "SVC %": "svc_confidence",
        "Robust %": "robust_accuracy",
    }
    rows = rows_of(results, "runs")
    columns = {title: key for title, key in columns.items() if any(row.get(key) is not None for row in rows)}
    header = ["Model", "Base", "Forget set", "Run", "Gap, pp", *columns, "Training, s"]
    return header, [
        [
            row["model"],
            *(str(row[key]) for key in ("base", "forget_set", "run")),
            points(row.get("gap")),
            *(percent(row.get(key)) for key in columns.values()),
            seconds(row.get("seconds")),
        ]
        for row in rows
    ]


def has_pool(results: Row) -> bool:
    """Whether the gap's AUC is RMIA's; otherwise it is the loss attack's."""
    return any("rmia_forget_vs_test" in model.get("attacks", {}) for model in results["models"].values())


def request_kind(kind: str) -> str:
    """Which model a request's neighbours come from, in words."""
    words = {"amun": "AMUN: original model", "amun_adaptive": "AMUN-A: current model"}
    return words.get(kind, kind)


def rows_of(results: Row, name: str) -> Sequence[Row]:
    """The rows of a table of results.json; none where it is absent."""
    return results.get("tables", {}).get(name) or ()


def by_name(rows: Iterable[Row], key: str = "model") -> dict[str, list[Row]]:
    """Rows by their model, or by another column."""
    found = defaultdict(list)
    for row in rows:
        found[row[key]].append(row)
    return dict(found)


def mean(rows: Iterable[Row], key: str) -> float | None:
    """The mean of a column over the rows that have it; None without any."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(values)) if values else None


def total_seconds(model: Row) -> float | None:
    """Of training and of what had to be made before it; None where training's are unknown."""
    if model.get("seconds") is None:
        return None
    return float(model["seconds"] + (model.get("preparation_seconds") or 0.0))


def points(value: Number) -> str:
    """A fraction in percentage points with two decimals."""
    if not _is_number(value):
        return MISSING
    return f"{round(100 * value, 2) + 0.0:.2f}"


def signed(value: Number) -> str:
    """A difference of fractions in signed percentage points."""
    if not _is_number(value):
        return MISSING
    text = points(abs(value))
    return text if text == "0.00" else f"{'−' if value < 0 else '+'}{text}"


def beneath(value: Number, deviation: Number, shown: Callable[[Number], str]) -> str:
    """`95.4 (± 0.2)`: pages set what is in parentheses in small print beneath; the mean alone without a spread."""
    text = shown(value)
    return text if deviation is None or text == MISSING else f"{text} (± {shown(deviation)})"


def _plain(text: str, deviation: Number, shown: Callable[[Number], str]) -> str:
    # No space at which a narrow terminal could fold it.
    return text if deviation is None or text == MISSING else f"{text}±{shown(deviation)}"


def _share(value: Number, whole: Number) -> str:
    if not (value and whole):
        return MISSING
    share = 100 * value / whole
    return f"{share:,.{0 if share >= 9.95 else 1}f}%"


def _digits(value: Number) -> str:
    """Three digits, and no exponent where a reader can do without."""
    if not _is_number(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _or_last(value: Number) -> float:
    return float(value) if _is_number(value) else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
