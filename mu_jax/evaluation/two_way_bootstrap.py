"""Intervals of an attack on T targets that share N examples, both resampled: the pigeonhole bootstrap.

Scores of one example in several targets depend on each other, and so do those of several examples in one target. A
bootstrap of the T·N pairs, or of either factor alone, does not see that and is too narrow. Owen, "The pigeonhole
bootstrap", 2007: draw T targets and N examples with replacement, each on its own, and give the pair (t, n) the weight
w_t·v_n, the product of how often the two were drawn. No resampling is exact for such data; this one is conservative,
because it counts the noise of single pairs about three times.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr
from scipy.stats import t as student

from mu_jax.config import InputError
from mu_jax.evaluation.intervals import Interval
from mu_jax.evaluation.roc import RocCurve

MAX_EXACT_BINS = 2**15
"""Distinct scores up to which every one has a bin of its own."""

UNIFORM_BINS = 2**13
"""Otherwise, bins of about one in so many non-members."""

TAIL_RESOLUTION = 256
"""And where few non-members score higher, finer ones: the count of those grows by one in so many from bin to bin."""

PAIR_VISITS = 2**32
"""Pairs that all resamples together may visit, unless that leaves fewer than `FEWEST_SAMPLES`: some ten seconds."""

FEWEST_SAMPLES = 200


@dataclasses.dataclass(frozen=True)
class ScoreBins:
    """Neighbouring thresholds of a ROC curve, so that a resample is a histogram and not a sort."""

    lowest: Float[np.ndarray, "B"]
    """Each bin's lowest score, descending. Calling the first b bins members is the threshold `lowest[b - 1]`."""

    def index(self, scores: Float[np.ndarray, "T N"]) -> Int[np.ndarray, "T N"]:
        """The bin of each score, int32; 0 is the highest."""
        ascending = self.lowest[::-1]
        # By rows, so that a large matrix of int64 positions never stands beside this one.
        rows = [ascending.size - np.searchsorted(ascending, row, side="right") for row in scores]
        return np.stack([row.astype(np.int32) for row in rows])

    def called(self, threshold: float) -> int:
        """How many of the first bins lie at or above a threshold."""
        return self.lowest.size - int(np.searchsorted(self.lowest[::-1], threshold, side="left"))


class TwoWayIntervals(NamedTuple):
    """Intervals that share their resamples, and how many those were."""

    auc: Interval
    tpr_at_fpr: tuple[Interval, ...]
    accuracy: Interval | None
    samples: int


def score_bins(curve: RocCurve) -> ScoreBins:
    """Bins for the scores of a curve: one for each distinct score, or about 18,000 where there are more than 32,768.

    In the second case scores within one bin count as ties. A bin is a single distinct score with whatever ties there,
    or holds at most a share 2⁻¹³ of the non-members (and one more), so the AUC is wrong by at most 2⁻¹⁴ = 6·10⁻⁵; in a
    resample, by at most half the largest weight of such a bin. Every border is a true threshold, so rates at borders
    are exact; the threshold for an FPR is the best border, and from one to the next the count of false positives grows
    by at most 1/256 (or by 2⁻¹³ of all non-members, where that is less).
    """
    found = curve.thresholds.size - 1
    if found <= MAX_EXACT_BINS:
        return ScoreBins(curve.thresholds[1:])
    false = curve.false_positives
    total = int(false[-1])
    tail = TAIL_RESOLUTION * np.exp(np.arange(0, math.log(total), 1 / TAIL_RESOLUTION))
    counts = np.concatenate([np.arange(TAIL_RESOLUTION), tail, np.linspace(0, total, UNIFORM_BINS + 1)])
    counts = np.unique(np.minimum(np.round(counts), total).astype(np.int64))
    # The lowest threshold with so few false positives; and the next, so that many ties at it have their own bin.
    last = np.searchsorted(false, counts, side="right") - 1
    border = np.unique(np.concatenate([last, np.minimum(last + 1, found)]))
    return ScoreBins(curve.thresholds[border[border > 0]])


