"""LiRA, the likelihood-ratio attack: what one model says of an example, against models with and without it.

Carlini et al., "Membership Inference Attacks From First Principles", 2022. For each example and query augmentation, φ
(`mu_jax.attacks.signals.logit_margin`) is taken as Gaussian over the reference models that were trained on it (IN),
and as another Gaussian over those that were not (OUT).
"""

from typing import Literal

import numpy as np
from absl import logging
from jaxtyping import Array, Bool, Float, Float64, Int
from scipy.special import log_ndtr

from mu_jax.attacks.leave_one_out import opposite_models
from mu_jax.attacks.lira_statistics import (
    block_values,
    group_sums,
    map_blocks,
    require_finite,
    side_medians,
    side_statistics,
)
from mu_jax.config import InputError

FEW_MODELS = 16
"""On a side; with fewer, a variance an example is so uncertain that one variance for all attacks better."""
RESOLUTION = 2.0**-23
"""σ is at least this share of |μ|: the spacing of float32 numbers of that size, below which φ shows no spread."""
SMALLEST_STD = 2.0**-126
"""And at least the smallest normal float32, so that φ of exact zeros have a σ too."""
LOST_SHARE = 2.0**-20
"""Where removing a model takes all of a sum of squares but this share, the rest is summed anew."""

_MODES = ("online", "offline")
_VARIANCES = ("per_example", "global")


def lira_scores(
    target_phi: Float[Array | np.ndarray, "N *A"],
    shadow_phi: Float[Array | np.ndarray, "K N *A"],
    member: Bool[Array | np.ndarray, "K N"],
    *,
    mode: Literal["online", "offline"] = "online",
    variance: Literal["per_example", "global"] = "per_example",
    reference_quirks: bool = False,
) -> Float64[np.ndarray, "N"]:
    """How likely each example was a member of the target's training set: a score in nats, higher means more likely.

    With A query augmentations (none: A = 1), the mean over them, which is a Gaussian with a diagonal covariance, of

        online   log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out)
        offline  log P(Z ≤ φ), Z ~ N(μ_out, σ_out), which needs no model that holds the example

    `member[k, x]` says whether model k was trained on example x. `variance="per_example"` estimates σ² of every example
    and augmentation with n − 1 in the denominator, not n as the public code does: then a side with fewer models does
    not look narrower, which would tell members by counting. `"global"` takes one σ_in and one σ_out per augmentation,
    √(Σ (φ − μ_x)² / Σ (n_x − 1)) with each example's own mean μ_x, so that spread between examples stays out. The
    paper finds it better below 64 models. σ is never less than `RESOLUTION`·|μ| or `SMALLEST_STD`, so identical φ give
    finite scores.

    `reference_quirks=True` repeats the authors' public code instead, to compare with its numbers: where examples have
    different numbers of models on a side, only the first as many as the poorest example has; the median over models as
    μ; n in the denominator, σ + 1e-30 without a floor; the global σ as one number for all augmentations over raw φ,
    spread between examples included, and online from the IN models on both sides; offline the *two-sided*
    −log N(φ; μ_out, σ_out), larger the farther φ lies from μ_out either way. (That code negates its scores before it
    draws the ROC curve; here they carry our sign already.)

    The arrays may be read-only memory maps of float32; statistics are float64. Raises InputError for shapes that
    disagree, values that are not finite, an example with fewer than two models on a side that the mode uses, and a
    target that is one of its own references (all φ equal).
    """
    return _scores_of_targets(
        np.asarray(target_phi)[None], shadow_phi, member, mode, variance, reference_quirks
    )[0]


def lira_scores_of_targets(
    target_phi: Float[Array | np.ndarray, "T N *A"],
    shadow_phi: Float[Array | np.ndarray, "K N *A"],
    member: Bool[Array | np.ndarray, "K N"],
    *,
    mode: Literal["online", "offline"] = "online",
    variance: Literal["per_example", "global"] = "per_example",
    reference_quirks: bool = False,
) -> Float64[np.ndarray, "T N"]:
    """`lira_scores` of T targets against the same references, which are read once."""
    return _scores_of_targets(target_phi, shadow_phi, member, mode, variance, reference_quirks)


