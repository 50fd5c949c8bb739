"""How well forgetting went: ε of telling unlearned from retrained models by one example's φ, and the score F.

The measure of the NeurIPS 2023 machine-unlearning challenge (Triantafillou et al., "Are we making progress in
unlearning? Findings from the first NeurIPS unlearning competition", 2024; its public scorer is
google-deepmind/unlearning_evaluation). An attack looks at φ of one forgotten example and says which kind of model it
came from. With FPR and FNR its two error rates over the models at hand, it shows that

    ε ≥ max(log(1 − δ − FPR) − log FNR, log(1 − δ − FNR) − log FPR).

Small is good: 0 where no attack beats a guess.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from mu_jax.config import InputError

CAP = 50.0
"""ε of an attack that never errs, and of a peaky distribution; larger than any ratio of counts reaches."""

PEAKY = 0.01
"""Below this ratio of the two ranges, the narrower distribution counts as told apart by any means."""

BUFFER = 2.0
"""How far, in φ, the challenge moves both ends of its interval; the same number for every example and scale of φ."""

BIN = 0.5
"""Width in ε of one bin of the score; each is worth half of the one before."""

BLOCK_ELEMENTS = 2**14
"""Values of φ that a thread works on at a time; all arrays made of them fit in a core's cache."""

RULES = ("challenge", "intervals")


