"""RMIA: the robust membership-inference attack, which compares an example with a population, pair by pair.

Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", 2024. With p(x|θ) the target's
probability of x's true class and p(x) what models in general give it,

    ratio(x) = p(x|θ) / p(x)        score(x) = share of the population's z with ratio(x) > γ · ratio(z).

Online, p(x) = ½(mean over references that trained on x + mean over those that did not). Offline only the second mean
p_out is known and the first is taken to be a·p_out + (1 − a), so p(x) = ½[(1 + a)·p_out + (1 − a)].

The plain mean over all references leaks: in a pool where half of the models trained on each example, one that is taken
out as the target leaves its members with one IN reference fewer than OUT references, so their p(x) is smaller and a
target that knows nothing is "attacked" with AUC 0.56 at K = 8 (the pool of the tests; how much depends on the pool).
Means of either side do not feel how many there are.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.stats import rankdata

from mu_jax.attacks.leave_one_out import opposite_models
from mu_jax.attacks.pairs import each, even_parts, share_above
from mu_jax.config import InputError

SMALLEST = float(np.finfo(np.float32).tiny)
"""p(x) is at least this, the smallest normal float32: 0/0 is then 0, and no ratio overflows."""

GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Values of `offline_a` that are tried."""

SUM_BLOCK = (32, 2**14)
"""References, and examples (times augmentations), that are summed at a time: few rows, but long ones, as memory has
them."""

IN, OUT, ALL, BOTH = "in", "out", "all", "both"
"""The models that trained on an example, those that did not, all of them as one, and either of the first two."""

CANCELLED = 2.0**-20
"""A sum that shrinks by this factor when a model leaves it is summed anew, since so many of its digits are gone."""

Mode = Literal["online", "offline"]
Vote = Literal["majority", "mean"]


def rmia_scores(
    target_prob: Float[Array | np.ndarray, "N *A"],
    reference_prob: Float[Array | np.ndarray, "K N *A"],
    reference_member: Bool[np.ndarray, "K N"],
    population_target_prob: Float[Array | np.ndarray, "Z *A"],
    population_reference_prob: Float[Array | np.ndarray, "K Z *A"],
    *,
    population_member: Bool[np.ndarray, "K Z"] | None = None,
    population_index: Int[np.ndarray, "Z"] | None = None,
    mode: Mode,
    gamma: float = 2.0,
    offline_a: float = 0.3,
    vote: Vote = "majority",
) -> Float[np.ndarray, "N"]:
    """The share of the population that each example dominates by the factor γ, in [0, 1]: float64, higher = member.

    Probabilities are those of the true class, finite and ≥ 0; a constant factor on all of the target's cancels. The
    references must not hold the target itself, nor its pair-mate. `population_member` says which references trained on
    z; without it (or all False) none did, and p(z) is the mean over all. `population_index` gives z's place among the N
    (−1: z is not among them), so that no example is compared with itself. Use population examples that the target did
    not train on. An x among the population is judged by Z − 1 others and the rest by Z, so equal counts break in favour
    of the former: an attack on nothing has an AUC below ½ by half the chance of equal counts (0.001 at Z = 2,000).

    With A augmentations a pair counts where a strict majority of them (more than A/2; an even split does not count) has
    ratio_a(x) > γ·ratio_a(z), as in the paper's code. That needs N·Z·A comparisons; `vote="mean"` averages the scores
    of single augmentations instead, an approximation that costs no more than sorting. InputError for bad arrays,
    settings, or an example without the references that `mode` needs.

    >>> one, member = np.ones(1), np.array([[True], [False]])
    >>> reference = np.array([[0.6], [0.2]])
    >>> population = np.array([0.1, 0.3, 0.4])
    >>> rmia_scores(0.8 * one, reference, member, population, np.full((2, 3), 0.4), mode="online")
    array([0.66666667])
    """
    _check_settings(mode, gamma, offline_a, vote)
    reference, member = _pool("reference", reference_prob, reference_member)
    if population_member is None:
        population_member = np.zeros(np.shape(population_reference_prob)[:2], bool)
    population, population_member = _pool(
        "population_reference", population_reference_prob, population_member
    )
    target = _target("target_prob", target_prob, reference)
    population_target = _target("population_target_prob", population_target_prob, population)
    if len(population) != len(reference) or population.shape[2] != reference.shape[2]:
        raise InputError(
            f"population_reference_prob has K, A = {len(population), population.shape[2]} and reference_prob "
            f"{len(reference), reference.shape[2]}, but expected the same references and augmentations; query the same "
            "models on both."
        )
    for k in np.flatnonzero(np.all(reference[:, 0] == target[0], axis=1)):
        if np.array_equal(reference[k], target) and np.array_equal(population[k], population_target):
            raise InputError(
                f"reference {k} gives every probability that the target gives, but expected other models; leave the "
                "target out of its own references (or use leave_one_out_rmia)."
            )
    index = _index(population_index, len(population_target), len(target))
    workers = os.cpu_count() or 1
    # Nothing is known of how models that trained on z see it where none did: OUT stands for both.
    z_mode = "out" if mode == "online" and not population_member.any() else mode
    pools = [
        ("reference_prob", reference, member, _sides(mode, member)),
        ("population_reference_prob", population, population_member, _sides(z_mode, population_member)),
    ]
    sums, z_sums = _side_sums(pools, workers)
    known = _typical(sums, _members(member), len(member), "reference", mode, offline_a)
    z_known = _typical(z_sums, _members(population_member), len(member), "population", z_mode, offline_a)
    bar = gamma * (population_target / z_known)
    return share_above(target / known, bar, index, vote, workers)


