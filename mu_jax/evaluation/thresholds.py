"""Decisions whose threshold was not picked on the labels they are judged by."""

import numpy as np
from jaxtyping import Array, Bool, Num

from mu_jax.config import InputError
from mu_jax.evaluation.roc import checked, roc_curve


def best_threshold(scores: Num[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"]) -> float:
    """The threshold of the largest balanced accuracy, half-way to the next lower score.

    The midpoint makes it fit scores not yet seen. Of several that are as good, the highest: it calls the
    fewest examples members. It may be inf (nobody) or −inf (everybody).
    """
    curve = roc_curve(scores, is_member)
    best = int(np.argmax(curve.tpr - curve.fpr))
    if best == 0:
        return np.inf
    if best == curve.thresholds.size - 1:
        return -np.inf
    upper, lower = curve.thresholds[best], curve.thresholds[best + 1]
    largest = np.finfo(np.float64).max
    middle = max(lower, -largest) / 2 + min(upper, largest) / 2  # halves first: the sum may overflow
    return float(middle if middle > lower else upper)


def cross_fitted_decisions(
    scores: Num[Array | np.ndarray, "N"],
    is_member: Bool[Array | np.ndarray, "N"],
    *,
    folds: int = 2,
    seed: int = 0,
) -> Bool[np.ndarray, "N"]:
    """Whom the attack calls a member, each example by the best threshold of the folds it is not in.

    Members and non-members are dealt to the folds separately, at random by the seed, so every fold has its
    share of both. The balanced accuracy of these decisions is honest: its mean is ½ for scores that know
    nothing.
    """
    score, member = checked(scores, is_member)
    smaller = int(min(member.sum(), np.sum(~member)))
    if not 2 <= folds <= smaller:
        raise InputError(
            f"folds is {folds} for {member.sum()} members and {np.sum(~member)} non-members, but expected 2 "
            "to as many as the smaller class has examples; use 2, or give more examples."
        )
    rng = np.random.default_rng(seed)
    fold = np.empty(score.size, np.int64)
    for side in (member, ~member):
        fold[side] = rng.permutation(np.arange(side.sum()) % folds)
    predicted = np.empty(score.size, bool)
    for k in range(folds):
        here = fold == k
        threshold = best_threshold(score[~here], member[~here])
        # Calling nobody is the curve's first point, also where a score is infinite.
        predicted[here] = (score[here] >= threshold) if threshold < np.inf else False
    return predicted
