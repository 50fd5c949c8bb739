"""Class unlearning as rows of strings, the same for the page and for the terminal.

Rates stand in percent with one decimal; leaks and gaps, which lie close together, in percentage points with two.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mu_jax.evaluation.report.methods_tables import beneath, points
from mu_jax.evaluation.report.palette import Style, model_styles
from mu_jax.evaluation.report.tables import MISSING, Number, Table, count, percent, seconds

Row = Mapping[str, Any]

PARTS = {
    "retain": "Retained classes, training %",
    "test": "Retained classes, test %",
    "forget": "Forgotten class, training %",
    "test_forget": "Forgotten class, test %",
}
"""The accuracies, as results.json and as a reader calls them."""

GAP_PARTS = {
    "retain": "Retained classes, training",
    "unlearn": "Forgotten class, training",
    "test": "Retained classes, test",
    "forget_vs_test_auc": "Loss attack's AUC",
}
"""What the gap to retraining is the mean of."""

KINDS = {
    "retrain": "retrained without the class",
    "tilted": "Tilted ReWeighting",
    "other": "other methods",
    "original": "original",
}
"""What kind of model a row is, and what a legend calls it."""


def kind_of(name: str) -> str:
    """`retrain`, `original`, `tilted` for TRW whatever its settings, and `other`."""
    if name in ("retrain", "original"):
        return name
    return "tilted" if name.partition(":")[0] in ("trw", "trw_head") else "other"


def row_styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour a kind: there are too many rows for one each, and every figure names them."""
    styles = model_styles(KINDS)
    return {name: styles[kind_of(name)] for name in names}


def methods_by_rank(models: Row) -> list[str]:
    """The methods, best mean rank first, and those without one last in the order of the results."""
    names = [name for name in models if name not in ("retrain", "original")]
    return sorted(names, key=lambda name: _or_last(models[name].get("rank")))


def in_order(models: Row) -> list[str]:
    """As every table and figure lists them: retrained models, the methods by rank, and the original last."""
    first, last = ([name] if name in models else [] for name in ("retrain", "original"))
    return first + methods_by_rank(models) + last


def class_rows(results: Row, label: int) -> dict[str, Row]:
    """What `tables.classes` has of a forgotten class, by model and in the order of `in_order`."""
    found = {row["model"]: row for row in results["tables"]["classes"] if row["class"] == label}
    return {name: found[name] for name in in_order(results["models"]) if name in found}


def main_table(results: Row, compact: bool = False) -> Table:
    """A row a model: how near it is to retraining, and what is left of its accuracy.

    `compact` is for a terminal of 120 columns: no standard deviations and no intervals.
    """
    models = results["models"]
    if compact:
        header = [
            "Model",
            "Retain %",
            "Test %",
            "Forget %",
            "MIA-NN %",
            "Leak pp",
            "U-LiRA %",
            "TV %",
            "Time s",
        ]
    else:
        header = [
            "Model",
            "Mean rank",
            "Retained classes, test %",
            "Forgotten class, test %",
            "MIA-NN accuracy %",
        ]
        header += ["MIA-NN leak, pp", "in sd of retrained", "U-LiRA AUC %", "Total variation %", "KL, nats"]
        header += ["Gap to retrain, pp", "Time, s"]
    rows = []
    for name in in_order(models):
        model = models[name]
        accuracy, deviation = model.get("accuracy") or {}, model.get("accuracy_sd") or {}
        nearest, ulira = (model.get("attacks", {}).get(attack) or {} for attack in ("mia_nn", "ulira"))
        leak, variation = nearest.get("leak"), model.get("total_variation")
        if compact:
            cells = [percent(accuracy.get(part)) for part in ("retain", "test", "forget")]
            cells += [percent(nearest.get("accuracy")), points(leak), percent(ulira.get("auc"))]
            cells += [percent(variation), seconds(model.get("seconds"))]
        else:
            cells = [_decimal(model.get("rank"), 2)]
            cells += [
                beneath(accuracy.get(part), deviation.get(part), percent) for part in ("test", "test_forget")
            ]
            cells += [percent(nearest.get("accuracy")), beneath(leak, nearest.get("leak_sd"), points)]
            cells += [signed_decimal(nearest.get("z"), 1), percent(ulira.get("auc"), ulira.get("interval"))]
            cells.append(beneath(variation, model.get("total_variation_sd"), percent))
            cells += [_decimal(model.get("kl"), 3), points(model.get("gap_to_retrain"))]
            cells.append(seconds(model.get("seconds")))
        rows.append([short_name(name, 40) if compact else name, *cells])
    return header, rows


