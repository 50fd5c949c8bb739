"""Which examples an attack exposes, over many targets, and whether other targets would name the same ones."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Array, Bool, Float, Num
from scipy.stats import rankdata

from mu_jax.evaluation.many_targets import checked_targets

FEWEST_TARGETS = 4
"""Below it a half has one target, in which no example is both a member and not."""

SPLITS = 10
"""Random halvings of the targets that the stability is averaged over."""

MOST_EXPOSED = 0.01
"""Share of the examples in the sets that are compared."""

BLOCK_ELEMENTS = 2**20


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How exposed each example is; NaN where it is a member of all targets or of none."""

    exposure: Float[np.ndarray, "N"]
    """In [−1, 1]: mean rank among non-members where it is a member, less that where it is not."""
    auc: Float[np.ndarray, "N"]
    """The probability that its score where it is a member exceeds its score where it is not; ties ½."""
    rank_correlation: float | None
    """Spearman's, between the exposures by two halves of the targets; None for too few targets."""
    top_jaccard: float | None
    """Overlap of the two halves' most exposed 1%: the size of the intersection over that of the union."""


def exposure(
    scores: Num[Array | np.ndarray, "T N"], is_member: Bool[Array | np.ndarray, "T N"], *, seed: int = 0
) -> Exposure:
    """How much being a member lifts each example's score, on a scale that targets share.

    With r(t, n) the share of target t's *other* non-members that score below example n (ties ½, and ½ where there is
    no other), the exposure of n is the mean of r(t, n) over targets with n as a member, less the mean over those
    without: 0 for an example that scores alike either way, however high. It leaves itself out because otherwise r
    could reach 1 only as a member, and counting alone would expose outliers.

    `auc` compares raw scores across targets and so also feels what shifts a whole target; with membership drawn at
    random that is noise, not bias. Stability is the mean over 10 random halvings of the targets (the larger half last)
    of examples exposed in both; ties for the most exposed ⌈1%⌉ are broken at random, separately in each half, so that
    chance agrees no more often than chance. Low-FPR sets of vulnerable examples are known to overlap little from run
    to run where ranks agree well, so both are given. Halves are less stable than all targets: these are lower bounds
    of what a second set of T targets would repeat. None for fewer than 4 targets, or where no halving leaves two
    examples to compare (for the correlation: with exposures that differ).

    InputError as in `checked_targets`. Time O(T·N log N); memory a few arrays [44, N] beside the float64 scores.
    """
    score, member = checked_targets(scores, is_member)
    targets, examples = score.shape
    rng = np.random.default_rng(seed)
    # Row 0 takes all targets; rows 2i + 1 and 2i + 2 are two halves.
    takes = np.ones((1, targets))
    if targets >= FEWEST_TARGETS:
        halves = np.stack([rng.permutation(targets) < targets // 2 for _ in range(SPLITS)])
        takes = np.concatenate([takes, np.stack([halves, ~halves], axis=1).reshape(-1, targets)])
    lifted, counted = np.zeros((2, 2, len(takes), examples))
    for t in range(targets):
        share, weight = _share_below(score[t], member[t]), takes[:, t] > 0
        for side, here in enumerate((member[t], ~member[t])):
            lifted[side, weight] += np.where(here, share, 0)
            counted[side, weight] += here
    with np.errstate(invalid="ignore"):
        mean = lifted / counted
    found = mean[0] - mean[1]
    stability = [_agreement(found[i], found[i + 1], rng) for i in range(1, len(takes), 2)]
    return Exposure(
        found[0],
        _auc_over_targets(score, member),
        _mean(correlation for correlation, _ in stability),
        _mean(overlap for _, overlap in stability),
    )


def _share_below(score: Float[np.ndarray, "N"], member: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The share of other non-members that score lower, ties ½."""
    reference = np.sort(score[~member])
    twice = np.searchsorted(reference, score, side="left") + np.searchsorted(reference, score, side="right")
    # A non-member ties with itself.
    others = reference.size - ~member
    return np.where(others > 0, (twice - ~member) / np.maximum(2 * others, 1), 0.5)


def _auc_over_targets(
    score: Float[np.ndarray, "T N"], member: Bool[np.ndarray, "T N"]
) -> Float[np.ndarray, "N"]:
    """Each column's AUC, by the sum of its members' ranks."""
    targets, examples = score.shape
    area = np.empty(examples)
    step = max(1, BLOCK_ELEMENTS // targets)
    for start in range(0, examples, step):
        here = slice(start, start + step)
        inside = member[:, here].sum(axis=0)
        ranks = np.sum(rankdata(score[:, here], axis=0) * member[:, here], axis=0)
        with np.errstate(invalid="ignore"):
            area[here] = (ranks - inside * (inside + 1) / 2) / (inside * (targets - inside))
    return area


def _agreement(
    first: Float[np.ndarray, "N"], second: Float[np.ndarray, "N"], rng: np.random.Generator
) -> tuple[float | None, float | None]:
    """Spearman's correlation, and the Jaccard index of the highest ⌈1%⌉, of examples with both exposures."""
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if first.size < 2:
        return None, None
    correlation = None
    if np.ptp(first) > 0 and np.ptp(second) > 0:
        correlation = float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
    most = math.ceil(MOST_EXPOSED * first.size)
    top = [np.lexsort((rng.random(half.size), half))[-most:] for half in (first, second)]
    shared = np.intersect1d(*top).size
    return correlation, shared / (2 * most - shared)


def _mean(values: Iterable[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return float(np.mean(given)) if given else None
