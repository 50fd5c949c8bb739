"""The shifted and mirrored views of an image under which an attack reads signals: LiRA's queries."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Shaped, UInt8

from mu_jax.config import InputError
from mu_jax.models import Model
from mu_jax.training.query import logits_of, map_blocks

PyTree = Any


class View(NamedTuple):
    """An image moved `down` and to the `right` by so many pixels (negative: up, left), then mirrored if `flip`."""

    flip: bool
    down: int
    right: int


def query_views(flip: bool, shift: int, stride: int) -> tuple[View, ...]:
    """The views at every `stride`-th offset within ±`shift` pixels, both ways, and mirrored too where `flip`.

    The image as it is stands first; the others follow in the order of (flip, down, right). Carlini et al.,
    "Membership Inference Attacks From First Principles", 2022, query 18 views (flip, shift 4, stride 4) or 162
    (stride 1). InputError unless `stride` is positive and divides `shift`.

    >>> query_views(flip=True, shift=0, stride=1)
    (View(flip=False, down=0, right=0), View(flip=True, down=0, right=0))
    """
    if shift < 0:
        raise InputError(
            f"query.shift is {shift}, but expected 0 or a number of pixels; change it with --config.query.shift=VALUE."
        )
    if stride < 1 or shift % stride:
        raise InputError(
            f"query.stride is {stride}, but expected a positive divisor of query.shift, which is {shift}, so that "
            "the image as it is is among the views; change it with --config.query.stride=VALUE."
        )
    offsets = range(-shift, shift + 1, stride)
    views = itertools.starmap(View, itertools.product((False, True) if flip else (False,), offsets, offsets))
    return tuple(sorted(views, key=lambda view: (view != View(False, 0, 0), view)))


def apply_view(
    images: Shaped[Array | np.ndarray, "N H W D"], view: View | Int[Array | np.ndarray, "3"], *, padding: int
) -> Shaped[Array, "N H W D"]:
    """The images under one view: moved, zeros entering at the edges, and then mirrored left to right.

    The order is that of `mu_jax.data.augment`, so a view within ±padding is one of the images that training with
    `crop_padding=padding` sees. `view` holds (flip, down, right) and may be traced, so that one program serves
    all views; an offset beyond ±padding counts as ±padding. The dtype stays.
    """
    flip, down, right = jnp.asarray(view, jnp.int32)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = images.shape[1:3]
    moved = lax.dynamic_slice_in_dim(padded, padding - down, height, axis=1)
    moved = lax.dynamic_slice_in_dim(moved, padding - right, width, axis=2)
    return jnp.where(flip != 0, moved[:, :, ::-1], moved)


def make_signals(
    model: Model,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int,
    views: Sequence[View],
    signals_of: Callable[[Array, Array], Mapping[str, Array]],
) -> Callable[
    [PyTree, UInt8[Array | np.ndarray, "N H W D"], Int[Array | np.ndarray, "N"]],
    dict[str, Shaped[Array, "N A ..."]],
]:
    """`query(variables, images uint8[N,H,W,D], labels int[N]) -> {signal: [N,A,...]}`, A = len(views).

    `signals_of(logits float32[B,C], labels[B]) -> {signal: [B,...]}` sees one block of `batch_size` images under
    one view at a time, so the logits of all views never stand in memory together. Logits are those of
    `make_query`: float32, highest matmul precision, batch-norm in eval mode. The query is pure and not compiled:
    whoever places it under jit, vmap or a mapping over models compiles it.
    """
    padding = max(max(abs(view.down), abs(view.right)) for view in views)

    def query(
        variables: PyTree, images: UInt8[Array | np.ndarray, "N H W D"], labels: Int[Array | np.ndarray, "N"]
    ) -> dict[str, Shaped[Array, "N A ..."]]:
        def under(view: Array) -> dict[str, Array]:
            def block(images: Array, labels: Array) -> dict[str, Array]:
                viewed = apply_view(images, view, padding=padding)
                return dict(signals_of(logits_of(model, variables, viewed, mean, std), labels))

            return map_blocks(block, batch_size, images, labels)

        signals = lax.map(under, jnp.asarray(np.array(views, np.int32)))
        return jax.tree.map(lambda signal: jnp.moveaxis(signal, 0, 1), signals)

    return query
