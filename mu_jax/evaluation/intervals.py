"""How far a measured rate may lie from the attack's or the model's true one: confidence intervals.

Examples are the unit of chance, members and non-members each a sample of their own; the models are held
fixed. Bootstrap intervals are stratified percentile intervals, and widen where resampling cannot see: no
resample of a perfect score is less than perfect, though the next example may well be.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num
from scipy.special import ndtri

from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc, checked, operating_point, rates

BLOCK_ELEMENTS = 2**20
"""Resampled counts held at a time; 8 MiB an array fits in a core's cache better than all resamples would."""

FEW_EXAMPLES = 10
"""On either side; below it, a bootstrap of the AUC is too narrow to stand alone."""


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


class RocIntervals(NamedTuple):
    """Intervals that share their resamples."""

    auc: Interval
    tpr_at_fpr: tuple[Interval, ...]


def proportion_interval(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson, 1927), such as a classifier's accuracy.

    >>> low, high = proportion_interval(20, 20)
    >>> round(low, 3), high
    (0.839, 1.0)
    """
    if total < 1 or not 0 <= successes <= total:
        raise InputError(
            f"{successes} successes of {total} were given, but expected 0 to `total` of at least 1; count "
            "them over the same examples."
        )
    return _wilson(successes / total, total, level)


def accuracy_interval(correct: Bool[Array | np.ndarray, "N"], *, level: float = 0.95) -> Interval:
    """Wilson's interval of the share of right answers over N independent examples."""
    answers = np.asarray(correct)
    return proportion_interval(int(answers.sum()), answers.size, level=level)


def balanced_accuracy_interval(
    predicted: Bool[Array | np.ndarray, "N"], is_member: Bool[Array | np.ndarray, "N"], *, level: float = 0.95
) -> Interval:
    """The interval of ½(TPR + 1 − FPR): Wilson's of either rate, their half-widths added in squares.

    Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10; also
    sound where a rate is 0 or 1. It takes the decision rule as given. For the decisions of
    `cross_fitted_decisions` it covers the accuracy of the two thresholds in use at its nominal level
    (measured 94–96% for 95%, n of 50–1,000 a side), and exactly ½ where scores know nothing; the *average*
    accuracy over draws of the thresholds it covers a little less often (91–95%).
    """
    tpr, fpr = rates(predicted, is_member)
    members = int(np.asarray(is_member).sum())
    true_low, true_high = _wilson(tpr, members, level)
    false_low, false_high = _wilson(fpr, np.asarray(is_member).size - members, level)
    middle = (tpr + 1 - fpr) / 2
    return Interval(
        middle - math.hypot(tpr - true_low, false_high - fpr) / 2,
        middle + math.hypot(true_high - tpr, fpr - false_low) / 2,
    )


def shuffle_split_accuracy_interval(
    correct: Bool[np.ndarray, "S T"], trained: int, *, level: float = 0.95
) -> Interval:
    """The interval of the mean accuracy over S random splits that test T examples and train on the others.

    Splits share examples, and their classifiers nearly all their training data, so neither S accuracies nor
    S·T answers are independent. The variance of the mean is p(1 − p)/T·(1/S + T/trained) (Nadeau & Bengio,
    "Inference for the Generalization Error", 2003), used here as the variance in Wilson's interval. A
    bootstrap over examples as clusters was tried and rejected: it holds the classifiers fixed, and its 95%
    interval covered ½ in 85–90% of 400 experiments on losses that know nothing (50 to 400 a side), where this
    one covered it in 94–97%.
    """
    answers = np.asarray(correct)
    if answers.size == 0 or trained < 1:
        raise InputError(
            f"correct has shape {answers.shape} and trained is {trained}, but expected at least one "
            "answer and one training example; pass the arrays of logistic_loss_attack."
        )
    splits, tested = answers.shape
    return _wilson(float(answers.mean()), tested / (1 / splits + tested / trained), level)


