"""Intervals of an attack on T targets that share N examples, both drawn by chance.

Scores of one example in several targets depend on each other, and so do those of several examples in one target.
Intervals that take the T·N pairs as independent, or either factor alone, are too narrow. AUC, balanced accuracy, and
TPR at an FPR with enough counts behind it have a two-way cluster-robust standard error. A TPR that hangs on a few
pairs has the pigeonhole bootstrap (Owen, 2007): draw T targets and N examples with replacement, each on its own, and
give the pair (t, n) the weight w_t·v_n, the product of how often the two were drawn. It is conservative, because it
counts the noise of single pairs about three times, and does not see what cancels in exact halves.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logit, ndtr
from scipy.stats import chi2
from scipy.stats import t as student

from mu_jax.config import InputError
from mu_jax.evaluation import intervals
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

FEW_COUNTS = 10
"""True or false positives below which the TPR has the bootstrap: a handful has no slope and no normal spread."""

BLOCK_PAIRS = 2**17
"""Pairs whose influence is held at a time; more would leave a core's cache."""


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
    """Confidence intervals; their ends meet where a statistic is 0 or 1 or nothing in it varies."""

    auc: Interval
    tpr_at_fpr: tuple[Interval, ...]
    accuracy: Interval | None
    samples: int
    """Resamples drawn; 0 where every rate had enough counts."""


