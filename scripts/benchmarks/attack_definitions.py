"""The attacks as their definitions read, in plain NumPy and float64: what the benchmark compares with.

Nothing here knows of mu_jax, and nothing saves memory: all of it is what one writes first.
"""

import math

import numpy as np

BUFFER, PEAKY, CAP = 2.0, 0.01, 50.0
"""Of the forgetting challenge: how far in φ an interval's ends move, the ratio of ranges that counts as told apart,
and the ε of what is."""


def lira(target: np.ndarray, shadow: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Mean over augmentations of log N(φ; IN) − log N(φ; OUT); [N, A], [K, N, A] and [K, N] to [N]."""
    target, shadow = target.astype(np.float64), shadow.astype(np.float64)
    density = []
    for side in (member, ~member):
        mean = np.mean(shadow, axis=0, where=side[:, :, None])
        std = np.std(shadow, axis=0, ddof=1, where=side[:, :, None])
        density.append(-(((target - mean) / std) ** 2) / 2 - np.log(std))
    return np.mean(density[0] - density[1], axis=1)


def rmia(
    target: np.ndarray,
    reference: np.ndarray,
    member: np.ndarray,
    population_target: np.ndarray,
    population_reference: np.ndarray,
    population_member: np.ndarray,
    gamma: float,
) -> np.ndarray:
    """The share of all z with ratio(x)/ratio(z) > γ, each pair's quotient computed; [N], [K, N], [Z], [K, Z] to [N]."""
    ratio = target / _typical(reference, member)
    population_ratio = population_target / _typical(population_reference, population_member)
    return np.mean(ratio[:, None] / population_ratio > gamma, axis=1)


def _typical(prob: np.ndarray, member: np.ndarray) -> np.ndarray:
    prob = prob.astype(np.float64)
    return (np.mean(prob, axis=0, where=member) + np.mean(prob, axis=0, where=~member)) / 2


def epsilons(unlearned: np.ndarray, retrained: np.ndarray, delta: float) -> np.ndarray:
    """ε of the challenge's attacks, [M, N] and [R, N] to [N], one example after another."""
    columns = zip(unlearned.T.astype(np.float64), retrained.T.astype(np.float64), strict=True)
    return np.array([_epsilon(u, r, delta) for u, r in columns])


def forgetting(epsilon: np.ndarray, models: int) -> float:
    """F: the mean of 2^−⌊2ε⌋, 0 from ⌈log(models − 1)⌉ on."""
    most = math.ceil(math.log(models - 1))
    return float(np.mean([0.5 ** math.floor(2 * one) if one < most else 0.0 for one in epsilon]))


def _epsilon(u: np.ndarray, r: np.ndarray, delta: float) -> float:
    """Every threshold, then every pair of an interval's ends: a loop over the left ones, arrays over the right."""
    above, below = (r, u) if np.median(r) > np.median(u) else (u, r)
    narrow, wide = (below, above) if np.ptp(below) <= np.ptp(above) else (above, below)
    if np.ptp(narrow) < PEAKY * np.ptp(wide):
        return CAP
    values = np.unique(np.concatenate([u, r]))

    def up_to(sample: np.ndarray) -> np.ndarray:
        """How many lie below each of the values, and below infinity."""
        return np.append(np.searchsorted(np.sort(sample), values), sample.size)

    # Thresholds: who is at or above one of the values is called `above`.
    best = _shown(1 - up_to(below) / below.size, up_to(above) / above.size, delta)

    in_narrow, in_wide = up_to(narrow), up_to(wide)
    high, span = narrow.max(), np.ptp(narrow)
    before, after = np.append(-np.inf, values[:-1]), np.append(values[1:], np.inf)
    for left in range(values.size):
        # The interval holds values[left:right + 1] where its left end is in (before, values[left]], its right end in
        # [values[right], after). Its right end must lie within BUFFER of `high`, its length within BUFFER of `span`.
        right = np.arange(left, values.size)
        least = np.maximum(values[right], high - BUFFER)
        most = min(values[left] + span + BUFFER, high + BUFFER)
        beyond, short_of = before[left] + span - BUFFER, after[right]
        allowed = (least <= most) & (beyond < short_of) & (least < short_of) & (beyond < most)
        right = right[allowed] + 1
        fnr = 1 - (in_narrow[right] - in_narrow[left]) / narrow.size
        best = max(best, _shown((in_wide[right] - in_wide[left]) / wide.size, fnr, delta))
    return best


def _shown(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> float:
    """The largest ε of these attacks; one that errs on one side alone shows nothing, one that never errs `CAP`."""
    if np.any((fpr == 0) & (fnr == 0)):
        return CAP
    counts = (fpr > 0) & (fnr > 0)
    fpr, fnr = fpr[counts], fnr[counts]
    ratio = np.concatenate([[1.0], (1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr])
    return float(np.log(ratio.max()))
