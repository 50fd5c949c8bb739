"""The loss attack, calibrated by how hard an example is for models that never saw it.

Watson et al., "On the Importance of Difficulty Calibration in Membership Inference Attacks", 2022. A small loss betrays
a member only where other models' loss is larger: score = mean loss of the OUT references − the target's loss. Losses
come from margins, softplus(−φ) = −log p_y, which keeps its digits where p_y rounds to 1.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mu_jax.attacks.leave_one_out import opposite_models
from mu_jax.config import InputError

BLOCK = 2**14
"""Margins of a model that are turned into losses at a time, in float64."""


def loss_scores_from_phi(phi: Float[Array | np.ndarray, "M N *A"]) -> Float[np.ndarray, "M N"]:
    """Minus the loss softplus(−φ) of M models, in nats, averaged over A augmentations: float64, higher = member.

    The plain loss attack where margins are stored and logits are not.
    """
    return -_losses("phi", np.asarray(phi))


def calibrated_loss_scores(
    target_phi: Float[Array | np.ndarray, "N *A"],
    shadow_phi: Float[Array | np.ndarray, "K N *A"],
    member: Bool[np.ndarray, "K N"],
) -> Float[np.ndarray, "N"]:
    """Mean loss over the shadows that did not train on an example, less the target's: float64 nats, higher = member.

    Losses of A augmentations are averaged. InputError for arrays that do not fit or are not finite, or an example that
    all shadows trained on.

    >>> calibrated_loss_scores(np.array([0.0]), np.array([[0.0], [-1.0], [9.0]]), np.array([[False], [False], [True]]))
    array([0.31005725])
    """
    shadow, member = _pool(shadow_phi, member)
    target = np.asarray(target_phi)
    if target.shape != shadow.shape[1:]:
        raise InputError(
            f"target_phi has shape {target.shape} and shadow_phi {shadow.shape}, but expected those of one shadow; "
            "query the target on the same examples and views."
        )
    count = np.sum(~member, axis=0)
    if np.any(count == 0):
        raise InputError(
            f"{np.sum(count == 0)} of {count.size} examples, {np.argmin(count)} the first, are members in all "
            "shadows, but expected each to be outside one at least; add shadows, or drop these examples."
        )
    loss = _losses("shadow_phi", shadow)
    return np.sum(loss, axis=0, where=~member) / count - _losses("target_phi", target[None])[0]


def leave_one_out_calibrated_loss(
    phi: Float[Array | np.ndarray, "K N *A"],
    member: Bool[np.ndarray, "K N"],
    targets: Sequence[int] | Int[np.ndarray, "T"] | None = None,
) -> Float[np.ndarray, "T N"]:
    """`calibrated_loss_scores` with each model of a pool (or each of `targets`) as the target in turn: float64 nats.

    For each example the references are all other models but the one of `leave_one_out.opposite_models`, so that as many
    OUT shadows remain whatever the target's membership.
    """
    phi, member = _pool(phi, member)
    models, examples = member.shape
    chosen = list(range(models)) if targets is None else [int(t) for t in targets]
    if not chosen or min(chosen) < 0 or max(chosen) >= models:
        raise InputError(
            f"the targets are {chosen}, but expected models from 0 to {models - 1}, one at least; leave them out for "
            "the whole pool."
        )
    opposite = opposite_models(member)
    # Of the target and its opposite one is OUT, and its loss goes.
    left = np.sum(~member, axis=0) - 1
    if np.any(left == 0):
        raise InputError(
            f"{np.sum(left == 0)} of {examples} examples, {np.argmin(left)} the first, have no OUT reference once the "
            "target and its opposite are gone, but expected one at least; add models, or drop these examples."
        )
    loss = _losses("phi", phi)
    total, scores = np.sum(loss, axis=0, where=~member), np.empty((len(chosen), examples))
    for row, t in enumerate(chosen):
        gone = np.where(member[t], loss[opposite[t], np.arange(examples)], loss[t])
        scores[row] = (total - gone) / left - loss[t]
    return scores


def _losses(name: str, phi: Float[np.ndarray, "K N *A"]) -> Float[np.ndarray, "K N"]:
    """Float64 losses, averaged over augmentations, by threads over blocks of examples."""
    losses = np.empty(phi.shape[:2])
    step = max(1, BLOCK // int(np.prod(phi.shape[2:])))

    def fill(place: tuple[int, int]) -> None:
        model, start = place
        block = _finite(name, phi[model, start : start + step])
        loss = _softplus_of_minus(block)
        losses[model, start : start + step] = loss if loss.ndim == 1 else loss.mean(axis=1)

    places = [(model, start) for model in range(len(phi)) for start in range(0, phi.shape[1], step)]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        list(threads.map(fill, places))  # raises what a thread raised
    return losses


def _softplus_of_minus(phi: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """log(1 + e^−φ): accurate and without overflow on either side, and several times as fast as `np.logaddexp`."""
    x = np.asarray(phi, np.float64)
    return np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))


def _finite(name: str, phi: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    if not np.all(np.isfinite(phi)):
        raise InputError(
            f"{name} has entries that are not finite, but expected margins; compute them with "
            "mu_jax.attacks.signals.logit_margin, and find the model that diverged."
        )
    return phi


def _pool(
    phi: Array | np.ndarray, member: np.ndarray
) -> tuple[Float[np.ndarray, "K N *A"], Bool[np.ndarray, "K N"]]:
    phi, member = np.asarray(phi), np.asarray(member)
    if phi.ndim not in (2, 3) or member.shape != phi.shape[:2] or member.dtype != bool or not phi.size:
        raise InputError(
            f"margins have shape {phi.shape} and membership {member.shape} of {member.dtype}, but expected [K, N] or "
            "[K, N, A] and booleans [K, N], none empty; give one row for each model."
        )
    return phi, member