class StandardError(NamedTuple):
    """How far chance moves a statistic, and how well that is known."""

    value: float
    freedom: float
    """Degrees of freedom of Student's t; inf where the error is 0."""


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

    `bins` is `ScoreBins.index`. To first order a statistic's error is a sum of influences of single pairs. Those of
    the AUC A are (F₀(s) − A)/members for a member, F₀ being the non-members' share below its score (ties ½), and
    (1 − F₁(s) − A)/non-members for a non-member; those of the accuracy (1{called} − TPR)/(2·members) and
    (FPR − 1{called})/(2·non-members), decisions held fixed; those of the TPR (1{called} − TPR)/members and
    r·(FPR − 1{called})/non-members, r being the slope of the ROC curve there, taken over two standard deviations of
    the count of false positives to both sides. `two_way_error` makes a standard error of them, and the interval is
    Student's on the scale of log-odds.

    A TPR with fewer than `FEW_COUNTS` true or false positives has the percentiles of a bootstrap instead, at
    `expanded_tails`, each resample with its own threshold (one without members or without non-members is drawn
    again). `samples` is 1,000 where it is None, fewer where they would visit more than 2³² pairs, but at least 200.

    Measured at level 0.95: coverage in percent, and in parentheses the mean half-width over 1.96 true standard
    deviations, of the AUC. Scores are example effect + noise, and `lift` for members; "half": each example in exactly
    half of the targets, "coin": each pair a member at random; N = 1,000, 400 simulations each (± 1.1 points). At
    T = 2 the median width is given after the mean.

        effect/noise  lift  members |  T = 2                T = 4      T = 8      T = 16
             0        0     half    |  96 (1.10, 1.06)   96 (1.27)  97 (1.10)  97 (1.11)
             0        0.45  half    |  97 (1.12, 1.07)   97 (1.25)  97 (1.10)  97 (1.10)
             1        0     half    |  97 (1.48, 1.06)   96 (1.29)  97 (1.10)  95 (1.10)
             1        0.45  half    |  96 (1.45, 1.05)   96 (1.28)  96 (1.06)  96 (1.06)
             5        0     half    |  97 (4.70, 1.07)   97 (1.29)  96 (1.09)  96 (1.10)
             5        0.45  half    |  96 (4.56, 1.06)   97 (1.29)  96 (1.03)  96 (1.05)
             0        0.45  coin    |  95 (2.06, 0.99)   95 (1.14)  98 (1.20)  96 (1.10)
             1        0.45  coin    |  96 (1.65, 1.03)   96 (1.08)  98 (1.17)  96 (1.03)
             5        0.45  coin    |  95 (1.05, 1.03)   95 (1.02)  97 (1.10)  96 (1.00)
        N = 200:
             5        0.45  half    |  97 (3.12, 1.06)   99 (1.35)  97 (1.10)  97 (1.13)
             1        0     coin    |  97 (1.56, 1.03)   95 (1.10)  97 (1.12)  96 (1.06)
        all scores of a target shifted by as much as the noise:
             1        0     half    |  96 (1.40, 0.97)   92 (1.11)  91 (0.98)  96 (1.06)
        targets that differ in lift, lift·exp(spread·normal), AUC 0.59 ± 0.03 and 0.68 ± 0.12:
             1        0.45, spread 0.3, half  |  68  85  91  93
             1        0.8,  spread 0.8, half  |  71  88  91  92

    So with few targets that truly differ, intervals are too narrow: two cannot say how targets differ. Accuracy
    behaves alike (94–98% where targets are alike, 1.0–1.3 from T = 4 on). TPR at an FPR of 1% and 10% (T = 4, 16;
    lift 0, 1, 3; 300 simulations each): 93–98%, 0.96–1.4; where targets differ by a spread of 0.5, 80–86% at T = 4
    and 86–91% at 16. From the bootstrap, at 0.1% of 2,000 or 8,000 non-members: 98–100%, 1.5–4.0, so conservative,
    and 93–99% where targets differ.
    """
    targets = len(bins)
    if targets < 2:
        raise InputError(
            f"bins have shape {bins.shape}, but expected at least 2 targets; with one target, "
            "mu_jax.evaluation.intervals.roc_intervals resamples the examples."
        )
    if samples is None:
        samples = min(1000, max(FEWEST_SAMPLES, PAIR_VISITS // bins.size))
    if samples < 1:
        raise InputError(f"samples is {samples}, but expected a positive number of resamples; 1000 is usual.")
    intervals._check_level(level)
    true, false = np.zeros((2, num_bins))
    for row, member in zip(bins, is_member, strict=True):
        true += np.bincount(row[member], minlength=num_bins)
        false += np.bincount(row[~member], minlength=num_bins)
    found, passed = np.cumsum(true), np.cumsum(false)
    members, nonmembers = found[-1], passed[-1]
    below, above = (nonmembers - passed + false / 2) / nonmembers, (found - true / 2) / members
    area = float(np.sum(true * below) / members)
    designs = side_designs(is_member)
    error = two_way_error(bins, is_member, (below - area) / members, (above - area) / nonmembers, designs)
    heights: list[Interval | None] = []
    for rate in fpr:
        allowed = int(np.searchsorted(passed / nonmembers, rate, side="right"))
        if not allowed or min(found[allowed - 1], passed[allowed - 1]) < FEW_COUNTS:
            heights.append(None)
            continue
        tpr, reached = found[allowed - 1] / members, passed[allowed - 1] / nonmembers
        call = np.arange(num_bins) < allowed
        slope = _slope(found, passed, passed[allowed - 1])
        influence = (call - tpr) / members, slope * (reached - call) / nonmembers
        heights.append(logit_interval(float(tpr), two_way_error(bins, is_member, *influence, designs), level))
    rare = [i for i, height in enumerate(heights) if height is None]
    if rare:
        resampled = _bootstrap(bins, is_member, num_bins, [fpr[i] for i in rare], samples, seed)
        for i, values in zip(rare, resampled, strict=True):
            low, high = np.quantile(values, expanded_tails(targets, level))
            heights[i] = Interval(float(low), float(high))
    accuracy = None
    if called is not None:
        tpr, reached = np.mean(called[is_member]), np.mean(called[~is_member])
        call = np.arange(2.0)
        influence = (call - tpr) / (2 * members), (reached - call) / (2 * nonmembers)
        spread = two_way_error(called.view(np.int8), is_member, *influence, designs)
        accuracy = logit_interval(float(tpr + 1 - reached) / 2, spread, level)
    return TwoWayIntervals(
        logit_interval(area, error, level), tuple(heights), accuracy, samples if rare else 0
    )


def logit_interval(value: float, error: StandardError, level: float) -> Interval:
    """Student's interval of a rate on the scale of log-odds; its ends meet where the rate is 0 or 1, or certain."""
    if not 0 < value < 1 or error.value == 0:
        return Interval(value, value)
    half = student.ppf((1 + level) / 2, error.freedom) * error.value / (value * (1 - value))
    return Interval(float(expit(logit(value) - half)), float(expit(logit(value) + half)))


class SideDesign(NamedTuple):
    """Who is on a side, as least squares for one effect of each example and one of each target sees it."""

    inside: Bool[np.ndarray, "T N"]
    count: Float[np.ndarray, "T"]
    inverse: Float[np.ndarray, "T T"]
    """From sums of a target's values, less the examples' means, to its effect."""
    centre: Float[np.ndarray, "T T"]
    """Effects are known but for a constant; this sets it so that, weighted by `count`, they add up to 0."""
    rank: int
    spare: int
    """Degrees of freedom that the effects leave."""