def two_way_intervals(
    bins: Int[np.ndarray, "T N"],
    is_member: Bool[np.ndarray, "T N"],
    num_bins: int,
    *,
    fpr: tuple[float, ...] = (),
    called: Bool[np.ndarray, "T N"] | None = None,
    level: float = 0.95,
    samples: int | None = None,
    seed: int = 0,
) -> TwoWayIntervals:
    """The intervals of the pooled AUC, of the TPR at each of `fpr`, and of the balanced accuracy of `called`.

    `bins` is `ScoreBins.index`. In each resample the TPR has its own threshold, while decisions stay as they are.
    A resample without members or without non-members is drawn again. `samples` is 1,000 where it is None, fewer where
    they would visit more than 2³² pairs, but at least 200.

    The ends are percentiles at 1 − Φ(t·√(T/(T − 1))) instead of (1 − level)/2, with Student's t for T − 1 degrees of
    freedom: a bootstrap of T units is too narrow by √((T − 1)/T), and a percentile knows no t (Hesterberg, "What
    teachers should know about the bootstrap", 2015, "expanded percentile interval"). At T = 16 and a level of 95%
    that is 1.4% instead of 2.5% at each end; at T ≤ 3, the lowest and highest resample.

    Measured coverage of the AUC at level 0.95. Scores that know nothing (target effect + example effect + noise, each
    example in exactly half of the targets, N = 200; T = 2, 4, 8, 16; 120 simulations each): 100%, by intervals 2 to 3
    times as wide as the AUC's spread needs, and 7 to 9 times where examples differ five times as much as the noise.
    An attack that works about alike on all targets: 98–100%, 1.4 to 2.8 times. One whose success differs a lot between
    targets (AUC 0.7 ± 0.14, N = 1,000; 150 simulations each): 73% at T = 2, 87% at 4, 92% at 16; without the expansion
    67%, 77% and 89%. Two targets cannot say how targets differ.
    """
    targets = bins.shape[0]
    if targets < 2:
        raise InputError(
            f"bins have shape {bins.shape}, but expected at least 2 targets to resample; with one target, "
            "mu_jax.evaluation.intervals.roc_intervals resamples the examples."
        )
    if samples is None:
        samples = min(1000, max(FEWEST_SAMPLES, PAIR_VISITS // bins.size))
    if samples < 1:
        raise InputError(f"samples is {samples}, but expected a positive number of resamples; 1000 is usual.")
    # Four histograms in a row: members and non-members not called, members and non-members called.
    code = bins + np.where(is_member, 0, num_bins).astype(np.int32)
    if called is not None:
        code += np.where(called, 2 * num_bins, 0).astype(np.int32)
    areas, heights, accuracies = [], [[] for _ in fpr], []
    rng = np.random.default_rng(seed)
    while len(areas) < samples:
        passed_over, by_call = _resample(code, 4 * num_bins, rng).reshape(2, 2, num_bins)
        true, false = passed_over + by_call
        found, passed = np.cumsum(true), np.cumsum(false)
        members, nonmembers = found[-1], passed[-1]
        if members == 0 or nonmembers == 0:
            continue
        # Not np.dot: its threads wait for each other longer than they work.
        areas.append(np.sum(true * (nonmembers - passed + false / 2)) / (members * nonmembers))
        for height, rate in zip(heights, fpr, strict=True):
            allowed = np.searchsorted(passed / nonmembers, rate, side="right")
            height.append(found[allowed - 1] / members if allowed else 0.0)
        tp, fp = by_call.sum(axis=1)
        accuracies.append((tp / members + 1 - fp / nonmembers) / 2)

    def ends(values: list[float]) -> Interval:
        low, high = np.quantile(values, expanded_tails(targets, level))
        return Interval(float(low), float(high))

    return TwoWayIntervals(
        ends(areas),
        tuple(map(ends, heights)),
        None if called is None else ends(accuracies),
        samples,
    )


def expanded_tails(units: int, level: float) -> tuple[float, float]:
    """Hesterberg's probabilities for the percentiles of a bootstrap of so many units, at least 2."""
    if not 0 < level < 1:
        raise InputError(f"level is {level}, but expected a coverage in (0, 1); 0.95 is usual.")
    tail = float(ndtr(-student.ppf((1 + level) / 2, units - 1) * math.sqrt(units / (units - 1))))
    return tail, 1 - tail


def _resample(code: Int[np.ndarray, "T N"], size: int, rng: np.random.Generator) -> Float[np.ndarray, "size"]:
    """The weight of the pairs of each code when targets and examples are drawn anew: whole numbers, so exact."""
    targets, examples = code.shape
    target_weight = rng.multinomial(targets, np.full(targets, 1 / targets))
    example_weight = np.bincount(rng.integers(0, examples, examples), minlength=examples).astype(np.float64)
    total = np.zeros(size)
    drawn = np.flatnonzero(target_weight)
    # Some 2¹⁶ pairs at a time: all in one pass would leave the caches, and a single target may be short.
    step = max(1, 2**16 // examples)
    for start in range(0, drawn.size, step):
        rows = drawn[start : start + step]
        weights = target_weight[rows, None] * example_weight
        total += np.bincount(code[rows].ravel(), weights.ravel(), size)
    return total
