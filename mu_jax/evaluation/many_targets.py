"""One attack judged against T target models that share N examples, as the block of `results.json` that describes it.

One target says little at a low FPR: of its 25,000 non-members, 0.001% is none. So the pairs (target, example) are
pooled, thresholds come from shadow models or other targets, and intervals let targets and examples vary
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
    shadow_scores: Num[Array | np.ndarray, "S shadow_N"] | None = None,
    shadow_is_member: Bool[Array | np.ndarray, "S shadow_N"] | None = None,
) -> dict[str, Any]:
    """All that is reported of an attack on T targets; the keys of `evaluate_scores`, and more.

    `auc`, `auc_distance`, `best_accuracy` and each row's `tpr` and `false_positives` are those of all T·N pairs under
    one threshold, the best for these pairs, exact where scores tie. `accuracy`, `advantage` and each row's
    `shadow_threshold_tpr`, `_fpr` and `_false_positives` are the pooled rates of thresholds learned elsewhere, all
    that an attacker can have, for he cannot see whom the target was trained on; the FPR may exceed the row's `fpr`, it
    is what was asked for only on average. `thresholds` says where they were learned:

        "shadow models"  on `shadow_scores`, those of the same attack on the attacker's own models, each left out of
                         its own references (`thresholds_of`); for any T
        "other targets"  otherwise, for T > 1 (`shadow_decisions`)
        "cross-fitted"   otherwise, for T = 1, over its examples, for `accuracy` and `advantage` alone; rows have None
        None             nowhere: other targets, or the one, lack members or non-members to learn from; all are None

    `ppv` has a row for each of `fpr` and each of three priors: the share of true members among those called, at the
    row's shadow-threshold rates (the target-optimal ones where these are None), beside the `false_positives` counted
    there. It is None where there are none: an FPR measured as 0 is below what so few non-members can show, and what it
    is decides the value at a small prior. `per_target` holds each target's own AUC and their standard deviation
    (dividing by T − 1).

    Intervals are for other targets and other examples, `resampled` says so; decisions are held fixed in that of
    `accuracy`. Where its ends meet or lie on 0 or 1, or a side has fewer than ten examples, an interval is joined with
    the score interval of a single target of average size, as if the other targets repeated it. `samples` counts the
    resamples behind TPRs with few counts, 0 where there was no such; given, it is how many to draw
    (`two_way_intervals`, which also says how well the intervals cover).

    With T = 1 this is `evaluate_scores`: intervals resample the examples alone, and the standard deviation is None.
    InputError for NaN, for a target without members or without non-members, and for shapes that do not fit.
    """
    score, member = checked_targets(scores, is_member)
    learned = thresholds_of(shadow_scores, shadow_is_member, fpr)
    targets = member.shape[0]
    own = [roc.auc(s, m) for s, m in zip(score, member, strict=True)]
    if targets == 1:
        used = 1000 if samples is None else samples
        block = _single(score[0], member[0], fpr, level, used, seed, learned)
    else:
        block, used = _pooled(score, member, fpr, level, samples, seed, learned)
    return block | {
        "ppv": [
            {"fpr": row["fpr"], "prior": prior, **_predictive(row, block["nonmembers"], prior)}
            for row in block["tpr_at_fpr"]
            for prior in PRIORS
        ],
        "targets": targets,
        "per_target": {"auc": own, "auc_sd": float(np.std(own, ddof=1)) if targets > 1 else None},
        "resampled": "targets and examples" if targets > 1 else "examples",
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


def _predictive(row: dict[str, Any], nonmembers: int, prior: float) -> dict[str, Any]:
    """The predictive value of a row of `tpr_at_fpr`, and the count behind it."""
    tpr, false = row["shadow_threshold_tpr"], row["shadow_threshold_false_positives"]
    if tpr is None:
        tpr, false = row["tpr"], row["false_positives"]
    return {
        "ppv": predictive_value(tpr, false / nonmembers, prior) if false else None,
        "false_positives": false,
    }


class Thresholds(NamedTuple):
    """Scores from which on an example is called a member; None calls nobody one, even where its score is inf."""

    best: float | None
    """Of the best balanced accuracy."""
    at_fpr: tuple[float | None, ...]
    """Of each FPR asked for."""

    def decide(self, scores: Float[np.ndarray, "T N"]) -> "ShadowDecisions":
        """Whom they call a member."""

        def called(threshold: float | None) -> Bool[np.ndarray, "T N"]:
            return np.zeros(scores.shape, bool) if threshold is None else scores >= threshold

        return ShadowDecisions(called(self.best), tuple(map(called, self.at_fpr)))


def thresholds_of(
    shadow_scores: Num[Array | np.ndarray, "S shadow_N"] | None,
    shadow_is_member: Bool[Array | np.ndarray, "S shadow_N"] | None,
    fpr: tuple[float, ...],
) -> Thresholds | None:
    """`best_threshold`, and that of `operating_point` at each FPR, of the pooled scores of S shadow models.

    None without scores. InputError where one argument is given and not the other, for NaN, and where all pairs are
    members or none is; a single model may lack a side.
    """
    if shadow_scores is None and shadow_is_member is None:
        return None
    if shadow_scores is None or shadow_is_member is None:
        missing = "shadow_scores" if shadow_scores is None else "shadow_is_member"
        raise InputError(f"{missing} is None, but expected both it and its twin; give both, or neither.")
    score, member = _checked_matrices(shadow_scores, shadow_is_member, "shadow_", "shadow models")
    if member.all() or not member.any():
        raise InputError(
            f"shadow_is_member has {member.sum()} members and {np.sum(~member)} non-members, but expected at least "
            "one of each among all shadow models; a threshold is learned by telling the two apart."
        )
    curve = roc.roc_curve(score.ravel(), member.ravel())
    true, false, groups = curve.true_positives[1:], curve.false_positives[1:], ScoreBins(curve.thresholds[1:])
    at_fpr = []
    for rate in fpr:
        called = _called_at(true, false, rate)
        at_fpr.append(float(groups.lowest[called - 1]) if called else None)
    return Thresholds(_threshold_for_accuracy(true, false, groups), tuple(at_fpr))


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
    score, member = _checked_matrices(scores, is_member, "", "targets")
    one_sided = np.flatnonzero(member.all(axis=1) | ~member.any(axis=1))
    if one_sided.size:
        t = one_sided[0]
        raise InputError(
            f"target {t} has {member[t].sum()} members and {np.sum(~member[t])} non-members, but expected at least "
            "one of each; leave such targets out, an attack is judged by telling the two apart."
        )
    return score, member


def _checked_matrices(
    scores: Any, is_member: Any, prefix: str, rows: str
) -> tuple[Float[np.ndarray, "T N"], Bool[np.ndarray, "T N"]]:
    """Of targets or of shadow models, whatever was given; arguments' names begin with `prefix`."""
    given, member = np.asarray(scores), np.asarray(is_member)
    if member.dtype != bool:
        raise InputError(
            f"{prefix}is_member has dtype {member.dtype}, but expected booleans; convert labels with `labels == 1`."
        )
    if given.dtype.kind not in "fiu" and given.dtype.name != "bfloat16":
        raise InputError(
            f"{prefix}scores have dtype {given.dtype}, but expected real numbers; pass one score for each model and "
            "example."
        )
    if given.ndim != 2 or given.shape != member.shape or given.size == 0:
        raise InputError(
            f"{prefix}scores have shape {given.shape} and {prefix}is_member {member.shape}, but expected both to be "
            f"[{rows}, examples]; give a single model's scores as `scores[None]`."
        )
    score = given.astype(np.float64)
    missing = np.isnan(score).any(axis=1)
    if missing.any():
        raise InputError(
            f"{prefix}scores of {missing.sum()} of {missing.size} {rows}, {np.argmax(missing)} the first, hold NaN, "
            "but expected numbers; find the model or attack that diverged, or leave these out."
        )
    return score, member


