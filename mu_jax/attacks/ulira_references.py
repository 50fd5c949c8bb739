"""Whom U-LiRA's Gaussians rest on, and what they say of a model under test."""

import itertools
from collections.abc import Iterable

import numpy as np
from absl import logging
from jaxtyping import Array, Bool, Float, Float64, Int

from mu_jax.attacks import lira
from mu_jax.attacks.lira_statistics import require_finite, side_statistics
from mu_jax.config import InputError

TAKEN_OUT = " once the model under test and its opposite are out"
"""When references are counted, as `require_models` says it."""

MASK_ELEMENTS = 2**26
"""Bytes of masks held at a time; φ is read once for all targets whose masks these are."""

_HELD_OUT = ("unlearned", "retrained")
_VARIANCES = ("per_example", "global")


def neighbours_first(target: int, models: int) -> Int[np.ndarray, "L"]:
    """All models but the target: its neighbour, then those after it, in cyclic order."""
    others = (np.arange(target + 1, target + models) % models).tolist()
    neighbour = [target ^ 1] if target ^ 1 < models else []
    return np.array(neighbour + [model for model in others if model not in neighbour])


def chosen(side: Bool[np.ndarray, "K N"], order: Int[np.ndarray, "L"], count: int) -> Bool[np.ndarray, "K N"]:
    """Of each input's models on a side, the last `count` in this order."""
    ordered = side[order]
    after = np.cumsum(ordered[::-1], axis=0, dtype=np.int32)[::-1]
    found = np.zeros_like(side)
    found[order] = ordered & (after <= count)
    return found


def gaussian_scores(
    targets: Float[np.ndarray, "T N"],
    phi: Float[np.ndarray, "K N"],
    sides: Iterable[tuple[Bool[np.ndarray, "K N"], Bool[np.ndarray, "K N"]]],
    variance: str,
) -> Float64[np.ndarray, "T N"]:
    """The log ratio of two Gaussians' densities, for each target over its own models: unlearned, held out."""
    scores, sides = np.empty(targets.shape), iter(sides)
    together = max(1, MASK_ELEMENTS // (2 * phi.size))
    for start in range(0, len(targets), together):
        masks = tuple(itertools.chain.from_iterable(itertools.islice(sides, together)))
        fitted = []
        for count, mean, squares in side_statistics("phi", phi[..., None], masks):
            spread = squares[:, 0] / (count - 1)
            if variance == "global":
                spread = np.full(spread.shape, squares.sum() / np.sum(count - 1))
            fitted.append((mean[:, 0], lira._floored(spread, mean[:, 0])))
        for place, target in enumerate(targets[start : start + together]):
            scores[start + place] = lira._scores(
                target.astype(np.float64), fitted[2 * place : 2 * place + 2], 1
            )
    return scores


def require_models(left: dict[str, int], variance: str, when: str) -> None:
    for side, count in left.items():
        if count < 2:
            raise InputError(
                f"some inputs have {max(count, 0)} {side} models as references{when}, but expected two at least for a "
                "spread; add models, or drop these inputs."
            )
    if variance == "per_example" and min(left.values()) < lira.FEW_MODELS:
        logging.log_first_n(
            logging.WARNING,
            "U-LiRA estimates a variance for each input from as few as %d models on a side; with fewer than %d, "
            'variance="global" usually attacks better.',
            1,
            min(left.values()),
            lira.FEW_MODELS,
        )


def check_variance(variance: str) -> None:
    if variance not in _VARIANCES:
        raise InputError(
            f"variance is {variance!r}, but expected 'per_example' or 'global'; choose one of them."
        )


def two_sides(
    unlearned_phi: Array | np.ndarray, held_out_phi: Array | np.ndarray
) -> tuple[Float[np.ndarray, "L N"], Bool[np.ndarray, "L"]]:
    """φ of all models, and which of them are unlearned."""
    first, second = np.asarray(unlearned_phi), np.asarray(held_out_phi)
    fit = first.ndim == second.ndim == 2 and first.shape[1] == second.shape[1]
    if not fit or not first.size or not second.size:
        raise InputError(
            f"unlearned_phi has shape {first.shape} and held_out_phi {second.shape}, but expected [models, inputs] "
            "with the same inputs, and none of them 0; ask all models about the same inputs."
        )
    require_finite("unlearned_phi", first)
    require_finite("held_out_phi", second)
    return np.concatenate([first, second]), np.arange(len(first) + len(second)) < len(first)


def held_out_models(
    held_out: str,
    phi: Array | np.ndarray | None,
    trained: Array | np.ndarray | None,
    z: Float[np.ndarray, "K N"],
    never: Bool[np.ndarray, "K N"],
) -> tuple[Float[np.ndarray, "H N"], Bool[np.ndarray, "H N"]]:
    """φ of the models that may be held out, and the candidates for which they are: `z` itself for "unlearned"."""
    if held_out not in _HELD_OUT:
        raise InputError(
            f"held_out is {held_out!r}, but expected 'unlearned' or 'retrained'; say which models never "
            "saw a candidate."
        )
    given = [
        name for name, value in (("held_out_phi", phi), ("held_out_trained", trained)) if value is not None
    ]
    if len(given) != 2 * (held_out == "retrained"):
        raise InputError(
            f"held_out is {held_out!r} and {' and '.join(given) or 'no held_out_phi'} given, but expected held_out_phi "
            "and held_out_trained with 'retrained' and neither with 'unlearned'; give both, or neither."
        )
    if phi is None or trained is None:
        return z, never
    other, holds = np.asarray(phi), np.asarray(trained)
    if other.ndim != 2 or other.shape[1:] != z.shape[1:] or holds.shape != other.shape or holds.dtype != bool:
        raise InputError(
            f"held_out_phi has shape {other.shape} and held_out_trained {holds.shape} of {holds.dtype}, but expected "
            f"[models, {z.shape[1]}] and a boolean for each value; ask all models about the same candidates."
        )
    require_finite("held_out_phi", other)
    return other, ~holds