def per_example_epsilon(
    phi_unlearned: Num[Array | np.ndarray, "M N"],
    phi_retrained: Num[Array | np.ndarray, "R N"],
    delta: float = 1e-5,
    *,
    rules: str = "challenge",
) -> Float[np.ndarray, "N"]:
    """ε of the best attack on each example, in [0, 50], from M unlearned and R retrained models.

    Two families of attacks, both searched exactly:

    - `challenge`, what the public scorer searches on a grid of 100 thresholds per unit of φ, here without the grid:
      every single threshold, above which the distribution with the larger median is called (unlearned, where they
      tie); and every interval, within which the one with the smaller range is called (where ranges tie, the one with
      the smaller median). As there, an interval's right end lies within `BUFFER` of the largest φ of that
      distribution, and its length within `BUFFER` of its range.
    - `intervals`: every interval of φ, bounded or not, calling either distribution within. This contains `challenge`
      and every single threshold in both directions, and does not change under a monotone transform of φ. More attacks
      to choose from also find more in pure noise.

    As in the public scorer, an attack with exactly one error rate of 0 is dropped (too few models to tell how small
    it is), one with both 0 gives 50, and so does a range below 1% of the other's. What the grid steps over is found
    here, so ε is at least the scorer's and equals it as its grid grows finer; the scorer as published raises on its
    last assertion and cannot be run unchanged. Identical constants give 0, where it finds no threshold at all.
    ε is at most log(n − 1), n the larger of M and R, unless it is 50, and is biased upwards: the best attack is chosen
    on the models that judge it.

    The best interval maximises a ratio of two sums over its ends, so it is found by Dinkelbach's iteration ("On
    nonlinear fractional programming", 1967) in O(n log n) an example instead of trying all O(n²) pairs. Float64
    whatever the input; InputError for fewer than two models of a kind, φ that is not finite, or δ outside [0, 1).

    >>> per_example_epsilon(np.array([[0.0], [1.0], [2.0]]), np.array([[0.5], [1.5], [2.5]]), 0.0).round(3)
    array([0.693])
    """
    unlearned, retrained = checked(phi_unlearned, phi_retrained)
    if not 0 <= delta < 1:
        raise InputError(f"delta is {delta}, but expected a value in [0, 1); the challenge uses 1e-5.")
    if rules not in RULES:
        raise InputError(f"rules is {rules!r}, but expected one of: {', '.join(RULES)}; take the first.")
    examples = unlearned.shape[1]
    step = max(1, BLOCK_ELEMENTS // (unlearned.shape[0] + retrained.shape[0]))

    def block(start: int) -> Float[np.ndarray, "n"]:
        columns = slice(start, start + step)
        return _epsilon(
            np.ascontiguousarray(unlearned[:, columns].T, np.float64),
            np.ascontiguousarray(retrained[:, columns].T, np.float64),
            delta,
            rules,
        )

    # NumPy lets go of the interpreter inside its loops, so threads share the work without copies of φ.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return np.concatenate(list(pool.map(block, range(0, examples, step))))


def forgetting_points(epsilon: Float[Array | np.ndarray, "N"], models: int) -> Float[np.ndarray, "N"]:
    """H(ε) = 2^−⌊2ε⌋ below ⌈log(models − 1)⌉ and 0 from there on: what an example adds to the score, in [0, 1].

    ⌈log(n − 1)⌉ is the public scorer's estimate of the largest ε that n models of a kind can show; with as many
    of the other kind only 50 reaches it. At least 3 models, because 2 would score 0 whatever they are.
    """
    if models < 3:
        raise InputError(
            f"There are {models} models of a kind, but expected at least 3; with 2 every example scores 0."
        )
    epsilon = np.asarray(epsilon, np.float64)
    return np.where(epsilon < math.ceil(math.log(models - 1)), 0.5 ** np.floor(epsilon / BIN), 0.0)


def forgetting_score(
    phi_unlearned: Num[Array | np.ndarray, "M N"],
    phi_retrained: Num[Array | np.ndarray, "R N"],
    delta: float = 1e-5,
    *,
    rules: str = "challenge",
) -> float:
    """The challenge's forgetting quality F: the mean of H(ε) over the N forgotten examples, in [0, 1]; 1 is best.

    Read it beside the F of a second set of retrained models, which is far below 1 because ε is biased upwards: for φ
    from one normal distribution of variance 1 about 0.18, with 32 models of a kind as with 512, and between 0.10 and
    0.23 for standard deviations of 0.5 to 16; with `rules="intervals"` 0.09 at 32, 0.06 at 128 and 0.05 at 512. Where
    M and R differ, the smaller one sets the bins.
    """
    epsilon = per_example_epsilon(phi_unlearned, phi_retrained, delta, rules=rules)
    models = min(np.shape(phi_unlearned)[0], np.shape(phi_retrained)[0])
    return float(np.mean(forgetting_points(epsilon, models)))


def final_score(
    forgetting: float,
    retain_accuracy_unlearned: float,
    retain_accuracy_retrained: float,
    test_accuracy_unlearned: float,
    test_accuracy_retrained: float,
) -> float:
    """The challenge's final score F · (RA_u/RA_r) · (TA_u/TA_r), each accuracy a fraction, averaged over the models.

    Not capped: models more accurate than the retrained ones raise it, so it may exceed 1.
    """
    for name, value, low in (
        ("forgetting", forgetting, 0.0),
        ("retain_accuracy_unlearned", retain_accuracy_unlearned, 0.0),
        ("test_accuracy_unlearned", test_accuracy_unlearned, 0.0),
        ("retain_accuracy_retrained", retain_accuracy_retrained, math.ulp(0.0)),
        ("test_accuracy_retrained", test_accuracy_retrained, math.ulp(0.0)),
    ):
        if not low <= value <= 1:
            raise InputError(
                f"{name} is {value}, but expected a fraction in {'(' if low else '['}0, 1]; divide percent by 100."
            )
    retain = retain_accuracy_unlearned / retain_accuracy_retrained
    return float(forgetting * retain * (test_accuracy_unlearned / test_accuracy_retrained))


def checked(
    phi_unlearned: Array | np.ndarray, phi_other: Array | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both signals as NumPy arrays, not copied, or an InputError that says what is wrong with them."""
    unlearned, other = np.asarray(phi_unlearned), np.asarray(phi_other)
    if unlearned.ndim != 2 or other.ndim != 2 or unlearned.shape[1] != other.shape[1]:
        raise InputError(
            f"φ of the unlearned models has shape {unlearned.shape} and of the retrained ones {other.shape}, but "
            "expected [models, examples] with the same examples in both; select the forgotten ones from either."
        )
    if min(unlearned.shape[0], other.shape[0]) < 2 or unlearned.shape[1] < 1:
        raise InputError(
            f"There are {unlearned.shape[0]} unlearned and {other.shape[0]} retrained models and {other.shape[1]} "
            "examples, but expected at least 2 models of each kind and 1 example; φ is [models, examples]."
        )
    bad = np.sum(~np.isfinite(unlearned)) + np.sum(~np.isfinite(other))
    if bad:
        raise InputError(
            f"{bad} values of φ are not finite, but expected all to be; compute φ with "
            "mu_jax.attacks.signals.logit_margin, and find the model that diverged."
        )
    return unlearned, other


def _epsilon(
    unlearned: Float[np.ndarray, "n M"], retrained: Float[np.ndarray, "n R"], delta: float, rules: str
) -> Float[np.ndarray, "n"]:
    """ε of a block of examples, one a row."""
    values = np.concatenate([unlearned, retrained], axis=1)
    order = np.argsort(values, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    # Between two neighbours, before the first and behind the last lie the cuts: all that a threshold can do.
    from_unlearned = np.pad(np.cumsum(order < unlearned.shape[1], axis=1), ((0, 0), (1, 0)))
    below = np.stack([from_unlearned, np.arange(values.shape[1] + 1) - from_unlearned])
    cut = np.pad(values[:, 1:] > values[:, :-1], ((0, 0), (1, 1)), constant_values=True)

    retrained_above = np.median(retrained, axis=1) > np.median(unlearned, axis=1)
    spans = np.stack([np.ptp(unlearned, axis=1), np.ptp(retrained, axis=1)])
    # The narrower one; of equals, the one with the smaller median.
    narrow = np.where(spans[0] == spans[1], ~retrained_above, spans[1] < spans[0]).astype(int)
    low, high = (
        np.where(narrow, edge(retrained, axis=1), edge(unlearned, axis=1))[:, None]
        for edge in (np.min, np.max)
    )
    rows = np.arange(len(values))
    ratio = np.ones(len(values))
    if rules == "challenge":
        above = retrained_above.astype(int)
        _best_threshold(below[above, rows], below[1 - above, rows], cut, ratio, delta)
        start, first, last = _challenge_windows(values, low, high)
        _best_interval(below[narrow, rows], below[1 - narrow, rows], cut, start, first, last, ratio, delta)
    else:
        first, last = np.zeros(cut.shape, int), np.full(cut.shape, cut.shape[1] - 1)
        for inside in (0, 1):
            _best_interval(below[inside], below[1 - inside], cut, cut, first, last, ratio, delta)
    # Some attack never errs exactly where the narrower range holds nothing of the other distribution.
    held = np.sum((values >= low) & (values <= high), axis=1)
    separated = held == np.where(narrow, retrained.shape[1], unlearned.shape[1])
    peaky = np.min(spans, axis=0) < PEAKY * np.max(spans, axis=0)
    return np.where(separated | peaky, CAP, np.log(ratio))


def _best_threshold(
    positive: Int[np.ndarray, "n G"],
    negative: Int[np.ndarray, "n G"],
    cut: Bool[np.ndarray, "n G"],
    ratio: Float[np.ndarray, "n"],
    delta: float,
) -> None:
    """Raise e^ε to that of the best single threshold; `positive` is called above it.

    `positive` and `negative` count the models of either kind below each of the G cuts.
    """
    fnr, fpr = positive / positive[:, -1:], (negative[:, -1:] - negative) / negative[:, -1:]
    counts = cut & (fnr > 0) & (fpr > 0)
    for one, other in ((fpr, fnr), (fnr, fpr)):
        found = np.divide(1 - delta - one, other, out=np.zeros_like(ratio, shape=cut.shape), where=counts)
        np.maximum(ratio, np.max(found, axis=1), out=ratio)


def _challenge_windows(
    values: Float[np.ndarray, "n V"], low: Float[np.ndarray, "n 1"], high: Float[np.ndarray, "n 1"]
) -> tuple[Bool[np.ndarray, "n G"], Int[np.ndarray, "n G"], Int[np.ndarray, "n G"]]:
    """Which cuts an interval may start at, and the first and last cut it may then end at, each of the G = V + 1 cuts.

    The challenge's interval [l, r] has r in [high − B, high + B] and l in [r − w − B, r − w + B], where the narrower
    distribution reaches from `low` to `high`, w = high − low and B = `BUFFER`. A pair of cuts is allowed where some
    such l and r lie in them; for each start these are neighbours.
    """
    before = np.pad(values, ((0, 0), (1, 0)), constant_values=-np.inf)
    after = np.pad(values, ((0, 0), (0, 1)), constant_values=np.inf)
    span = high - low
    smallest = np.maximum(before + span - BUFFER, high - BUFFER)
    largest = np.minimum(after + span + BUFFER, high + BUFFER)
    queries = np.concatenate([smallest, largest], axis=1)
    found = np.stack([np.searchsorted(v, q, side="right") for v, q in zip(values, queries, strict=True)])
    start = (after >= low - 2 * BUFFER) & (before < low + 2 * BUFFER)
    return start, found[:, : before.shape[1]], found[:, before.shape[1] :]


def _best_interval(
    inside: Int[np.ndarray, "n G"],
    outside: Int[np.ndarray, "n G"],
    cut: Bool[np.ndarray, "n G"],
    start: Bool[np.ndarray, "n G"],
    first: Int[np.ndarray, "n G"],
    last: Int[np.ndarray, "n G"],
    ratio: Float[np.ndarray, "n"],
    delta: float,
) -> None:
    """Raise e^ε to that of the best interval; `inside` is called within it.

    `inside` and `outside` count the models of either kind below each of the G cuts. Both ratios of ε are N/D with N
    and D linear in the counts, and some interval beats λ exactly where max(N − λD) > 0; as that is a difference of
    one function of the two ends, its maximum is that of a sliding window. λ is then the ratio found, until none
    beats it. Most often that takes three to six rounds.
    """
    cuts = cut.shape[1]
    total_in, total_out = inside[:, -1], outside[:, -1]
    # Both error rates above 0: one model of the others within, which asks for a later end, ...
    behind = np.where(np.diff(outside, axis=1) > 0, np.arange(1, cuts), cuts)
    behind = np.pad(
        np.minimum.accumulate(behind[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)), constant_values=cuts
    )
    first = np.maximum(first, behind)
    # ... and one of the own kind left out, which asks for an earlier end where none is left out before the start.
    short = np.sum(inside < total_in[:, None], axis=1, keepdims=True) - 1
    last = np.where(inside == 0, np.minimum(last, short), last)
    start = start & cut & (first <= last)

    # A sparse table: the maximum over 2^k neighbours at row k, two of which cover any window.
    level = np.frexp(np.maximum(last - first + 1, 1))[1] - 1
    left = level * cuts + np.minimum(first, cuts - 1)
    right = level * cuts + np.maximum(last + 1 - (1 << level), 0)
    levels = int(np.max(level)) + 1
    share_in, share_out = inside / total_in[:, None], outside / total_out[:, None]
    for errors_first in (True, False):
        rows = np.flatnonzero(start.any(axis=1))
        while rows.size:
            scale = ratio[rows, None]
            if errors_first:
                gain = scale * share_in[rows] - share_out[rows]
            else:
                gain = share_in[rows] - scale * share_out[rows]
            table = np.empty((rows.size, levels, cuts))
            table[:, 0] = np.where(cut[rows], gain, -np.inf)
            for k in range(1, levels):
                half = 1 << (k - 1)
                np.maximum(table[:, k - 1, :-half], table[:, k - 1, half:], out=table[:, k, :-half])
                table[:, k, -half:] = table[:, k - 1, -half:]
            flat = table.reshape(rows.size, -1)
            best = np.maximum(
                np.take_along_axis(flat, left[rows], axis=1), np.take_along_axis(flat, right[rows], axis=1)
            )
            best = np.where(start[rows], best - gain, -np.inf)
            at = np.argmax(best, axis=1)
            # Windows may hold no cut at all where values tie.
            some = best[np.arange(rows.size), at] > -np.inf
            rows, at, table = rows[some], at[some], table[some]
            window = (np.arange(cuts) >= first[rows, at, None]) & (np.arange(cuts) <= last[rows, at, None])
            to = np.argmax(np.where(window, table[:, 0], -np.inf), axis=1)
            fpr = (outside[rows, to] - outside[rows, at]) / total_out[rows]
            fnr = (total_in[rows] - inside[rows, to] + inside[rows, at]) / total_in[rows]
            found = (1 - delta - fpr) / fnr if errors_first else (1 - delta - fnr) / fpr
            better = found > ratio[rows]
            rows = rows[better]
            ratio[rows] = found[better]