def side_designs(is_member: Bool[np.ndarray, "T N"]) -> tuple[SideDesign, SideDesign]:
    """Of members and of non-members; the same for every statistic."""
    return _design(is_member), _design(~is_member)


def _design(inside: Bool[np.ndarray, "T N"]) -> SideDesign:
    targets = len(inside)
    count, gram, seen = np.zeros(targets), np.zeros((targets, targets)), 0
    for here in _columns(inside):
        mine = inside[:, here].astype(np.float64)
        size = mine.sum(axis=0)
        seen += int(np.count_nonzero(size))
        count += mine.sum(axis=1)
        gram -= (mine / np.maximum(size, 1)) @ mine.T
    gram[np.diag_indices(targets)] += count
    values, vectors = np.linalg.eigh(gram)
    known = values > 1e-9 * count.max()
    rank = int(known.sum())
    return SideDesign(
        inside=inside,
        count=count,
        inverse=(vectors[:, known] / values[known]) @ vectors[:, known].T,
        centre=np.eye(targets) - count / count.sum(),
        rank=rank,
        spare=int(count.sum()) - seen - rank,
    )


def two_way_error(
    bins: Int[np.ndarray, "T N"],
    is_member: Bool[np.ndarray, "T N"],
    member_influence: Float[np.ndarray, "B"],
    nonmember_influence: Float[np.ndarray, "B"],
    designs: tuple[SideDesign, SideDesign] | None = None,
) -> StandardError:
    """The standard error of a statistic whose error is Σψ(t, n), ψ being a pair's influence by its side and bin.

    Pairs that share a target or an example depend on each other. Cameron, Gelbach & Miller, "Robust inference with
    multiway clustering", 2011, add up both kinds and take out what was counted twice:

        V = Σ_n (Σ_t ψ)² + Σ_t (Σ_n ψ)² − Σ ψ²

    An example that scores high wherever it is enters Σ_n ψ as chance, though it cancels where the example is in
    exactly half of the targets; the last two sums then are large and differ by noise alone. So ψ is first fitted, on
    each side, by an effect of the example and one of the target (least squares), and with θ_t the sum of target t's
    effects over its pairs

        V = Σ_n (Σ_t ψ')² · N/(N − 2) + max(0, Σ_t θ_t² − E[noise of Σ_t θ_t²]) · T/(T − 1)

    where ψ' is ψ less the targets' effects, so that these count once. The floor is the examples' part. Degrees of
    freedom by Satterthwaite, with N − 1 and T − 1 for the parts (that of the floor: N − 1 alone).

    Effects cannot be told apart where too few targets share a side of an example (T = 2 or 3 with examples in half of
    them). Then θ_t = Σ_n ψ, ψ' = ψ, and the second part counts only where chance would exceed it in one of twenty.
    `designs` saves time where several statistics have the same truth. Time O(T²·N), memory O(T² + N) beside the
    arguments and a copy of the truth.
    """
    targets, examples = bins.shape
    designs = side_designs(is_member) if designs is None else designs
    tables = member_influence, nonmember_influence
    sides = [_side_effects(bins, side, table) for side, table in zip(designs, tables, strict=True)]
    told_apart = all(side.rank == targets - 1 and side.spare > 0 for side in designs)
    if told_apart:
        theta = sum(design.count * side.effect for design, side in zip(designs, sides, strict=True))
        noise = sum(side.noise for side in sides)
    else:
        theta = sum(side.total for side in sides)
        noise = sum(side.within for side in sides)
    between = float(np.sum(theta**2))
    certain = told_apart or between > noise / (targets - 1) * chi2.ppf(0.95, targets - 1)
    by_target = max(0.0, between - noise) * targets / (targets - 1) if certain else 0.0
    of_example = np.zeros(examples)
    for here in _columns(bins):
        bin_, member = bins[:, here], is_member[:, here]
        influence = np.where(member, member_influence[bin_], nonmember_influence[bin_])
        if told_apart:
            influence -= np.where(member, sides[0].effect[:, None], sides[1].effect[:, None])
        of_example[here] = influence.sum(axis=0)
    by_example = float(np.sum(of_example**2)) * examples / max(1, examples - 2)
    variance = by_example + by_target
    if variance == 0:
        return StandardError(0.0, math.inf)
    freedom = variance**2 / (by_target**2 / (targets - 1) + by_example**2 / max(1, examples - 1))
    return StandardError(math.sqrt(variance), freedom)