def _scores_of_targets(target_phi, shadow_phi, member, mode, variance, reference_quirks):
    _check_settings(mode, variance)
    targets, (shadow, holds) = np.asarray(target_phi), _checked_pool("shadow_phi", shadow_phi, member)
    if targets.shape[1:] != np.shape(shadow_phi)[1:]:
        raise InputError(
            f"target_phi has shape {targets.shape[1:]} and shadow_phi {np.shape(shadow_phi)}, but expected "
            "shadow_phi's shape without its first axis; query the target with the examples and augmentations of the "
            "pool."
        )
    targets = targets.reshape(len(targets), *shadow.shape[1:])
    for target in targets:
        require_finite("target_phi", target)
        _refuse_own_reference(target, shadow)
    sides = (holds, ~holds) if mode == "online" else (~holds,)
    _require_models(sides, mode, variance, removed=0)
    if reference_quirks:
        return _reference_code_scores(targets.astype(np.float64), shadow, sides, variance)
    fitted = []
    for count, mean, squares in side_statistics("shadow_phi", shadow, sides):
        spread = squares / (count - 1)[:, None]
        if variance == "global":
            spread = np.broadcast_to(squares.sum(axis=0) / np.sum(count - 1), mean.shape)
        fitted.append((mean.ravel(), _floored(spread.ravel(), mean.ravel())))
    return np.stack(
        [_scores(target.astype(np.float64).ravel(), fitted, shadow.shape[2]) for target in targets]
    )


