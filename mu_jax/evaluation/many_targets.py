"""One attack judged against T target models that share N examples, as the block of `results.json` that describes it.

One target says little at a low FPR: of its 25,000 non-members, 0.001% is none. So the pairs (target, example) are
pooled, thresholds come from other targets, and intervals resample targets and examples
(`mu_jax.evaluation.two_way_bootstrap`). Host NumPy in float64; scores may be ±inf, never NaN; figures are fractions.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from mu_jax.config import InputError
from mu_jax.evaluation import intervals, roc
from mu_jax.evaluation.intervals import Interval
from mu_jax.evaluation.membership import evaluate_scores
from mu_jax.evaluation.two_way_bootstrap import ScoreBins, score_bins, two_way_intervals

PRIORS = (0.01, 0.1, 0.5)
"""Shares of members among the attacked for which the predictive value is reported."""


def evaluate_targets(
    scores: Num[Array | np.ndarray, "T N"],
    is_member: Bool[Array | np.ndarray, "T N"],
    *,
    fpr: tuple[float, ...] = (0.001, 0.01),
    level: float = 0.95,
    samples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All that is reported of an attack on T targets; the keys of `evaluate_scores`, and more.

    `auc`, `auc_distance`, `best_accuracy` and each row's `tpr` and `false_positives` are those of all T·N pairs under
    one threshold, the best for these pairs, exact where scores tie. `accuracy`, `advantage` and each row's
    `shadow_threshold_tpr` and `shadow_threshold_fpr` are the pooled rates of thresholds learned elsewhere
    (`shadow_decisions`): all an attacker can have, for he cannot see whom the target was trained on. The second may
    exceed the row's `fpr`; it is what was asked for only on average. They are None where a threshold would have to be
    learned without members or without non-members.

    `ppv` has a row for each of `fpr` and each of three priors: the share of true members among those called, at the
    shadow-only threshold's rates (at the target-optimal one's for T = 1, or where there is no other); None where
    nobody is called. `per_target` holds each target's own AUC and their standard deviation (dividing by T − 1).

    Intervals are of targets and examples both drawn anew, `resampled` says so; decisions are held fixed in that of
    `accuracy`. Where its ends meet or lie on 0 or 1, an interval is joined with the score interval of a single target
    of average size, as if the other targets repeated it. `samples` is 1,000 where it is None, and less, never below
    200, where T·N exceeds 4 million (`two_way_intervals`, which also says how conservative the intervals are).

    With T = 1 this is `evaluate_scores`: intervals resample the examples alone, thresholds are cross-fitted over
    examples, and the shadow-only rates and the standard deviation are None.
    """
    score, member = checked_targets(scores, is_member)
    targets = member.shape[0]
    own = [roc.auc(s, m) for s, m in zip(score, member, strict=True)]
    if targets == 1:
        block = evaluate_scores(
            score[0], member[0], fpr=fpr, level=level, samples=1000 if samples is None else samples, seed=seed
        )
        for row in block["tpr_at_fpr"]:
            row |= {"shadow_threshold_tpr": None, "shadow_threshold_fpr": None}
        optimal = [roc.operating_point(score[0], member[0], rate) for rate in fpr]
        reached = [(point.tpr, point.fpr) for point in optimal]
        resampled, used = "examples", 1000 if samples is None else samples
    else:
        block, reached, used = _pooled(score, member, fpr, level, samples, seed)
        resampled = "targets and examples"
    return block | {
        "ppv": [
            {"fpr": float(rate), "prior": prior, "ppv": predictive_value(*found, prior)}
            for rate, found in zip(fpr, reached, strict=True)
            for prior in PRIORS
        ],
        "targets": targets,
        "per_target": {"auc": own, "auc_sd": float(np.std(own, ddof=1)) if targets > 1 else None},
        "resampled": resampled,
        "samples": used,
    }


def predictive_value(tpr: float, fpr: float, prior: float) -> float | None:
    """π·TPR / (π·TPR + (1 − π)·FPR): the share of true members among those called, where a share π are members.

    None where nobody is called. Jayaraman et al., "Revisiting Membership Inference Under Realistic Assumptions", 2021.

    >>> round(predictive_value(0.1, 0.001, 0.01), 3)
    0.503
    """
    called = prior * tpr + (1 - prior) * fpr
    return prior * tpr / called if called > 0 else None


class ShadowDecisions(NamedTuple):
    """Whom thresholds learned elsewhere call a member."""

    best: Bool[np.ndarray, "T N"]
    """By the threshold of the best balanced accuracy."""
    at_fpr: tuple[Bool[np.ndarray, "T N"], ...]
    """By the threshold of each FPR asked for."""