def _single(
    score: Float[np.ndarray, "N"],
    member: Bool[np.ndarray, "N"],
    fpr: tuple[float, ...],
    level: float,
    samples: int,
    seed: int,
    learned: Thresholds | None,
) -> dict[str, Any]:
    """The block for one target, with the accuracy of learned thresholds where there are such."""
    block = evaluate_scores(score, member, fpr=fpr, level=level, samples=samples, seed=seed)
    decisions = None if learned is None else learned.decide(score[None])
    for i, row in enumerate(block["tpr_at_fpr"]):
        row |= _shadow_rates(None if decisions is None else decisions.at_fpr[i][0], member)
    source = None if block["accuracy"] is None else "cross-fitted"
    if decisions is not None:
        block["accuracy"] = roc.balanced_accuracy(decisions.best[0], member)
        block["advantage"] = roc.advantage(decisions.best[0], member)
        bounds = intervals.balanced_accuracy_interval(decisions.best[0], member, level=level)
        block["interval"]["accuracy"] = list(bounds)
        source = "shadow models"
    return block | {"thresholds": source}


def _shadow_rates(
    called: Bool[np.ndarray, "*shape"] | None, member: Bool[np.ndarray, "*shape"]
) -> dict[str, float | int | None]:
    """What a learned threshold gives; None where none was learned."""
    tpr, false, count = None, None, None
    if called is not None:
        tpr, false = roc.rates(called.ravel(), member.ravel())
        count = int(np.count_nonzero(called & ~member))
    return {
        "shadow_threshold_tpr": tpr,
        "shadow_threshold_fpr": false,
        "shadow_threshold_false_positives": count,
    }


