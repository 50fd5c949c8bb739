"""Intervals of an attack on pairs of models, where pairs of one original model are not independent.

All that was deleted from one original model is asked of that model, so its pairs share what chance did to it. The
bootstrap draws G originals with replacement, each with all its pairs; the standard deviation of a statistic over the
resamples, times √(G/(G − 1)), is its standard error, and the interval is Student's with G − 1 degrees of freedom, on
the scale of log-odds for rates.

Measured: coverage of ½ (of the mean AUC in the last rows) by the 95% interval of the AUC, in percent, and in
parentheses the mean half-width over 1.96 true standard deviations; 200 simulations a cell (± 1.5 points), 400
resamples, scores normal, 20 members and 20 others an original (10 and 10 at G = 20). `strength`: the members' mean
varies by so much from original to original; `shift`: that of members and others alike.

                                    this one                                          percentiles, G = 10
    effect    lift   G = 2      3           4           6           10          20          originals   two stages
    none       0     98 (2.75)  98 (1.87)   96 (1.45)   94 (1.27)   93 (1.08)   96 (1.17)   89 (0.88)   99 (1.30)
    shift 1    0     97 (3.23)  98 (2.21)   98 (1.66)   98 (1.40)   96 (1.15)   98 (1.18)   87 (0.94)  100 (1.58)
    str. 0.5   0     98 (1.94)  96 (1.62)   98 (1.47)   96 (1.17)   94 (1.08)   96 (1.09)   88 (0.89)   94 (1.05)
    str. 0.5   1     96 (2.34)  97 (1.80)   97 (1.50)   94 (1.22)   94 (1.10)   97 (1.14)   88 (0.89)   93 (1.05)

Rejected: percentiles over originals, which are too narrow below G = 20 (55% at G = 2), and drawing pairs anew within
the drawn originals ("two stages"), which counts the noise of pairs twice: 99–100% from G = 3 on where originals are
alike, and 88% at G = 2 where they differ.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int
from scipy.stats import t as student

from mu_jax.config import InputError
from mu_jax.evaluation import intervals
from mu_jax.evaluation.intervals import Interval, balanced_accuracy_interval, proportion_interval
from mu_jax.evaluation.roc import auc, checked, operating_point
from mu_jax.evaluation.two_way_bootstrap import StandardError, logit_interval

_DIFFERENCES = ("auc_gain", "deg_rate")
"""In [−1, 1]; all else is a rate."""


class PairIntervals(NamedTuple):
    """Intervals that share their resamples; `mu_jax.evaluation.degradation` defines what they are of."""

    auc: Interval
    classical_auc: Interval
    auc_gain: Interval
    accuracy: Interval
    classical_accuracy: Interval
    advantage: Interval
    tpr_at_fpr: dict[float, Interval]
    classical_tpr_at_fpr: dict[float, Interval]
    deg_count: Interval
    deg_rate: Interval
    newly_exposed: Interval
    originals: int
    """Original models that the pairs belong to."""
    resampled: str
    """`originals`, or `pairs` where members or non-members are of a single one."""


def pair_intervals(
    confidence: Float[Array | np.ndarray, "N"],
    classical: Float[Array | np.ndarray, "N"],
    is_member: Bool[Array | np.ndarray, "N"],
    cluster: Int[Array | np.ndarray, "N"],
    *,
    fpr: tuple[float, ...] = (),
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> PairIntervals:
    """The intervals of everything that is reported of a pair attack beside the classical one, by one set of resamples.

    `cluster` numbers the original model of each pair. A resample without a member or without a non-member is drawn
    again. Where all members, or all non-members, are of one original, nothing can be said of other originals: pairs
    are drawn then, and the interval is of attacks on this original alone.
    """
    intervals._check_level(level)
    if samples < 1:
        raise InputError(f"samples is {samples}, but expected a positive number of resamples; 1000 is usual.")
    new, member = checked(confidence, is_member)
    old, _ = checked(classical, is_member)
    units, originals, resampled = _units(cluster, member)
    found: dict[str, list[np.ndarray]] = {}
    statistics = _Statistics(new, old, member, fpr)
    for weight in _weights(units, member, samples, seed):
        for name, values in statistics.of(weight).items():
            found.setdefault(name, []).append(values)
    number = int(units.max()) + 1
    bounds = {
        name: _student_interval(name, float(value[0]), np.concatenate(found[name]), number, level)
        for name, value in statistics.of(np.ones((1, member.size))).items()
    }
    accuracy = _widened_accuracy(bounds["accuracy"], new, member, level)
    return PairIntervals(
        auc=_widened_auc(bounds["auc"], new, member, level),
        classical_auc=_widened_auc(bounds["classical_auc"], old, member, level),
        auc_gain=bounds["auc_gain"],
        accuracy=accuracy,
        classical_accuracy=_widened_accuracy(bounds["classical_accuracy"], old, member, level),
        advantage=Interval(2 * accuracy.low - 1, 2 * accuracy.high - 1),
        tpr_at_fpr={rate: _widened_tpr(bounds[f"tpr_{rate}"], new, member, rate, level) for rate in fpr},
        classical_tpr_at_fpr={
            rate: _widened_tpr(bounds[f"classical_tpr_{rate}"], old, member, rate, level) for rate in fpr
        },
        deg_count=_widened_share(bounds["deg_count"], statistics.gain > 0, level),
        deg_rate=bounds["deg_rate"],
        newly_exposed=_widened_share(bounds["newly_exposed"], statistics.exposed[member], level),
        originals=originals,
        resampled=resampled,
    )


def _units(
    cluster: Int[Array | np.ndarray, "N"], member: Bool[np.ndarray, "N"]
) -> tuple[Int[np.ndarray, "N"], int, str]:
    """What is drawn, numbered from 0; how many originals there are; and what the units are called."""
    given = np.asarray(cluster)
    if given.shape != member.shape or not np.issubdtype(given.dtype, np.integer):
        raise InputError(
            f"cluster has dtype {given.dtype} and shape {list(given.shape)}, but expected int[{member.size}]; give the "
            "number of each pair's original model."
        )
    found, number = np.unique(given, return_inverse=True)
    if min(np.unique(given[member]).size, np.unique(given[~member]).size) < 2:
        return np.arange(member.size), found.size, "pairs"
    return number, found.size, "originals"


def _weights(
    units: Int[np.ndarray, "N"], member: Bool[np.ndarray, "N"], samples: int, seed: int
) -> Iterator[Float64[np.ndarray, "R N"]]:
    """Blocks of R resamples: how often each pair is in them."""
    rng = np.random.default_rng(seed)
    count = int(units.max()) + 1
    block = max(1, intervals.BLOCK_ELEMENTS // units.size)
    left = samples
    while left:
        drawn = rng.multinomial(count, np.full(count, 1 / count), min(block, left))
        weight = drawn[:, units].astype(np.float64)
        members = weight @ member
        weight = weight[(members > 0) & (members < weight.sum(axis=1))]
        left -= len(weight)
        if len(weight):
            yield weight


class _Curve:
    """Pairs in the order of a score, descending, so that a resample needs no sorting."""

    def __init__(self, score: Float64[np.ndarray, "N"], member: Bool[np.ndarray, "N"]) -> None:
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._member = member[self._order]
        self._starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))

    def read(
        self, weight: Float64[np.ndarray, "R N"], fpr: tuple[float, ...]
    ) -> tuple[Float64[np.ndarray, "R"], list[Float64[np.ndarray, "R"]]]:
        """The AUC and the TPR at each FPR, of each resample with its own threshold."""
        ordered = weight[:, self._order]
        true, false = (
            np.add.reduceat(ordered * side, self._starts, axis=1) for side in (self._member, ~self._member)
        )
        found, passed = np.cumsum(true, axis=1), np.cumsum(false, axis=1)
        members, nonmembers = found[:, -1:], passed[:, -1:]
        below = nonmembers - passed + false / 2
        area = np.sum(true * below, axis=1) / (members * nonmembers)[:, 0]
        found = np.pad(found, ((0, 0), (1, 0)))
        heights = []
        for rate in fpr:
            allowed = np.sum(passed / nonmembers <= rate, axis=1, keepdims=True)
            heights.append((np.take_along_axis(found, allowed, axis=1) / members)[:, 0])
        return area, heights


class _Statistics:
    """Everything that is measured, as a function of how often each pair is there."""

    def __init__(
        self,
        new: Float64[np.ndarray, "N"],
        old: Float64[np.ndarray, "N"],
        member: Bool[np.ndarray, "N"],
        fpr: tuple[float, ...],
    ) -> None:
        self.gain = np.where(member, new - old, old - new)
        """c_new − c_old, of the true answer."""
        self.exposed = member & (new > 0.5) & ~(old > 0.5)
        """Members that the pair attack alone finds."""
        self._fpr = fpr
        self._curves = {"": _Curve(new, member), "classical_": _Curve(old, member)}
        columns = {"members": member, "count": self.gain > 0, "rate": self.gain, "exposed": self.exposed}
        for name, score in (("", new), ("classical_", old)):
            columns |= {f"{name}true": member & (score > 0.5), f"{name}false": ~member & (score > 0.5)}
        self._names = tuple(columns)
        self._columns = np.stack([np.asarray(column, np.float64) for column in columns.values()], axis=1)

    def of(self, weight: Float64[np.ndarray, "R N"]) -> dict[str, Float64[np.ndarray, "R"]]:
        """Each statistic of R resamples."""
        sums = dict(zip(self._names, (weight @ self._columns).T, strict=True))
        members, total = sums["members"], weight.sum(axis=1)
        values = {
            "deg_count": sums["count"] / total,
            "deg_rate": sums["rate"] / total,
            "newly_exposed": sums["exposed"] / members,
        }
        for name, curve in self._curves.items():
            tpr, fpr = sums[f"{name}true"] / members, sums[f"{name}false"] / (total - members)
            values[f"{name}accuracy"] = (tpr + 1 - fpr) / 2
            values[f"{name}auc"], heights = curve.read(weight, self._fpr)
            values |= {f"{name}tpr_{rate}": height for rate, height in zip(self._fpr, heights, strict=True)}
        return values | {"auc_gain": values["auc"] - values["classical_auc"]}


def _student_interval(
    name: str, value: float, resampled: Float64[np.ndarray, "R"], units: int, level: float
) -> Interval:
    # Resamples of G units vary by √((G − 1)/G) too little.
    error = float(np.std(resampled)) * math.sqrt(units / (units - 1))
    if name not in _DIFFERENCES:
        return logit_interval(value, StandardError(error, units - 1), level)
    half = float(student.ppf((1 + level) / 2, units - 1)) * error
    return Interval(max(-1.0, value - half), min(1.0, value + half))


# What follows widens intervals where resampling cannot see: no resample of a perfect score is less than perfect.


def _widened_auc(
    bounds: Interval, score: Float64[np.ndarray, "N"], member: Bool[np.ndarray, "N"], level: float
) -> Interval:
    sides = int(member.sum()), int(np.sum(~member))
    if bounds.low < bounds.high and min(sides) >= intervals.FEW_EXAMPLES:
        return bounds
    return intervals._join(bounds, intervals._auc_score_interval(auc(score, member), *sides, level))


def _widened_accuracy(
    bounds: Interval, score: Float64[np.ndarray, "N"], member: Bool[np.ndarray, "N"], level: float
) -> Interval:
    if bounds.low < bounds.high:
        return bounds
    return intervals._join(bounds, balanced_accuracy_interval(score > 0.5, member, level=level))


def _widened_tpr(
    bounds: Interval,
    score: Float64[np.ndarray, "N"],
    member: Bool[np.ndarray, "N"],
    rate: float,
    level: float,
) -> Interval:
    found = operating_point(score, member, rate).true_positives
    return intervals._join(bounds, proportion_interval(found, int(member.sum()), level=level))


def _widened_share(bounds: Interval, hits: Bool[np.ndarray, "n"], level: float) -> Interval:
    if bounds.low < bounds.high:
        return bounds
    return intervals._join(bounds, proportion_interval(int(hits.sum()), hits.size, level=level))