def shadow_decisions(
    bins: Int[np.ndarray, "T N"],
    is_member: Bool[np.ndarray, "T N"],
    score: ScoreBins,
    fpr: tuple[float, ...],
    *,
    seed: int = 0,
) -> ShadowDecisions | None:
    """Each pair (t, n) judged by a threshold that neither target t nor example n had a part in.

    Examples are dealt into two halves at random; the threshold for target t and one half is `best_threshold`, or that
    of `operating_point`, of the other targets' pooled scores of the other half (to within one bin where `score` has
    not one for each distinct score). Leaving out the target alone was tried and rejected: where each example is in
    exactly half of the targets, the others hold it as a member less often just where the target does, and scores with
    an example effect then teach thresholds that are worse than none (accuracy 0.488 ± 0.001 on scores that know
    nothing, T = 4, N = 400; 0.498 ± 0.001 so). None where the pairs to learn from lack members or non-members.
    """
    targets, examples = bins.shape
    half = np.random.default_rng(seed).permutation(np.arange(examples) % 2)
    size = score.lowest.size
    best = np.zeros(bins.shape, bool)
    at_fpr = tuple(np.zeros(bins.shape, bool) for _ in fpr)
    for here in (half == 0, half == 1):
        code = bins[:, ~here] + size * ~is_member[:, ~here]
        total = sum(np.bincount(row, minlength=2 * size) for row in code)
        for t in range(targets):
            others = total - np.bincount(code[t], minlength=2 * size)
            true, false = np.cumsum(others[:size]), np.cumsum(others[size:])
            if not true[-1] or not false[-1]:
                return None
            best[t, here] = bins[t, here] < _called_for_accuracy(true, false, score)
            for decision, rate in zip(at_fpr, fpr, strict=True):
                decision[t, here] = bins[t, here] < _called_at(true, false, rate)
    return ShadowDecisions(best, at_fpr)


def checked_targets(
    scores: Num[Array | np.ndarray, "T N"], is_member: Bool[Array | np.ndarray, "T N"]
) -> tuple[Float[np.ndarray, "T N"], Bool[np.ndarray, "T N"]]:
    """Float64 scores and boolean truth of T targets, or an InputError that says what is wrong with them."""
    given, member = np.asarray(scores), np.asarray(is_member)
    if member.dtype != bool:
        raise InputError(
            f"is_member has dtype {member.dtype}, but expected booleans; convert labels with `labels == 1`."
        )
    if given.dtype.kind not in "fiu" and given.dtype.name != "bfloat16":
        raise InputError(
            f"scores have dtype {given.dtype}, but expected real numbers; pass one score for each target and example."
        )
    if given.ndim != 2 or given.shape != member.shape or given.size == 0:
        raise InputError(
            f"scores have shape {given.shape} and is_member {member.shape}, but expected both to be [targets, "
            "examples]; give a single target's scores as `scores[None]`."
        )
    one_sided = np.flatnonzero(member.all(axis=1) | ~member.any(axis=1))
    if one_sided.size:
        t = one_sided[0]
        raise InputError(
            f"target {t} has {member[t].sum()} members and {np.sum(~member[t])} non-members, but expected at least "
            "one of each; leave such targets out, an attack is judged by telling the two apart."
        )
    score = given.astype(np.float64)
    missing = np.isnan(score).any(axis=1)
    if missing.any():
        raise InputError(
            f"scores of {missing.sum()} of {missing.size} targets, {np.argmax(missing)} the first, hold NaN, but "
            "expected numbers; find the model or attack that diverged, or leave these targets out."
        )
    return score, member