def _pooled(
    score: Float[np.ndarray, "T N"],
    member: Bool[np.ndarray, "T N"],
    fpr: tuple[float, ...],
    level: float,
    samples: int | None,
    seed: int,
    learned: Thresholds | None,
) -> tuple[dict[str, Any], int]:
    """The block for several targets, and resamples used."""
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
        points.append((float(curve.tpr[called]), int(curve.false_positives[called])))
    groups = score_bins(curve)
    del curve
    bins = groups.index(score)
    if learned is None:
        decisions, source = shadow_decisions(bins, member, groups, fpr, seed=seed), "other targets"
    else:
        decisions, source = learned.decide(score), "shadow models"
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
    # Where the intervals cannot see, targets are taken to repeat each other, so that examples alone count.
    side = max(1, members // len(score)), max(1, nonmembers // len(score))
    rows = []
    for i, (rate, (tpr, count)) in enumerate(zip(fpr, points, strict=True)):
        wilson = intervals.proportion_interval(round(tpr * side[0]), side[0], level=level)
        row = {
            "fpr": float(rate),
            "tpr": tpr,
            "false_positives": count,
            "interval": list(_widened(bounds.tpr_at_fpr[i], wilson, side)),
        }
        rows.append(row | _shadow_rates(None if decisions is None else decisions.at_fpr[i], member))
    accuracy, advantage, accuracy_interval = None, None, None
    if decisions is not None:
        tpr, false = roc.rates(decisions.best.ravel(), member.ravel())
        accuracy, advantage = (tpr + 1 - false) / 2, tpr - false
        accuracy_interval = list(_widened(bounds.accuracy, _accuracy_of_one(tpr, false, *side, level), side))
    block = {
        "auc": area,
        "auc_distance": abs(area - 0.5),
        "accuracy": accuracy,
        "best_accuracy": best,
        "advantage": advantage,
        "tpr_at_fpr": rows,
        "interval": {
            "auc": list(_widened(bounds.auc, intervals._auc_score_interval(area, *side, level), side)),
            "accuracy": accuracy_interval,
            "level": float(level),
        },
        "members": members,
        "nonmembers": nonmembers,
        "thresholds": None if decisions is None else source,
    }
    return block, bounds.samples


def _called_at(true: Int[np.ndarray, "P"], false: Int[np.ndarray, "P"], rate: float) -> int:
    """How many of the leading groups an FPR allows: the most members found, then the fewest others called."""
    allowed = int(np.searchsorted(false / false[-1], rate, side="right"))
    if allowed == 0 or true[allowed - 1] == 0:
        return 0
    return int(np.searchsorted(true, true[allowed - 1], side="left")) + 1


def _called_for_accuracy(true: Int[np.ndarray, "B"], false: Int[np.ndarray, "B"], score: ScoreBins) -> int:
    """How many of the leading bins `best_threshold` of the counted scores calls; bins may be empty."""
    threshold = _threshold_for_accuracy(true, false, score)
    return 0 if threshold is None else score.called(threshold)


def _threshold_for_accuracy(
    true: Int[np.ndarray, "B"], false: Int[np.ndarray, "B"], score: ScoreBins
) -> float | None:
    """`best_threshold` of the counted scores; None for nobody."""
    gain = np.append(0.0, true / true[-1] - false / false[-1])
    best = int(np.argmax(gain))
    if best == 0:
        return None
    both = true + false
    following = int(np.searchsorted(both, both[best - 1], side="right"))
    if following == both.size:
        return -np.inf
    upper, lower = score.lowest[best - 1], score.lowest[following]
    largest = np.finfo(np.float64).max
    middle = max(lower, -largest) / 2 + min(upper, largest) / 2
    return float(middle if middle > lower else upper)


def _widened(found: Interval, fallback: Interval, side: tuple[int, int]) -> Interval:
    if found.low < found.high and found.low > 0 and found.high < 1 and min(side) >= intervals.FEW_EXAMPLES:
        return found
    return Interval(min(found.low, fallback.low), max(found.high, fallback.high))


def _accuracy_of_one(tpr: float, fpr: float, members: int, nonmembers: int, level: float) -> Interval:
    """The interval that `balanced_accuracy_interval` gives one target with such rates."""
    truth = np.arange(members + nonmembers) < members
    called = np.concatenate(
        [np.arange(members) < round(tpr * members), np.arange(nonmembers) < round(fpr * nonmembers)]
    )
    return intervals.balanced_accuracy_interval(called, truth, level=level)