def leave_one_out_rmia(
    prob: Float[Array | np.ndarray, "K N *A"],
    member: Bool[np.ndarray, "K N"],
    *,
    mode: Mode,
    gamma: float = 2.0,
    offline_a: float = 0.3,
    targets: Sequence[int] | Int[np.ndarray, "T"] | None = None,
    vote: Vote = "majority",
    population: int = 0,
    seed: int = 0,
) -> Float[np.ndarray, "T N"]:
    """`rmia_scores` with each model of a pool (or each of `targets`) as the target in turn: float64 in [0, 1].

    For each example the references are all other models but the one of `leave_one_out.opposite_models`, so that as many
    IN and OUT remain whatever the target's membership. The population is what the target did not train on, or
    `population` of it, drawn for each target by the seed (0: all); no example meets itself. All models are summed once,
    and each target takes its two models out of the sums.
    """
    _check_settings(mode, gamma, offline_a, vote)
    if population < 0 or population == 1:
        raise InputError(f"population is {population}, but expected 0 (all) or 2 at least; change it.")
    pool = _LeaveOneOut(prob, member)
    chosen = _targets(targets, len(pool.member))
    cores = os.cpu_count() or 1
    outer = max(1, min(cores, len(chosen)))

    def attack(t: int) -> Float[np.ndarray, "N"]:
        ratio = pool.target(t) / pool.typical(t, mode, offline_a)
        outside = np.flatnonzero(~pool.member[t])
        if 0 < population < outside.size:
            outside = np.sort(np.random.default_rng([seed, t]).choice(outside, population, replace=False))
        return share_above(ratio, gamma * ratio[outside], outside, vote, cores // outer)

    return np.stack(each(attack, chosen, outer))


def search_offline_a(
    prob: Float[Array | np.ndarray, "K N *A"],
    member: Bool[np.ndarray, "K N"],
    *,
    gamma: float = 2.0,
    grid: Sequence[float] | Float[np.ndarray, "G"] = GRID,
    models: Sequence[int] | Int[np.ndarray, "T"] | None = None,
    vote: Vote = "mean",
) -> float:
    """The a of the grid with the largest mean AUC when shadow models are attacked offline; the smallest of equals.

    Each of `models` (None: the first 8 at most) is the target in turn, as in `leave_one_out_rmia`. The real target must
    not be in the pool: a that is tuned on the target's own membership flatters the attack. Augmentations are averaged
    by default: every a of the grid is a whole attack, and voting is dear.
    """
    values = [float(a) for a in grid]
    if not values:
        raise InputError("grid is empty, but expected values of a in [0, 1]; leave it out for 0, 0.1, …, 1.")
    for a in values:
        _check_settings("offline", gamma, a, vote)
    pool = _LeaveOneOut(prob, member)
    chosen = _targets(range(min(8, len(pool.member))) if models is None else models, len(pool.member))
    cores = os.cpu_count() or 1
    outer = max(1, min(cores, len(chosen)))

    def areas(t: int) -> list[float]:
        is_member, target, mean_out = pool.member[t], pool.target(t), pool.means(t, online=False)[1]
        if not is_member.any():
            raise InputError(
                f"model {t} trained on none of the examples, but expected members and non-members to tell apart; "
                "choose other models."
            )
        outside, found = np.flatnonzero(~is_member), []
        for a in values:
            ratio = target / np.maximum(0.5 * ((1 + a) * mean_out + (1 - a)), SMALLEST)
            scores = share_above(ratio, gamma * ratio[outside], outside, vote, cores // outer)
            # Mann and Whitney's statistic; average ranks count ties ½.
            members = int(is_member.sum())
            wins = rankdata(scores)[is_member].sum() - members * (members + 1) / 2
            found.append(wins / (members * outside.size))
        return found

    return values[int(np.argmax(np.mean(each(areas, chosen, outer), axis=0)))]


class _LeaveOneOut:
    """The sums of a pool, from which a target and each example's opposite model can be taken out."""

    def __init__(self, prob: Array | np.ndarray, member: np.ndarray):
        self.prob, self.member = _pool("prob", prob, member)
        self.opposite = opposite_models(self.member)
        pool = ("prob", self.prob, self.member, BOTH)
        self.sums = _side_sums([pool], os.cpu_count() or 1)[0]
        self.members = _members(self.member)

    def target(self, t: int) -> Float[np.ndarray, "N A"]:
        return np.asarray(self.prob[t], np.float64)

    def means(self, t: int, online: bool) -> tuple[Float[np.ndarray, "N A"] | None, Float[np.ndarray, "N A"]]:
        """Means over the IN (if asked for) and the OUT references of target t."""
        models, examples = self.member.shape
        other = self.opposite[t]
        left_in, left_out = self.members - 1, models - self.members - 1
        left = np.minimum(left_in, left_out) if online else left_out
        if np.any(left < 1):
            side = "IN and OUT references" if online else "OUT references"
            raise InputError(
                f"{np.sum(left < 1)} of {examples} examples, {np.argmax(left < 1)} the first, have no {side} once the "
                "target and its opposite are gone, but expected one at least; add models, or drop these examples."
            )
        if self.member[t].all():
            raise InputError(
                f"model {t} trained on all {examples} examples, but expected some that it did not, to compare with; "
                "add examples that are no members, such as test images."
            )
        if (~self.member[t]).sum() < 2:
            raise InputError(
                f"model {t} has one non-member, but expected two at least, since none is compared with itself; add "
                "examples that are no members, such as test images."
            )
        mine, own = self.member[t][:, None], self.target(t)
        others = np.asarray(self.prob[other, np.arange(examples)], np.float64)
        mean_out = self._without(False, np.where(mine, others, own), t) / left_out[:, None]
        if not online:
            return None, mean_out
        return self._without(True, np.where(mine, own, others), t) / left_in[:, None], mean_out

    def typical(self, t: int, mode: Mode, offline_a: float) -> Float[np.ndarray, "N A"]:
        mean_in, mean_out = self.means(t, online=mode == "online")
        return _combine(mean_in, mean_out, mode, offline_a)

    def _without(self, side: bool, gone: Float[np.ndarray, "N A"], t: int) -> Float[np.ndarray, "N A"]:
        """The sum over one side's models less the one that goes, to 2⁻³² of itself at least."""
        total = self.sums[IN if side else OUT]
        left = total - gone
        n, a = np.nonzero(left < CANCELLED * total)
        if n.size:
            stays = self.member[:, n] == side
            stays[t] = False
            stays[self.opposite[t, n], np.arange(n.size)] = False
            left[n, a] = np.sum(np.where(stays, self.prob[:, n, a], 0), axis=0, dtype=np.float64)
        return left


def _combine(
    mean_in: Float[np.ndarray, "N A"] | None, mean_out: Float[np.ndarray, "N A"], mode: str, offline_a: float
) -> Float[np.ndarray, "N A"]:
    """p(x) from the means of either side."""
    if mode == "online":
        known = 0.5 * (mean_in + mean_out)
    elif mode == "offline":
        known = 0.5 * ((1 + offline_a) * mean_out + (1 - offline_a))
    else:
        known = mean_out
    return np.maximum(known, SMALLEST)


def _sides(mode: str, member: Bool[np.ndarray, "K _"]) -> str:
    """Which sums p(x) needs: over all models where that is all it is made of, which costs half as much."""
    if not member.any() and mode != "online":
        return ALL
    if mode != "online":
        return OUT
    return ALL if np.all(2 * _members(member) == len(member)) else BOTH


def _typical(
    sums: Mapping[str, Float[np.ndarray, "N A"]],
    members: Int[np.ndarray, "N"],
    models: int,
    name: str,
    mode: str,
    offline_a: float,
) -> Float[np.ndarray, "N A"]:
    """p(x) from the sums over the sides; every example has the references that the mode needs, or InputError."""
    needed = {"IN": members, "OUT": models - members} if mode == "online" else {"OUT": models - members}
    for side, count in needed.items():
        if np.any(count == 0):
            raise InputError(
                f"{np.sum(count == 0)} of {count.size} examples of the {name} set, {np.argmin(count)} the first, have "
                f"no {side} reference, but expected one at least in {mode} mode; add references or drop them."
            )
    if mode == "online" and ALL in sums:  # two halves: the mean of their means is that of all
        return np.maximum(sums[ALL] / models, SMALLEST)
    mean_in = sums[IN] / members[:, None] if mode == "online" else None
    out_sum = sums[ALL] if ALL in sums else sums[OUT]
    return _combine(mean_in, out_sum / (models - members)[:, None], mode, offline_a)


def _side_sums(
    pools: Sequence[tuple[str, Float[np.ndarray, "K _ A"], Bool[np.ndarray, "K _"], str]], workers: int
) -> list[dict[str, Float[np.ndarray, "_ A"]]]:
    """Of each named pool the float64 sums over the models that trained on each example, over the others, or over all.

    One pass, and the threads share the work of all pools out at once.
    """
    sums = [
        {side: np.empty(prob.shape[1:]) for side in ((IN, OUT) if sides == BOTH else (sides,))}
        for _, prob, _, sides in pools
    ]
    tasks = [
        (name, prob, member, part, of)
        for (name, prob, member, _), of in zip(pools, sums, strict=True)
        for part in even_parts(prob.shape[1], max(1, SUM_BLOCK[1] // prob.shape[2]), workers)
    ]
    each(lambda task: _add(*task), tasks, workers)
    return sums


def _add(
    name: str, prob: np.ndarray, member: np.ndarray, part: slice, sums: Mapping[str, np.ndarray]
) -> None:
    """The sums of some examples, written where they belong."""
    models, _, views = prob.shape
    rows, width = SUM_BLOCK[0], (part.stop - part.start) * views
    # One buffer for all rows: fresh memory each time costs as much as the sums.
    buffers = None if ALL in sums else np.empty((min(rows, models), width), prob.dtype)
    totals, smallest = {side: np.zeros(width) for side in sums}, np.inf
    for first in range(0, models, rows):
        both = prob[first : first + rows, part].reshape(-1, width)
        # Row after row, so that equal columns have equal sums to the last bit; and each side on its own, since OUT as
        # the difference of sums would lose the digits of small probabilities.
        if buffers is None:
            totals[ALL] += np.add.reduce(both, axis=0, dtype=np.float64)
        else:
            mask = member[first : first + rows, part]
            mask = mask if views == 1 else np.repeat(mask, views, axis=1)
            one_side = buffers[: len(both)]
            with np.errstate(invalid="ignore"):  # ∞ · 0: refused below
                np.multiply(both, mask, out=one_side)
                if IN in totals:
                    totals[IN] += np.add.reduce(one_side, axis=0, dtype=np.float64)
                np.subtract(both, one_side, out=one_side)
                totals[OUT] += np.add.reduce(one_side, axis=0, dtype=np.float64)
        smallest = min(smallest, both.min())
    if not (smallest >= 0 and np.all(np.isfinite(sum(totals.values())))):
        both = prob[:, part].reshape(models, -1)
        wrong = np.flatnonzero(~np.all((both >= 0) & np.isfinite(both), axis=1))
        raise InputError(
            f"{name} has entries of models {wrong.tolist()} that are negative or not finite, but expected "
            "probabilities; pass σ(φ) of models that did not diverge."
        )
    for side, total in totals.items():
        sums[side][part] = total.reshape(-1, views)


def _members(member: Bool[np.ndarray, "K N"]) -> Int[np.ndarray, "N"]:
    """How many models trained on each example: in bytes, 255 at a time, ten times as fast as a sum of booleans."""
    count = np.zeros(member.shape[1], np.int64)
    for first in range(0, len(member), 255):
        count += np.add.reduce(member[first : first + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return count


def _pool(
    name: str, prob: Array | np.ndarray, member: np.ndarray
) -> tuple[Float[np.ndarray, "K N A"], Bool[np.ndarray, "K N"]]:
    """The probabilities with an axis of augmentations, and who trained on what, if their shapes fit."""
    prob, member = np.asarray(prob), np.asarray(member)
    if prob.ndim not in (2, 3) or member.shape != prob.shape[:2] or member.dtype != bool or not prob.size:
        raise InputError(
            f"{name} probabilities have shape {prob.shape} and their membership {member.shape} of {member.dtype}, but "
            "expected [K, N] or [K, N, A] and booleans [K, N], none empty; give one row for each model."
        )
    return prob.reshape(*prob.shape[:2], -1), member


def _target(
    name: str, prob: Array | np.ndarray, reference: Float[np.ndarray, "K N A"]
) -> Float[np.ndarray, "N A"]:
    """The target's probabilities in float64 with an axis of augmentations."""
    target = np.asarray(prob, np.float64)
    if (target.shape if target.ndim == 2 else (*target.shape, 1)) != reference.shape[1:]:
        raise InputError(
            f"{name} has shape {target.shape}, but expected that of one reference's, {reference.shape[1:]} with its "
            "augmentations; query the target on the same examples and views."
        )
    if not (np.all(np.isfinite(target)) and np.all(target >= 0)):
        raise InputError(
            f"{np.sum(~(np.isfinite(target) & (target >= 0)))} of {target.size} entries of {name} are negative or not "
            "finite, but expected probabilities; pass σ(φ) of a model that did not diverge."
        )
    return target.reshape(reference.shape[1:])


def _index(index: np.ndarray | None, size: int, examples: int) -> Int[np.ndarray, "Z"]:
    if index is None:
        return np.full(size, -1)
    index = np.asarray(index)
    if index.shape != (size,) or not np.issubdtype(index.dtype, np.integer):
        raise InputError(
            f"population_index has shape {index.shape} and dtype {index.dtype}, but expected {size} integers; give "
            "each population example's place among the examples, or -1."
        )
    if index.min() < -1 or index.max() >= examples:
        raise InputError(
            f"population_index runs from {index.min()} to {index.max()}, but expected -1 to {examples - 1}; give -1 "
            "where z is not among the examples."
        )
    return index


def _targets(targets: Sequence[int] | Int[np.ndarray, "T"] | None, models: int) -> list[int]:
    chosen = list(range(models)) if targets is None else [int(t) for t in targets]
    if not chosen or min(chosen) < 0 or max(chosen) >= models:
        raise InputError(
            f"the targets are {chosen}, but expected models from 0 to {models - 1}, one at least; leave them out for "
            "the whole pool."
        )
    return chosen


def _check_settings(mode: str, gamma: float, offline_a: float, vote: str) -> None:
    if mode not in ("online", "offline"):
        raise InputError(
            f"mode is {mode!r}, but expected 'online' or 'offline'; offline needs OUT references only."
        )
    if vote not in ("majority", "mean"):
        raise InputError(f"vote is {vote!r}, but expected 'majority' or 'mean'; the paper's is the majority.")
    if not 0 < gamma < np.inf:
        raise InputError(f"gamma is {gamma}, but expected a number above 0; the paper uses 1 to 2.")
    if not 0 <= offline_a <= 1:
        raise InputError(
            f"offline_a is {offline_a}, but expected a number in [0, 1]; search_offline_a finds one."
        )