def _pooled(
    score: Float[np.ndarray, "T N"],
    member: Bool[np.ndarray, "T N"],
    fpr: tuple[float, ...],
    level: float,
    samples: int | None,
    seed: int,
) -> tuple[dict[str, Any], list[tuple[float, float]], int]:
    """The block for several targets; the rates that predictive values are read from; resamples used."""
    for rate in fpr:
        if not 0 <= rate <= 1:
            raise InputError(f"fpr is {rate}, but expected a rate in [0, 1]; 0.01 is a common choice.")
    # One sort of all pairs; the helpers below read the curve as `roc.auc` and its neighbours do.
    curve = roc.roc_curve(score.ravel(), member.ravel())
    members, nonmembers = int(curve.true_positives[-1]), int(curve.false_positives[-1])
    best = float(np.max(curve.tpr - curve.fpr) + 1) / 2
    area = np.sum(np.diff(curve.false_positives) * (curve.true_positives[1:] + curve.true_positives[:-1]))
    area = float(area / (2 * members * nonmembers))
    points = []
    for rate in fpr:
        called = _called_at(curve.true_positives[1:], curve.false_positives[1:], rate)
        points.append(
            (float(curve.tpr[called]), float(curve.fpr[called]), int(curve.false_positives[called]))
        )
    groups = score_bins(curve)
    del curve
    bins = groups.index(score)
    decisions = shadow_decisions(bins, member, groups, fpr, seed=seed)
    bounds = two_way_intervals(
        bins,
        member,
        groups.lowest.size,
        fpr=fpr,
        called=None if decisions is None else decisions.best,
        level=level,
        samples=samples,
        seed=seed,
    )
    # Where resampling cannot see, targets are taken to repeat each other, so that examples alone count.
    side = max(1, members // len(score)), max(1, nonmembers // len(score))
    rows, reached = [], []
    for i, (rate, point) in enumerate(zip(fpr, points, strict=True)):
        tpr, false, count = point
        shadow = None, None
        if decisions is not None:
            shadow = roc.rates(decisions.at_fpr[i].ravel(), member.ravel())
        wilson = intervals.proportion_interval(round(tpr * side[0]), side[0], level=level)
        rows.append(
            {
                "fpr": float(rate),
                "tpr": tpr,
                "false_positives": count,
                "interval": list(_widened(bounds.tpr_at_fpr[i], wilson)),
                "shadow_threshold_tpr": shadow[0],
                "shadow_threshold_fpr": shadow[1],
            }
        )
        reached.append((tpr, false) if decisions is None else shadow)
    accuracy, advantage, accuracy_interval = None, None, None
    if decisions is not None:
        tpr, false = roc.rates(decisions.best.ravel(), member.ravel())
        accuracy, advantage = (tpr + 1 - false) / 2, tpr - false
        accuracy_interval = list(_widened(bounds.accuracy, _accuracy_of_one(tpr, false, *side, level)))
    block = {
        "auc": area,
        "auc_distance": abs(area - 0.5),
        "accuracy": accuracy,
        "best_accuracy": best,
        "advantage": advantage,
        "tpr_at_fpr": rows,
        "interval": {
            "auc": list(_widened(bounds.auc, intervals._auc_score_interval(area, *side, level))),
            "accuracy": accuracy_interval,
            "level": float(level),
        },
        "members": members,
        "nonmembers": nonmembers,
    }
    return block, reached, bounds.samples


def _called_at(true: Int[np.ndarray, "P"], false: Int[np.ndarray, "P"], rate: float) -> int:
    """How many of the leading groups an FPR allows: the most members found, then the fewest others called."""
    allowed = int(np.searchsorted(false / false[-1], rate, side="right"))
    if allowed == 0 or true[allowed - 1] == 0:
        return 0
    return int(np.searchsorted(true, true[allowed - 1], side="left")) + 1


def _called_for_accuracy(true: Int[np.ndarray, "B"], false: Int[np.ndarray, "B"], score: ScoreBins) -> int:
    """How many of the leading bins `best_threshold` of the counted scores calls; bins may be empty."""
    gain = np.append(0.0, true / true[-1] - false / false[-1])
    best = int(np.argmax(gain))
    if best == 0:
        return 0
    both = true + false
    following = int(np.searchsorted(both, both[best - 1], side="right"))
    if following == both.size:
        return both.size
    upper, lower = score.lowest[best - 1], score.lowest[following]
    largest = np.finfo(np.float64).max
    middle = max(lower, -largest) / 2 + min(upper, largest) / 2
    return score.called(middle if middle > lower else upper)


def _widened(bootstrap: Interval, fallback: Interval) -> Interval:
    if bootstrap.low < bootstrap.high and bootstrap.low > 0 and bootstrap.high < 1:
        return bootstrap
    return Interval(min(bootstrap.low, fallback.low), max(bootstrap.high, fallback.high))


def _accuracy_of_one(tpr: float, fpr: float, members: int, nonmembers: int, level: float) -> Interval:
    """The interval that `balanced_accuracy_interval` gives one target with such rates."""
    truth = np.arange(members + nonmembers) < members
    called = np.concatenate(
        [np.arange(members) < round(tpr * members), np.arange(nonmembers) < round(fpr * nonmembers)]
    )
    return intervals.balanced_accuracy_interval(called, truth, level=level)