def auc_interval(
    scores: Num[Array | np.ndarray, "N"],
    is_member: Bool[Array | np.ndarray, "N"],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The bootstrap interval of the AUC.

    Where its ends meet, or one lies on 0 or 1, it is joined with the score interval that inverts Hanley and
    McNeil's variance (Newcombe, "Confidence intervals for an effect size measure based on the Mann–Whitney
    statistic. Part 2", 2006, method 5), which has a width at AUC = 1 too.
    """
    return roc_intervals(scores, is_member, (), level=level, samples=samples, seed=seed).auc


def tpr_at_fpr_interval(
    scores: Num[Array | np.ndarray, "N"],
    is_member: Bool[Array | np.ndarray, "N"],
    fpr: float,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The bootstrap interval of the TPR at an FPR, each resample with its own threshold.

    Joined with Wilson's interval of the TPR at the measured threshold, so that it has a width at 0 and 1.
    Rough where fewer than some ten false positives are allowed: the threshold then hangs on the few
    highest-scored non-members, and which ones a resample holds says little about which another sample would.
    """
    return roc_intervals(scores, is_member, (fpr,), level=level, samples=samples, seed=seed).tpr_at_fpr[0]


def roc_intervals(
    scores: Num[Array | np.ndarray, "N"],
    is_member: Bool[Array | np.ndarray, "N"],
    fpr: tuple[float, ...],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> RocIntervals:
    """`auc_interval`, and `tpr_at_fpr_interval` for each of `fpr`, from one set of resamples."""
    _check_level(level)
    if samples < 1:
        raise InputError(f"samples is {samples}, but expected a positive number of resamples; 1000 is usual.")
    score, member = checked(scores, is_member)
    points = [operating_point(score, member, rate) for rate in fpr]
    members, nonmembers = int(member.sum()), int(np.sum(~member))
    areas, heights = [], [[] for _ in fpr]
    for true, false in _resampled_counts(score, member, samples, seed):
        passed = np.cumsum(false, axis=1)
        # Groups run from the highest score down, so the non-members below are those not yet passed.
        areas.append(np.sum(true * (nonmembers - passed + false / 2), axis=1) / (members * nonmembers))
        found = np.pad(np.cumsum(true, axis=1), ((0, 0), (1, 0)))
        for height, rate in zip(heights, fpr, strict=True):
            allowed = np.sum(passed / nonmembers <= rate, axis=1, keepdims=True)
            height.append(np.take_along_axis(found, allowed, axis=1)[:, 0] / members)
    area = _percentiles(np.concatenate(areas), level)
    # A bootstrap of a handful of examples hardly varies, and of a single one not at all.
    if area.low == area.high or area.low <= 0 or area.high >= 1 or min(members, nonmembers) < FEW_EXAMPLES:
        area = _join(area, _auc_score_interval(auc(score, member), members, nonmembers, level))
    tprs = (
        _join(_percentiles(np.concatenate(height), level), _wilson(point.tpr, members, level))
        for height, point in zip(heights, points, strict=True)
    )
    return RocIntervals(area, tuple(tprs))


def _resampled_counts(
    score: Float[np.ndarray, "N"], member: Bool[np.ndarray, "N"], samples: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, "R G"], Int[np.ndarray, "R G"]]]:
    """Blocks of R resamples: members, and non-members, at each of G distinct scores, descending."""
    distinct, group = np.unique(-score, return_inverse=True)
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // score.size)

    def counts(side: Int[np.ndarray, "M"], rows: int) -> Int[np.ndarray, "R G"]:
        drawn = side[rng.integers(0, side.size, (rows, side.size))] + distinct.size * np.arange(rows)[:, None]
        return np.bincount(drawn.ravel(), minlength=rows * distinct.size).reshape(rows, distinct.size)

    for start in range(0, samples, block):
        rows = min(block, samples - start)
        yield counts(group[member], rows), counts(group[~member], rows)


def _auc_score_interval(area: float, members: int, nonmembers: int, level: float) -> Interval:
    """All A with |A − area| ≤ z·√V(A), V being Hanley and McNeil's variance as Newcombe symmetrised it."""
    from scipy.optimize import brentq  # most of a second to import, and only intervals of an AUC need it

    z, pairs, mean = _critical(level), members * nonmembers, (members + nonmembers) / 2

    def excess(a: float, area: float) -> float:
        variance = a * (1 - a) / pairs * (1 + (mean - 1) * ((1 - a) / (2 - a) + a / (1 + a)))
        return area - a - z * math.sqrt(variance)

    def low(area: float) -> float:
        # The excess is 0 at A = area = 1 as well; the bracket ends short of that root.
        return float(brentq(excess, 0, min(area, 1 - 1e-9), args=(area,))) if area > 0 else 0.0

    return Interval(low(area), 1 - low(1 - area))


def _wilson(rate: float, total: int | float, level: float) -> Interval:
    z = _critical(level)
    middle = rate + z * z / (2 * total)
    half = z * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # At rates of 0 and 1 the end is exact; the formula may miss it by a rounding.
    low, high = (middle - half) / scale, (middle + half) / scale
    return Interval(0.0 if rate == 0 else low, 1.0 if rate == 1 else high)


def _critical(level: float) -> float:
    """The standard normal quantile z with P(|Z| ≤ z) = level."""
    _check_level(level)
    return float(ndtri((1 + level) / 2))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is {level}, but expected a coverage in (0, 1); 0.95 is usual.")


def _percentiles(values: Float[np.ndarray, "R"], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _join(a: Interval, b: Interval) -> Interval:
    return Interval(min(a.low, b.low), max(a.high, b.high))
