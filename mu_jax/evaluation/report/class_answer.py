"""The answer of class unlearning in words: who is nearest to retraining, and how near that is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mu_jax.evaluation.report.class_remarks import alarms
from mu_jax.evaluation.report.class_tables import known, listed, methods_by_rank, short_name, signed_decimal
from mu_jax.evaluation.report.methods_tables import points
from mu_jax.evaluation.report.tables import percent

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A distance to retraining: 0 is best."""

    name: str
    what: str
    """is measured, as a sentence has it before the figure"""
    value: Callable[[Row], float | None]
    spread: Callable[[Row], float | None]
    shown: Callable[[float], str]


def ulira_distance(model: Row) -> float | None:
    """|AUC − ½|, of several classes the mean of theirs: an AUC below ½ gives as much away as one above."""
    attack = _attack(model, "ulira")
    if known(attack.get("auc_distance")) is not None:
        return known(attack["auc_distance"])
    auc = known(attack.get("auc"))
    return None if auc is None else abs(auc - 0.5)


MEASURES = (
    Measure(
        "MIA-NN",
        "a leak of",
        lambda model: known(_attack(model, "mia_nn").get("leak")),
        lambda model: known(_attack(model, "mia_nn").get("leak_sd")),
        lambda value: f"{points(value)} points",
    ),
    Measure(
        "U-LiRA",
        "|AUC − 50%| of",
        ulira_distance,
        # Its interval is of the AUC; of the distance there is none.
        lambda model: None,
        lambda value: f"{points(value)} points",
    ),
    Measure(
        "total variation",
        "a distance of",
        lambda model: known(model.get("total_variation")),
        lambda model: known(model.get("total_variation_sd")),
        lambda value: f"{percent(value)}%",
    ),
)
"""The three that the ranks are of."""


def verdict(results: Row) -> str:
    """Which method is best over all, in one line, or why none is named."""
    models = results["models"]
    ranked = [name for name in methods_by_rank(models) if known(models[name].get("rank")) is not None]
    if not ranked:
        return "No method could be compared with retraining"
    if set(alarms(results, "original").values()) == {False}:
        return (
            "No verdict: the attacks do not even tell the originals from retrained models, so nothing follows "
            "from what they say of the methods"
        )
    least = models[ranked[0]]["rank"]
    best = [name for name in ranked if models[name]["rank"] == least]
    among = f"among {len(ranked)} methods" if len(ranked) > 1 else "of one method"
    comes = "comes" if len(best) == 1 else "come"
    return f"{listed(best)} {comes} nearest to retraining: mean rank {least:.2f} {among}"


def sentences(results: Row) -> list[str]:
    """The answer, computed from the figures: nearest methods, TRW, the floor, and the alarm on the originals."""
    found = [_nearest(results), _tilted(results), _floor(results), _alarm(results)]
    return [sentence for sentence in found if sentence]


def _nearest(results: Row) -> str:
    models = results["models"]
    parts = []
    for measure in MEASURES:
        ranked = _by(models, measure, methods_by_rank(models))
        if not ranked:
            continue
        best = _shown(models, measure, ranked[0])
        text = f"under {measure.name} {short_name(ranked[0], 40)}, with {measure.what} {best}"
        if len(ranked) > 1:
            text += f", then {short_name(ranked[1], 40)}, with {_shown(models, measure, ranked[1])}"
            spreads = [measure.spread(models[name]) for name in ranked[:2]]
            apart = measure.value(models[ranked[1]]) - measure.value(models[ranked[0]])
            if None not in spreads and apart < max(spreads):
                text += " (less than a standard deviation apart)"
        parts.append(text)
    return f"Nearest to retraining: {'; '.join(parts)}" if parts else ""


def _tilted(results: Row) -> str:
    models = results["models"]
    names = methods_by_rank(models)
    mine = [name for name in names if name.partition(":")[0] == "trw"]
    others = [name for name in names if name not in mine]
    parts, several = [], len(mine) > 1
    if not mine:
        return ""
    for measure in MEASURES:
        ranked = _by(models, measure, others)
        value = measure.value(models[mine[0]])
        if not ranked or value is None:
            continue
        best = measure.value(models[ranked[0]])
        text = f"{measure.name} {measure.shown(value)} against {measure.shown(best)} of {short_name(ranked[0], 40)}"
        parts.append(f"{text} ({_compared(value, best)})")
    if not parts:
        return ""
    whose = f"Tilted ReWeighting ({mine[0]}" + (
        f", the best of {len(mine)} settings by these very figures, which flatters it)" if several else ")"
    )
    return f"{whose} beside the best other row: {'; '.join(parts)}"


def _compared(value: float, other: float) -> str:
    if value == other:
        return "the same"
    if other == 0:
        return "more"
    share = 100 * (value - other) / other
    return f"{abs(share):,.0f}% {'more' if share > 0 else 'less'}"


def _floor(results: Row) -> str:
    models = results["models"]
    retrain = models.get("retrain", {})
    known_ones = [(measure, floor) for measure in MEASURES if (floor := measure.value(retrain)) is not None]
    if not known_ones:
        return "The retrained models have no figures, so nobody knows the floor that no method can beat"
    floors = listed([f"{measure.shown(floor)} under {measure.name}" for measure, floor in known_ones])
    within = []
    for measure, floor in known_ones:
        names = [name for name in methods_by_rank(models) if _at_most(measure.value(models[name]), floor)]
        if names:
            within.append(f"{listed(names)} under {measure.name}")
    if len(known_ones) < len(MEASURES):
        lacking = listed([measure.name for measure in MEASURES if measure.value(retrain) is None])
        floors += f" (too few models for one under {lacking})"
    ends = f"within it {'; '.join(within)}" if within else "every method is above it"
    return f"Retrained models differ among themselves by {floors}: the noise floor that no method can beat; {ends}"


def _alarm(results: Row) -> str:
    original = results["models"].get("original", {})
    if not original.get("n"):
        return ""
    words = {True: "sounds", False: "is silent", None: "cannot be judged"}
    z, leak = (known(_attack(original, "mia_nn").get(key)) for key in ("z", "leak"))
    auc = known(_attack(original, "ulira").get("auc"))
    figures = {
        "MIA-NN": "no figure"
        if leak is None
        else f"a leak of {points(leak)} points"
        + ("" if z is None else f", {signed_decimal(z, 1)} sd of retrained models"),
        "U-LiRA": "no figure" if auc is None else f"an AUC of {percent(auc)}%",
    }
    found = alarms(results, "original")
    parts = [f"{name} {words[sounds]} ({figures[name]})" for name, sounds in found.items()]
    text = f"On the originals, which still know the class, {' and '.join(parts)}"
    if False in found.values():
        text += "; a small figure under a silent attack is no sign of forgetting at this size"
    return text


def _by(models: Row, measure: Measure, names: Sequence[str]) -> list[str]:
    values = {name: measure.value(models[name]) for name in names}
    return sorted((name for name in names if values[name] is not None), key=lambda name: values[name])


def _shown(models: Row, measure: Measure, name: str) -> str:
    return measure.shown(measure.value(models[name]))


def _at_most(value: float | None, floor: float) -> bool:
    return value is not None and value <= floor


def _attack(model: Row, name: str) -> Row:
    return (model.get("attacks") or {}).get(name) or {}
