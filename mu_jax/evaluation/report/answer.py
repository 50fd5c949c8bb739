"""The answer in words: does each method hide what was forgotten as well as retraining, and at what cost?"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from mu_jax.evaluation.intervals import FEW_EXAMPLES
from mu_jax.evaluation.report.report_data import ReportData
from mu_jax.evaluation.report.tables import REFERENCES, percent, seconds


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two AUCs and its confidence interval, as fractions."""

    value: float
    low: float
    high: float

    @property
    def found(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """A verdict of a few words on one method, the sentence with the figures, and what qualifies it."""

    method: str
    verdict: str
    sentence: str
    details: tuple[str, ...]


def auc_difference(
    members: Float[np.ndarray, "F"],
    nonmembers: Float[np.ndarray, "T"],
    reference_members: Float[np.ndarray, "F"],
    reference_nonmembers: Float[np.ndarray, "T"],
    *,
    level: float,
) -> Difference:
    """AUC minus the reference's on the same examples, with the interval of DeLong et al. (Biometrics, 1988).

    Both models score the same examples, so their AUCs move together and two separate intervals would say too
    little. An example's placement is the share of the other side that it beats, ties counting one half; the
    variance is that of the placements' differences. The models are held fixed: the chance of training is not
    in it.
    """
    placed, reference = _placements(members, nonmembers), _placements(reference_members, reference_nonmembers)
    sides = [mine - theirs for mine, theirs in zip(placed, reference, strict=True)]
    value = float(sides[0].mean())
    # The variance of a handful of placements is itself a guess: on null scores it would find a difference in 27% of
    # pairs at F = 2 and in 11% at F = 5, where 5% are due.
    if min(side.size for side in sides) < FEW_EXAMPLES:
        return Difference(value, -1.0, 1.0)
    half = float(ndtri((1 + level) / 2) * np.sqrt(sum(side.var(ddof=1) / side.size for side in sides)))
    return Difference(value, max(value - half, -1.0), min(value + half, 1.0))


def _placements(
    members: Float[np.ndarray, "F"], nonmembers: Float[np.ndarray, "T"]
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "T"]]:
    def beaten(mine: Float[np.ndarray, "M"], theirs: Float[np.ndarray, "N"]) -> Float[np.ndarray, "M"]:
        ordered = np.sort(theirs)
        below, not_above = (np.searchsorted(ordered, mine, side) for side in ("left", "right"))
        return (below + not_above) / (2 * ordered.size)

    return beaten(members, nonmembers), 1 - beaten(nonmembers, members)


def answers(data: ReportData) -> list[Answer]:
    """One answer for each method, in the order of the results."""
    return [_answer(data, name) for name in data.results["models"] if name not in REFERENCES]


def _answer(data: ReportData, method: str) -> Answer:
    models = data.results["models"]
    auc = _auc(models[method])
    sentence = f"After {method}, the loss attack tells forgotten from unseen images with AUC {auc}"
    others = [f"the original model {_auc(models['original'])}"] if "original" in models else []
    if "retrain" in models:
        others.insert(0, f"retraining gives {_auc(models['retrain'])}")
    sentence += f"; {', '.join(others)}." if others else "."
    verdict, comparison = _verdict(data, method)
    details = (comparison, _noise_floor(models, method), _cost(models, method))
    return Answer(method, verdict, sentence, tuple(detail for detail in details if detail))


def _verdict(data: ReportData, method: str) -> tuple[str, str]:
    difference = _from_retrain(data, method)
    if difference is None:
        return "No verdict", "There is no retrained model to compare with."
    original, again = _from_retrain(data, "original"), _from_retrain(data, "retrain_again")
    forgotten, unseen = data.member_scores[method].size, data.nonmember_scores[method].size
    figures = f"{_points(difference.value)} points {_points_interval(difference)}"
    if difference.found and again is not None and abs(again.value) >= abs(difference.value):
        return (
            "Within the noise of retraining",
            f"Its AUC differs from retraining's by {figures}, but that of the second retraining does by "
            f"{_points(again.value)} points: other random numbers alone explain as much.",
        )
    if difference.found and difference.value > 0:
        return (
            "Still leaks",
            f"That is {figures} above retraining: the attack finds more of what was forgotten than it "
            "should.",
        )
    if difference.found:
        return (
            "Leaves another trace",
            f"That is {figures} from retraining, which makes the forgotten images look less familiar than a "
            "model that never saw them finds them, and gives them away as well.",
        )
    cannot = (
        f"Its difference from retraining, {figures}, cannot be told from zero with {forgotten:,} forgotten "
        f"and {unseen:,} unseen images"
    )
    if original is not None and not original.found:
        return (
            "No verdict",
            f"{cannot}; but neither can the original model's ({_points(original.value)} points "
            f"{_points_interval(original)}), so this attack sees no leak here that a method could close.",
        )
    return "Not told apart from retraining by this attack", f"{cannot}; a smaller leak may remain."


def _from_retrain(data: ReportData, name: str) -> Difference | None:
    if not {name, "retrain"} <= data.member_scores.keys():
        return None
    (members, nonmembers), reference = (
        (data.member_scores[model].astype(np.float64), data.nonmember_scores[model].astype(np.float64))
        for model in (name, "retrain")
    )
    return auc_difference(members, nonmembers, *reference, level=interval_level(data.results))


def _noise_floor(models: dict, method: str) -> str:
    gap, floor = (models.get(name, {}).get("gap_to_retrain") for name in (method, "retrain_again"))
    if gap is None or floor is None:
        return ""
    start = f"Over accuracies and AUC together, its gap to retraining is {percent(gap)} points"
    if gap <= floor:
        return (
            f"{start}, no more than the {percent(floor)} points between two retrainings, so nothing in it "
            "shows the method to be worse than retraining."
        )
    return f"{start}, more than the {percent(floor)} points between two retrainings."


def _cost(models: dict, method: str) -> str:
    if "retrain" not in models:
        return ""
    mine, retrain = models[method], models["retrain"]
    cost = mine["accuracy"]["test"] - retrain["accuracy"]["test"]
    size, side = percent(abs(cost)), "above" if cost > 0 else "below"
    text = f"Its test accuracy is {size} points {side} retraining's"
    if size == "0.0":
        text = "Its test accuracy equals retraining's"
    if not (mine.get("seconds") and retrain.get("seconds")):
        return text + "."
    share = 100 * mine["seconds"] / retrain["seconds"]
    shown = f"{share:.0f}" if share >= 1 else f"{share:.2g}"
    times = f"{seconds(mine['seconds'])} of {seconds(retrain['seconds'])} s"
    return f"{text}, and it took {shown}% of the time of retraining ({times})."


def interval_level(results: dict) -> float:
    """The coverage of the results' intervals; 0.95 where none says."""
    for model in results["models"].values():
        for attack in model.get("attacks", {}).values():
            if "level" in attack.get("interval", {}):
                return attack["interval"]["level"]
    return 0.95


def _auc(model: dict) -> str:
    attack = model.get("attacks", {}).get("loss_threshold", {})
    text = percent(attack.get("auc"), attack.get("interval", {}).get("auc"))
    value, _, bounds = text.partition(" ")
    return f"{value}% {bounds}".strip()


def _points(value: float) -> str:
    rounded = round(100 * value, 1) + 0.0
    return f"{'−' if rounded < 0 else '+'}{abs(rounded):.1f}"


def _points_interval(difference: Difference) -> str:
    return f"[{_points(difference.low)}, {_points(difference.high)}]"