def accuracy_table(results: Row) -> Table:
    """A row a model: accuracies on both kinds of classes, mean and deviation, and the gap's parts."""
    header = ["Model", *PARTS.values(), "Loss attack's AUC %"]
    header += [f"Gap: {title[0].lower()}{title[1:]}, pp" for title in GAP_PARTS.values()]
    header += ["Examples trained"]
    rows = []
    for name in in_order(results["models"]):
        model = results["models"][name]
        accuracy, deviation = model.get("accuracy") or {}, model.get("accuracy_sd") or {}
        loss, parts = model.get("attacks", {}).get("loss_threshold") or {}, model.get("gap_parts") or {}
        cells = [beneath(accuracy.get(part), deviation.get(part), percent) for part in PARTS]
        cells += [percent(loss.get("auc")), *(points(parts.get(part)) for part in GAP_PARTS)]
        rows.append([name, *cells, count(model.get("trained_samples"))])
    return header, rows


def classes_table(results: Row) -> Table:
    """A row a forgotten class and model: all that was measured of the class's images, beside retrained models'."""
    header = [
        "Model",
        "Forgotten",
        "Nearest",
        "Models",
        "Retained classes, test %",
        "Forgotten class, test %",
    ]
    header += ["MIA-NN accuracy %", "of retrained %", "MIA-NN leak, pp", "in sd of retrained"]
    header += ["U-LiRA AUC %", "U-LiRA accuracy %", "Total variation %", "KL, nats"]
    rows = []
    for label in results["study"]["classes"]:
        for name, row in class_rows(results, label).items():
            accuracy, deviation = row.get("accuracy") or {}, row.get("accuracy_sd") or {}
            rows.append(
                [
                    name,
                    row["class_name"],
                    row["nearest_name"],
                    count(row["models"]),
                    *(
                        beneath(accuracy.get(part), deviation.get(part), percent)
                        for part in ("test", "test_forget")
                    ),
                    beneath(row.get("mia_nn_accuracy"), row.get("mia_nn_accuracy_sd"), percent),
                    beneath(row.get("mia_nn_retrain"), row.get("mia_nn_retrain_sd"), percent),
                    points(row.get("mia_nn_leak")),
                    signed_decimal(row.get("mia_nn_z"), 1),
                    percent(row.get("ulira_auc"), row.get("ulira_interval")),
                    percent(row.get("ulira_accuracy")),
                    beneath(row.get("total_variation"), row.get("total_variation_sd"), percent),
                    _decimal(row.get("kl"), 3),
                ]
            )
    return header, rows


def runs_table(results: Row) -> Table:
    """Every model by itself, in the order of `in_order`."""
    header = ["Model", "Forgotten", "Number", *PARTS.values(), "MIA-NN accuracy %", "MIA-NN leak, pp"]
    header += ["Total variation %", "Time, s", "Examples trained"]
    names = results["data"]["class_names"]
    place = {name: i for i, name in enumerate(in_order(results["models"]))}
    rows = []
    for row in sorted(
        results["tables"]["runs"], key=lambda row: (place.get(row["model"], len(place)), row["class"])
    ):
        accuracy = row.get("accuracy") or {}
        lost = row.get("diverged_step")
        rows.append(
            [
                row["model"] if lost is None else f"{row['model']}: diverged at step {lost:,}",
                names[row["class"]],
                str(row["number"]),
                *(percent(accuracy.get(part)) for part in PARTS),
                percent(row.get("mia_nn_accuracy")),
                points(row.get("mia_nn_leak")),
                percent(row.get("total_variation")),
                seconds(row.get("seconds")),
                count(row.get("trained_samples")),
            ]
        )
    return header, rows


def short_name(name: str, length: int) -> str:
    """A row's name cut in the middle: rows with settings of their own differ at the end."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}…{name[len(name) - tail :]}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def known(value: Number) -> float | None:
    """The number, or None where it could not be computed."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def signed_decimal(value: Number, digits: int) -> str:
    """`+2.5`, `−2.5`."""
    text = _decimal(value, digits)
    return text if text == MISSING else f"{'−' if text.startswith('-') else '+'}{text.removeprefix('-')}"


def _decimal(value: Number, digits: int) -> str:
    return MISSING if known(value) is None else f"{round(value, digits) + 0.0:.{digits}f}"


def _or_last(value: Number) -> float:
    return math.inf if known(value) is None else float(value)
