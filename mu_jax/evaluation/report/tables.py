"""Results as rows of strings, the same for the page and for the terminal. Rates stand in percent."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

REFERENCES = ("original", "retrain", "retrain_again")
MISSING = "–"

Table = tuple[list[str], list[list[str]]]
# JSON writes a whole number without a point.
Number = int | float | None


def comparison_table(results: Mapping[str, Any], compact: bool = False) -> Table:
    """Header and one row a model; `compact` leaves out what does not fit a terminal of 120 columns.

    The header names the unit, percent or percentage points (pp); after a rate at a fixed false-positive rate
    stands the number of false positives, after a method's time how many times faster than retraining it was.
    """
    models = results["models"]
    rate = shown_fpr(models)
    if compact:
        header = ["Model", "Retain %", "Forget %", "Test %", "Attack %", "AUC %"]
        header += [f"TPR@{100 * rate:g}% (FP)", "Gap pp", "Time s"]
    else:
        header = [
            "Model",
            "Retain %",
            "Forget %",
            "Test %",
            "Attack accuracy %",
            "Attack AUC %",
            "|AUC−50|",
        ]
        header += [f"TPR % at {100 * rate:g}% FPR (false positives)", "Gap to retrain, pp", "Time, s"]
        header += ["Examples trained"]
    retrain_seconds = models.get("retrain", {}).get("seconds")
    rows = []
    for name, model in models.items():
        loss, logistic = _attacks(model)
        accuracy, intervals = model.get("accuracy", {}), model.get("accuracy_interval", {})
        cells = {
            **{
                part: percent(accuracy.get(part), intervals.get(part))
                for part in ("retain", "forget", "test")
            },
            "attack": percent(logistic.get("accuracy"), logistic.get("interval", {}).get("accuracy")),
            "auc": percent(loss.get("auc"), loss.get("interval", {}).get("auc")),
            "distance": percent(loss.get("auc_distance")),
            "tpr": _operating_point(_at(loss, rate)),
            "gap": percent(model.get("gap_to_retrain")),
            "time": _time(model.get("seconds"), None if name in REFERENCES else retrain_seconds),
            "examples": count(model.get("trained_samples")),
        }
        if compact:
            del cells["distance"], cells["examples"]
            for part in ("retain", "forget", "test", "attack"):
                cells[part] = cells[part].partition(" [")[0]
        rows.append([name, *cells.values()])
    return header, rows


def operating_table(results: Mapping[str, Any]) -> Table:
    """The TPR of the loss-threshold attack, with its interval and count of false positives, at each FPR."""
    models = results["models"]
    rates = sorted({point["fpr"] for model in models.values() for point in _points(model)})
    header = ["Model", *(f"TPR % at {100 * rate:g}% FPR" for rate in rates)]
    rows = []
    for name, model in models.items():
        attack = _attacks(model)[0]
        rows.append([name, *(_operating_point(_at(attack, rate), with_interval=True) for rate in rates)])
    return header, rows


def gap_table(results: Mapping[str, Any]) -> Table:
    """The absolute differences from retraining whose mean is the gap, in percentage points."""
    parts = {"unlearn": "Forget", "retain": "Retain", "test": "Test", "forget_vs_test_auc": "Attack AUC"}
    header = ["Model", *(f"{title}, pp" for title in parts.values()), "Mean (gap), pp"]
    rows = [
        [
            name,
            *(percent(model.get("gap_parts", {}).get(part)) for part in parts),
            percent(model.get("gap_to_retrain")),
        ]
        for name, model in results["models"].items()
    ]
    return header, rows


def attack_table(results: Mapping[str, Any]) -> Table:
    """What else the two loss attacks give: accuracies, advantages, and the seconds of compiling."""
    header = [
        "Model",
        "Threshold accuracy %",
        "Best threshold %",
        "Threshold advantage, pp",
        "Logistic advantage, pp",
        "Logistic, SD over splits, pp",
        "Compile time, s",
    ]
    rows = []
    for name, model in results["models"].items():
        loss, logistic = _attacks(model)
        rows.append(
            [
                name,
                percent(loss.get("accuracy"), loss.get("interval", {}).get("accuracy")),
                percent(loss.get("best_accuracy")),
                percent(loss.get("advantage")),
                percent(logistic.get("advantage")),
                percent(logistic.get("split_accuracy_sd")),
                seconds(model.get("compile_seconds")),
            ]
        )
    return header, rows


def named_tables(results: Mapping[str, Any]) -> dict[str, Table]:
    """What `results["tables"]` lists, each a list of rows keyed by column."""
    tables = {}
    for title, rows in results.get("tables", {}).items():
        header = list(dict.fromkeys(key for row in rows for key in row))
        tables[title] = (header, [[_plain(row.get(key)) for key in header] for row in rows])
    return tables


def shown_fpr(models: Mapping[str, Any]) -> float:
    """The reported false-positive rate that is nearest to 1%, on a log scale; 1% where there is none."""
    rates = {point["fpr"] for model in models.values() for point in _points(model) if point["fpr"] > 0}
    return min(rates, key=lambda rate: abs(math.log(rate / 0.01)), default=0.01)


def percent(value: Number, bounds: Sequence[int | float] | None = None) -> str:
    """A fraction in percent with one decimal, and its interval: `57.9 [54.1, 61.6]`."""
    if not _is_number(value):
        return MISSING
    text = _decimal(100 * value)
    if bounds is None or not all(map(_is_number, bounds)):
        return text
    return f"{text} [{', '.join(_decimal(100 * bound) for bound in bounds)}]"


def seconds(value: Number) -> str:
    """Seconds with as many decimals as a reader can use."""
    if not _is_number(value):
        return MISSING
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def duration(value: float) -> str:
    """Seconds in the unit that a person would use: `41 s`, `3.4 min`, `12 min`, `2.5 h`."""
    if value < 119.5:
        return f"{value:.0f} s" if value >= 9.95 else f"{value:.1f} s"
    if value < 7170:
        minutes = value / 60
        return f"{minutes:.0f} min" if minutes >= 9.95 else f"{minutes:.1f} min"
    return f"{value / 3600:,.1f} h"


def count(value: Number) -> str:
    """A whole number with separators of thousands."""
    return f"{value:,.0f}" if _is_number(value) else MISSING


def _decimal(value: float) -> str:
    # Adding 0 turns the −0.0 that rounding leaves into 0.0.
    return f"{round(value, 1) + 0.0:.1f}"


def _time(value: Number, retrain: Number) -> str:
    if not (_is_number(value) and _is_number(retrain) and value > 0 and retrain > 0):
        return seconds(value)
    times = retrain / value
    shown = f"{times:.{1 if times < 9.95 else 0}f}" if times < 999.5 else ">999"
    return f"{seconds(value)} ({shown}×)"


def _operating_point(point: Mapping[str, Any] | None, with_interval: bool = False) -> str:
    if point is None:
        return MISSING
    interval = point.get("interval") if with_interval else None
    return f"{percent(point['tpr'], interval)} ({point['false_positives']})"


def _attacks(model: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    attacks = model.get("attacks", {})
    return attacks.get("loss_threshold", {}), attacks.get("loss_logistic", {})


def _points(model: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return _attacks(model)[0].get("tpr_at_fpr", [])


def _at(attack: Mapping[str, Any], rate: float) -> Mapping[str, Any] | None:
    return next((point for point in attack.get("tpr_at_fpr", []) if point["fpr"] == rate), None)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else MISSING
    return MISSING if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