def leave_one_out_lira(
    phi: Float[Array | np.ndarray, "K N *A"],
    member: Bool[Array | np.ndarray, "K N"],
    *,
    mode: Literal["online", "offline"] = "online",
    variance: Literal["per_example", "global"] = "per_example",
    targets: Int[Array | np.ndarray, "T"] | None = None,
) -> Float64[np.ndarray, "T N"]:
    """`lira_scores` with models of a pool as targets (None: each of the K), against the pool's other models.

    With a target goes, for each example, one model of the other membership (`opposite_models` says which and why), so
    every score rests on n − 1 models on either side, whatever the target's membership. The sums over models are taken
    once; a target then takes its own and the other's share away, μ' = μ − (φ − μ)/(n − 1) and
    S' = S − (φ − μ)²·n/(n − 1), so all K targets cost a few times one. Where one model makes up nearly all of a sum,
    the others are summed anew. Errors as in `lira_scores`, where an example needs three models on a side that the mode
    uses, and one on the other.
    """
    _check_settings(mode, variance)
    phi, holds = _checked_pool("phi", phi, member)
    models, examples, augmentations = phi.shape
    rows = _checked_targets(targets, models)
    sides = (holds, ~holds) if mode == "online" else (~holds,)
    _require_models(sides, mode, variance, removed=1)
    opposite = opposite_models(holds)
    statistics = side_statistics("phi", phi, sides)
    found = np.empty((rows.size, examples))

    def without_target(values, block, row, index):
        """Mean and sum of squares of one side without the model that leaves it."""
        gone = np.where(sides[index][row, block], row, opposite[row, block])
        return _without(values, gone, sides[index][:, block], *(part[block] for part in statistics[index]))

    def sum_squares(block):
        values = block_values(phi, block)
        sums = [
            [group_sums(without_target(values, block, row, index)[1], augmentations) for row in rows]
            for index in range(len(sides))
        ]
        return np.moveaxis(np.array(sums), 2, 0)

    def score(block):
        values = block_values(phi, block)
        for t, row in enumerate(rows):
            fitted = []
            for index, side in enumerate(statistics):
                mean, squares = without_target(values, block, row, index)
                if pooled is None:
                    spread = squares / np.repeat(side.count[block] - 2, augmentations)
                else:
                    spread = np.tile(pooled[index, t], mean.size // augmentations)
                fitted.append((mean, _floored(spread, mean)))
            found[t, block] = _scores(values[row], fitted, augmentations)

    pooled = None
    if variance == "global":
        pooled = np.zeros((len(sides), rows.size, augmentations))
        for groups in map_blocks(sum_squares, *phi.shape):
            for group in groups:
                pooled += group
        pooled /= np.array([np.sum(side.count - 2) for side in statistics])[:, None, None]
    list(map_blocks(score, *phi.shape))
    return found


def _without(
    values: Float64[np.ndarray, "K J"],
    gone: Int[np.ndarray, "B"],
    side: Bool[np.ndarray, "K B"],
    count: Int[np.ndarray, "B"],
    mean: Float64[np.ndarray, "B A"],
    squares: Float64[np.ndarray, "B A"],
) -> tuple[Float64[np.ndarray, "J"], Float64[np.ndarray, "J"]]:
    """A side's mean and sum of squares without the model `gone`, which differs between examples."""
    augmentations = mean.shape[1]
    examples = np.arange(gone.size)
    removed = values.reshape(len(values), gone.size, augmentations)[gone, examples].ravel()
    n, before = np.repeat(count.astype(np.float64), augmentations), squares.ravel()
    deviation = removed - mean.ravel()
    step = deviation / (n - 1)
    left_mean, left = mean.ravel() - step, before - step * deviation * n
    lost = np.flatnonzero(left < LOST_SHARE * before)
    if lost.size:
        kept = side[:, lost // augmentations].copy()
        kept[gone[lost // augmentations], np.arange(lost.size)] = False
        left_mean[lost] = np.sum(values[:, lost], axis=0, where=kept) / kept.sum(axis=0)
        left[lost] = np.sum((values[:, lost] - left_mean[lost]) ** 2, axis=0, where=kept)
    return left_mean, left


def _floored(spread: Float64[np.ndarray, "J"], mean: Float64[np.ndarray, "J"]) -> Float64[np.ndarray, "J"]:
    """Variances, none below what float32 signals can show."""
    least = np.maximum(RESOLUTION * np.abs(mean), SMALLEST_STD)
    return np.maximum(spread, least * least)


def _scores(
    phi: Float64[np.ndarray, "J"],
    fitted: list[tuple[Float64[np.ndarray, "J"], Float64[np.ndarray, "J"]]],
    augmentations: int,
) -> Float64[np.ndarray, "B"]:
    """The attack's mean over augmentations, from mean and variance of IN and OUT (online) or OUT alone (offline)."""
    mean, variance = fitted[-1]
    if len(fitted) == 1:
        score = log_ndtr((phi - mean) / np.sqrt(variance))
    else:
        in_mean, in_variance = fitted[0]
        score = (phi - mean) ** 2 / variance - (phi - in_mean) ** 2 / in_variance
        score = (score + np.log(variance / in_variance)) / 2
    return score.reshape(-1, augmentations).mean(axis=1)


def _reference_code_scores(
    targets: Float64[np.ndarray, "T N A"],
    shadow: Float[np.ndarray, "K N A"],
    sides: tuple[Bool[np.ndarray, "K N"], ...],
    variance: str,
) -> Float64[np.ndarray, "T N"]:
    """What the authors' public code computes (tensorflow/privacy, research/mi_lira_2021), its sign turned to ours."""
    sides = tuple(side & (np.cumsum(side, axis=0) <= side.sum(axis=0).min()) for side in sides)
    statistics = side_statistics("shadow_phi", shadow, sides)
    log_density = []
    for index, side in enumerate(sides):
        # Online, the fixed σ of OUT is the one of IN.
        of = statistics[0 if variance == "global" else index]
        if variance == "global":
            std = np.sqrt(np.mean(of.squares / of.count[:, None]) + np.var(of.mean))
        else:
            std = np.sqrt(of.squares / of.count[:, None])
        std = std + 1e-30
        log_density.append(-(((targets - side_medians(shadow, side)) / std) ** 2) / 2 - np.log(std))
    if len(sides) == 1:
        return -(log_density[0] - np.log(2 * np.pi) / 2).mean(axis=2)
    return (log_density[0] - log_density[1]).mean(axis=2)


def _check_settings(mode: str, variance: str) -> None:
    for name, got, choices in (("mode", mode, _MODES), ("variance", variance, _VARIANCES)):
        if got not in choices:
            raise InputError(
                f"{name} is {got!r}, but expected {' or '.join(map(repr, choices))}; choose one of them."
            )


def _checked_pool(
    name: str, phi: Array | np.ndarray, member: Array | np.ndarray
) -> tuple[Float[np.ndarray, "K N A"], Bool[np.ndarray, "K N"]]:
    """φ with an axis of augmentations, and the membership; a view of what was given."""
    phi, holds = np.asarray(phi), np.asarray(member)
    if holds.dtype != bool:
        raise InputError(
            f"member has dtype {holds.dtype}, but expected booleans, True where the model was trained on the example; "
            "convert with `member == 1`."
        )
    if phi.ndim not in (2, 3) or holds.shape != phi.shape[:2] or not phi.size:
        raise InputError(
            f"{name} has shape {phi.shape} and member {holds.shape}, but expected [models, examples] or [models, "
            "examples, augmentations], none of them 0, and a membership for each model and example; slice both alike."
        )
    return phi[..., None] if phi.ndim == 2 else phi, holds


def _checked_targets(targets: Array | np.ndarray | None, models: int) -> Int[np.ndarray, "T"]:
    rows = np.arange(models) if targets is None else np.asarray(targets)
    if (
        rows.ndim != 1
        or not rows.size
        or rows.dtype.kind not in "iu"
        or not np.all((rows >= 0) & (rows < models))
    ):
        raise InputError(
            f"targets have dtype {rows.dtype}, shape {rows.shape} and values {rows.ravel()[:5].tolist()}, but expected "
            f"a vector of at least one model index from 0 to {models - 1}; give None for every model."
        )
    return rows


def _refuse_own_reference(target: Float[np.ndarray, "N A"], shadow: Float[np.ndarray, "K N A"]) -> None:
    # Nearly every model differs from the target in its first examples, so few are read whole.
    alike = np.flatnonzero((shadow[:, :4] == target[:4]).all(axis=(1, 2)))
    for model in alike:
        if np.array_equal(shadow[model], target):
            raise InputError(
                f"target_phi equals shadow_phi[{model}] in every value, but expected no target among its own "
                "references; drop that model, or score a pool's own models with leave_one_out_lira."
            )


def _require_models(
    sides: tuple[Bool[np.ndarray, "K N"], ...], mode: str, variance: str, *, removed: int
) -> None:
    """At least two references on every side of every example; advice where they are few."""
    fewest = []
    for name, side in zip(("IN", "OUT")[-len(sides) :], sides, strict=True):
        count = side.sum(axis=0) - removed
        short = np.flatnonzero(count < 2)
        if short.size:
            raise InputError(
                f"{short.size} of {count.size} examples, {short[0]} the first, have fewer than two {name} models as "
                f"references (that one has {max(int(count[short[0]]), 0)}), but {mode} LiRA expected at least two for "
                "each; drop these examples, or add models."
            )
        fewest.append(int(count.min()))
    if variance == "per_example" and min(fewest) < FEW_MODELS:
        logging.warning(
            "LiRA estimates a variance for each example from as few as %d models on a side; with fewer than %d, "
            'variance="global" usually attacks better.',
            min(fewest),
            FEW_MODELS,
        )
