"""The ROC curve of a score and what is read off it, exact where scores tie.

An example is called a member when its score is at least the threshold. Scores may be ±inf, never NaN.
Everything here is a fraction in [0, 1] and computed in float64 from integer counts.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True)
class RocCurve:
    """One point for each distinct threshold, from calling nobody a member (inf) to calling everybody one."""

    fpr: Float[np.ndarray, "P"]
    tpr: Float[np.ndarray, "P"]
    thresholds: Float[np.ndarray, "P"]
    """Descending; the first is inf and calls nobody a member, even where a score is inf itself."""
    false_positives: Int[np.ndarray, "P"]
    true_positives: Int[np.ndarray, "P"]


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """One threshold of an attack, with the counts that say how much its rates can be trusted."""

    tpr: float
    fpr: float
    true_positives: int
    false_positives: int
    threshold: float


def checked(
    scores: Num[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """Float64 scores and boolean truth, or an InputError that says what is wrong with them."""
    score, member = np.asarray(scores, np.float64), checked_membership(is_member)
    if score.shape != member.shape:
        raise InputError(
            f"scores have shape {score.shape} and is_member {member.shape}, but expected two vectors of the "
            "same length; give one score and one truth for each example."
        )
    if np.any(np.isnan(score)):
        raise InputError(
            f"{np.sum(np.isnan(score))} of {score.size} scores are NaN, but expected numbers; find the model "
            "or attack that diverged."
        )
    return score, member


def checked_membership(is_member: Bool[Array | np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """A boolean vector with at least one member and one non-member, or an InputError."""
    member = np.asarray(is_member)
    if member.dtype != bool or member.ndim != 1:
        raise InputError(
            f"is_member has dtype {member.dtype} and shape {member.shape}, but expected a boolean vector; "
            "convert labels with `labels == 1`."
        )
    if member.all() or not member.any():
        raise InputError(
            f"is_member has {member.sum()} members and {np.sum(~member)} non-members, but expected at least "
            "one of each; an attack is judged by telling the two apart."
        )
    return member


def roc_curve(scores: Num[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]) -> RocCurve:
    """The exact ROC curve: examples whose scores tie cross the threshold together.

    >>> roc_curve(np.array([2.0, 1.0, 1.0]), np.array([True, True, False])).tpr
    array([0. , 0.5, 1. ])
    """
    score, member = checked(scores, is_member)
    thresholds, group = np.unique(score, return_inverse=True)
    true, false = (
        np.append(0, np.cumsum(np.bincount(group[side], minlength=thresholds.size)[::-1]))
        for side in (member, ~member)
    )
    return RocCurve(false / false[-1], true / true[-1], np.append(np.inf, thresholds[::-1]), false, true)


def auc(scores: Num[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]) -> float:
    """The probability that a member scores above a non-member, ties counting ½ (Mann and Whitney, 1947)."""
    curve = roc_curve(scores, is_member)
    false, true = curve.false_positives, curve.true_positives
    # Twice the area in whole pairs, so that a perfect attack is 1 and not 1 − 2⁻⁵³.
    doubled = np.sum(np.diff(false) * (true[1:] + true[:-1]))
    return float(doubled / (2 * int(false[-1]) * int(true[-1])))


def operating_point(
    scores: Num[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"], fpr: float
) -> OperatingPoint:
    """The threshold of the largest TPR among those whose FPR is at most `fpr`.

    Some implementations take the FPR *nearest* to the one asked for, which may exceed it. Of 1,000
    non-members, an FPR of 0.1% allows one false positive: read the count before the rate.
    """
    if not 0 <= fpr <= 1:
        raise InputError(f"fpr is {fpr}, but expected a rate in [0, 1]; 0.01 is a common choice.")
    curve = roc_curve(scores, is_member)
    # Counts divided, not fpr multiplied: 0.29 · 100 falls below 29 in floating point.
    last = np.searchsorted(curve.fpr, fpr, side="right") - 1
    # Of the thresholds that find as many members, the one that calls the fewest others.
    best = np.searchsorted(curve.true_positives, curve.true_positives[last], side="left")
    return OperatingPoint(
        tpr=float(curve.tpr[best]),
        fpr=float(curve.fpr[best]),
        true_positives=int(curve.true_positives[best]),
        false_positives=int(curve.false_positives[best]),
        threshold=float(curve.thresholds[best]),
    )


def tpr_at_fpr(
    scores: Num[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"], fpr: float
) -> float:
    """The largest TPR whose FPR is at most `fpr`, and 0 where none is."""
    return operating_point(scores, is_member, fpr).tpr


def rates(
    predicted: Bool[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]
) -> tuple[float, float]:
    """TPR and FPR of a decision."""
    call, member = np.asarray(predicted), checked_membership(is_member)
    if call.dtype != bool or call.shape != member.shape:
        raise InputError(
            f"predicted has dtype {call.dtype} and shape {call.shape}, but expected booleans of shape "
            f"{member.shape}; compare scores with a threshold first."
        )
    return float(np.mean(call[member])), float(np.mean(call[~member]))


def advantage(predicted: Bool[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]) -> float:
    """TPR − FPR of a decision, in [−1, 1]: 0 is a guess (Yeom et al., 2018)."""
    tpr, fpr = rates(predicted, is_member)
    return tpr - fpr


def balanced_accuracy(
    predicted: Bool[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]
) -> float:
    """The mean of TPR and 1 − FPR: accuracy as if members and non-members were equally many."""
    tpr, fpr = rates(predicted, is_member)
    return (tpr + 1 - fpr) / 2


def best_balanced_accuracy(
    scores: Num[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]
) -> float:
    """The balanced accuracy of the best threshold, at least ½.

    Optimistic: the threshold is picked on the labels it is judged by, so even pure noise lies above ½ (by
    about 0.44/√n on average for n members and n non-members). `mu_jax.evaluation.thresholds` gives an honest
    one.
    """
    curve = roc_curve(scores, is_member)
    return float(np.max(curve.tpr - curve.fpr) + 1) / 2