def expanded_tails(units: int, level: float) -> tuple[float, float]:
    """Probabilities for the percentiles of a bootstrap of so many units, at least 2, instead of (1 ∓ level)/2.

    1 − Φ(t·√(T/(T − 1))), with Student's t for T − 1 degrees of freedom: a bootstrap of T units is too narrow by
    √((T − 1)/T), and a percentile knows no t (Hesterberg, "What teachers should know about the bootstrap", 2015,
    "expanded percentile interval"). At T = 16 and 95% it is 1.4% at each end; at T ≤ 3, the outermost resamples.
    """
    intervals._check_level(level)
    tail = float(ndtr(-student.ppf((1 + level) / 2, units - 1) * math.sqrt(units / (units - 1))))
    return tail, 1 - tail


class _SideEffects(NamedTuple):
    """Influences of members, or of non-members, as effects of examples and targets."""

    total: Float[np.ndarray, "T"]
    effect: Float[np.ndarray, "T"]
    noise: float
    """Expected of Σ (count·effect)² where targets do not differ."""
    within: float
    """Expected of Σ total² where a target's pairs are independent of each other."""


def _side_effects(
    bins: Int[np.ndarray, "T N"], side: SideDesign, influence: Float[np.ndarray, "B"]
) -> _SideEffects:
    total, squares, slope = np.zeros((3, len(bins)))
    residual = 0.0
    for here in _columns(bins):
        mine = side.inside[:, here]
        value = influence[bins[:, here]] * mine
        total += value.sum(axis=1)
        squares += np.einsum("tn,tn->t", value, value)
        # What is left when each example's mean is taken out.
        value -= value.sum(axis=0) / np.maximum(mine.sum(axis=0), 1) * mine
        slope += value.sum(axis=1)
        residual += float(np.einsum("tn,tn->", value, value))
    effect = side.inverse @ slope
    residual = max(0.0, residual - float(slope @ effect))
    cover = np.einsum("ij,jk,ik->i", side.centre, side.inverse, side.centre, optimize=True)
    return _SideEffects(
        total=total,
        effect=side.centre @ effect,
        noise=residual / max(1, side.spare) * float(np.sum(side.count**2 * cover)),
        within=float(np.sum((squares - total**2 / side.count) * side.count / np.maximum(1, side.count - 1))),
    )


def _columns(pairs: np.ndarray) -> Iterator[slice]:
    step = max(1, BLOCK_PAIRS // len(pairs))
    return (slice(start, start + step) for start in range(0, pairs.shape[1], step))


def _slope(found: Float[np.ndarray, "B"], passed: Float[np.ndarray, "B"], at: float) -> float:
    """dTPR/dFPR where so many false positives are, over a range that chance may move their number within."""
    reach = 2 * math.sqrt(at) + 1
    found, passed = np.append(0, found), np.append(0, passed)
    low = np.searchsorted(passed, max(0.0, at - reach), side="right") - 1
    high = np.searchsorted(passed, min(passed[-1], at + reach), side="left")
    return float((found[high] - found[low]) / found[-1] / ((passed[high] - passed[low]) / passed[-1]))


def _bootstrap(
    bins: Int[np.ndarray, "T N"],
    is_member: Bool[np.ndarray, "T N"],
    num_bins: int,
    fpr: list[float],
    samples: int,
    seed: int,
) -> list[list[float]]:
    """Of each FPR the TPR in every resample."""
    # Two histograms in a row: non-members, members.
    code = bins + np.where(is_member, num_bins, 0).astype(np.int32)
    heights: list[list[float]] = [[] for _ in fpr]
    rng = np.random.default_rng(seed)
    while len(heights[0]) < samples:
        false, true = _resample(code, 2 * num_bins, rng).reshape(2, num_bins)
        found, passed = np.cumsum(true), np.cumsum(false)
        if found[-1] == 0 or passed[-1] == 0:
            continue
        for height, rate in zip(heights, fpr, strict=True):
            allowed = np.searchsorted(passed / passed[-1], rate, side="right")
            height.append(found[allowed - 1] / found[-1] if allowed else 0.0)
    return heights


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
