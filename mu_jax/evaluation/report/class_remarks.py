"""What must be known before the figures of class unlearning are believed, and whether its attacks have power."""

from collections.abc import Mapping
from typing import Any

from scipy.stats import t as student_t

from mu_jax.evaluation.report.class_tables import class_rows, known, listed, methods_by_rank
from mu_jax.evaluation.report.tables import percent

Row = Mapping[str, Any]

_FEW = 8
# Of the forgotten class's test images, and in test accuracy beside retraining.
_STILL_KNOWN, _LOST = 0.05, 0.05


def remarks(results: Row) -> list[str]:
    """What must be known before the figures are believed, a sentence each."""
    study, models = results["study"], results["models"]
    found = []
    if study["models"] < _FEW:
        found.append(
            f"each side has {study['models']} models only: standard deviations, leaks in units of them and intervals "
            "are rough, and rows that differ by less than theirs are not told apart"
        )
    found += _lost(results)
    broken = [
        row["class_name"]
        for label in study["classes"]
        if _excludes_half(row := class_rows(results, label).get("retrain", {}))
    ]
    if broken:
        found.append(
            f"the null fails for {listed(broken)}: U-LiRA's interval of the retrained models themselves leaves out "
            "50%, so that there an AUC is no evidence against a method"
        )
    found += _methods_remarks(models)
    return found


def alarms(results: Row, name: str) -> dict[str, bool | None]:
    """Whether each attack tells a row's models from retrained ones; None where it cannot be said.

    True where it does for every class that has figures: MIA-NN by |z| above `alarm_limit`, U-LiRA by an interval that
    leaves out ½.
    """
    found: dict[str, list[bool]] = {"MIA-NN": [], "U-LiRA": []}
    for label in results["study"]["classes"]:
        rows = class_rows(results, label)
        row = rows.get(name, {})
        z, retrained = known(row.get("mia_nn_z")), rows.get("retrain", {}).get("models", 0)
        if z is not None and retrained > 1:
            found["MIA-NN"].append(abs(z) > alarm_limit(retrained, results["study"]["interval_level"]))
        if row.get("ulira_interval") is not None:
            found["U-LiRA"].append(_excludes_half(row))
    return {attack: all(sounds) if sounds else None for attack, sounds in found.items()}


def alarm_limit(retrained: int, level: float) -> float:
    """What |z| of one more model, by R retrained ones' mean and deviation, exceeds with probability 1 − level.

    z/√(1 + 1/R) is Student's t with R − 1 degrees of freedom. A row's z is a mean over models, which varies less.
    """
    return float(student_t.ppf(0.5 + level / 2, retrained - 1) * (1 + 1 / retrained) ** 0.5)


def _excludes_half(row: Row) -> bool:
    interval = row.get("ulira_interval")
    return interval is not None and not interval[0] <= 0.5 <= interval[1]


def _lost(results: Row) -> list[str]:
    """Which rows lack models or classes."""
    models, classes = results["models"], len(results["study"]["classes"])
    counts = {name: _diverged(results, name) for name in models}
    texts = {
        "diverged, and left out": [
            f"{lost} of {made} models of {name}" for name, (lost, made) in counts.items() if lost
        ],
        "no figures, because too few models came through": [
            name for name, model in models.items() if not model.get("n")
        ],
        "figures of some classes only": [
            f"{name} ({model['n']} of {classes})"
            for name, model in models.items()
            if 0 < model.get("n", 0) < classes
        ],
    }
    found = [f"{text}: {listed(names)}" for text, names in texts.items() if names]
    if counts.get("original", (0, 0))[0]:
        found.append("of an original that diverged no method has a model")
    return found


def _diverged(results: Row, name: str) -> tuple[int, int]:
    """How many of a row's models diverged, and how many there were to be made."""
    models, classes = results["study"]["models"], len(results["study"]["classes"])
    if name != "original":
        return results["models"][name].get("diverged") or 0, models * classes
    # An original serves all classes, and stands under each.
    runs = [row for row in results["tables"]["runs"] if row["model"] == name]
    return len({row["number"] for row in runs if row.get("diverged_step") is not None}), models


def _methods_remarks(models: Row) -> list[str]:
    """Rows whose distances mean less than they seem to: the class is still known, or accuracy is gone."""
    retrain = known((models.get("retrain", {}).get("accuracy") or {}).get("test"))
    still, poorer = [], []
    for name in methods_by_rank(models):
        accuracy = models[name].get("accuracy") or {}
        forgotten, test = known(accuracy.get("test_forget")), known(accuracy.get("test"))
        if forgotten is not None and forgotten > _STILL_KNOWN:
            still.append(f"{name} ({percent(forgotten)}%)")
        if test is not None and retrain is not None and test < retrain - _LOST:
            poorer.append(f"{name} ({percent(test)}% against {percent(retrain)}%)")
    found = []
    if still:
        found.append(f"not forgotten, in more than 5% of the class's test images: {listed(still)}")
    if poorer:
        found.append(
            f"more than 5 points of test accuracy on retained classes below retraining: {listed(poorer)}"
        )
    return found
