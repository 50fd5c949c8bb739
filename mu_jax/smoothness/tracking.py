"""FastClip while a model trains: every layer's leading singular vector carried along, its norm clipped now and then.

All of it is a `post_step` of the training engine; the vectors are in the `extra` slot of the state. The norm to clip at
is there too, as data: models that are clipped differently, and models that are not, train side by side in one program.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from mu_jax.config.smoothness import ClippingConfig
from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.fastclip import check_clip, clip_step, power_step
from mu_jax.smoothness.layers import (
    groups,
    input_shape,
    kernel_fn,
    kernel_of,
    norm_scale,
    with_kernel,
    with_norm_scale,
)
from mu_jax.training.state import TrainState
from mu_jax.training.step import Batch

PyTree = Any
Layers = tuple[AffineLayer, ...]


def tracked_names(layers: Layers, clipping: ClippingConfig) -> list[str]:
    """What the columns of `extra["history"]` are: the layers, then `NAME+norm` for those composed with batch-norm."""
    return [layer.name for layer in layers] + [f"{layer.name}+norm" for layer in _composed(layers, clipping)]


def initial_extra(
    layers: Layers,
    clipping: ClippingConfig,
    lowering: str,
    *,
    clip: float,
    rows: int,
    key: PRNGKeyArray,
) -> dict[str, Any]:
    """What `make_post_step` starts from: random vectors, and `rows` rows for the norms over training.

    `clip` is the norm to clip at (inf: tracked, never clipped). InputError unless it is positive.
    """
    check_clip(clip)
    names = tracked_names(layers, clipping)
    shapes = [input_shape(layer, lowering) for layer in (*layers, *_composed(layers, clipping))]
    vectors = {}
    for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        # Drawn flat, because XLA takes four times as long to compile random bits of a four-dimensional shape.
        draws = jax.random.normal(jax.random.fold_in(key, i), (math.prod(shape),))
        vectors[name] = (draws / jnp.linalg.norm(draws)).reshape(shape)
    return {
        "clip": jnp.float32(clip),
        "vectors": vectors,
        "norms": jnp.zeros(len(names), jnp.float32),
        "history": jnp.zeros((rows, len(names)), jnp.float32),
    }


# The cache is what makes recipes of one setting equal: they compare their functions by identity.
@functools.cache
def make_post_step(
    layers: Layers, clipping: ClippingConfig, lowering: str, record_every: int = 1
) -> Callable[[TrainState, Batch, jax.Array], TrainState]:
    """Tracks the norms of `layers` after each step, and clips them when the schedule says so.

    A step takes one power iteration from the last one's vectors (the first step many), and every
    `clipping.every` steps those kernels whose norm is above `extra["clip"]` take a `clip_step`; likewise, where the
    schedule has them, layers composed with their batch-norm in eval mode. Row r of
    `extra["history"]` is left with the norms of the last step s with ⌊s / record_every⌋ = r (columns: `tracked_names`).
    Layers of one shape are computed together.
    """
    composed = _composed(layers, clipping)
    plain_groups, composed_groups = groups(layers), groups(composed)

    def post_step(state: TrainState, batch: Batch, key: jax.Array) -> TrainState:
        del batch, key
        extra, params = dict(state.extra), state.params
        vectors, clip = extra["vectors"], extra["clip"]
        count = jnp.where(state.step == 1, clipping.first_iterations, 1)

        def scaled(params: PyTree, layer: AffineLayer, is_composed: bool) -> Array:
            return norm_scale(params, state.batch_stats, layer) if is_composed else jnp.ones(())

        def iterate(params: PyTree, vectors: PyTree, members: Layers, is_composed: bool, count: Array | int):
            """(vectors, norms) of one group after `count` power iterations"""
            names = _names(members, is_composed)
            apply = kernel_fn(members[0], lowering)
            kernels = jnp.stack(
                [kernel_of(params, layer) * scaled(params, layer, is_composed) for layer in members]
            )
            step = jax.vmap(lambda kernel, v: power_step(lambda x: apply(kernel, x), v))

            def one(_: int, carry: tuple) -> tuple:
                return step(kernels, carry[0])

            start = jnp.stack([vectors[name] for name in names])
            stacked, norms = lax.fori_loop(0, count, one, (start, jnp.zeros(len(names))))
            return {**vectors, **dict(zip(names, stacked, strict=True))}, norms

        def clip_group(params: PyTree, vectors: PyTree, members: Layers, is_composed: bool):
            vectors, norms = iterate(params, vectors, members, is_composed, clipping.iterations)
            names = _names(members, is_composed)
            apply = kernel_fn(members[0], lowering)

            def clipped(kernel: Array, scale: Array, vector: Array, norm: Array) -> Array:
                return clip_step(
                    lambda kernel, x: apply(kernel * scale, x),
                    kernel,
                    vector[None],
                    norm[None],
                    clip,
                    steps=clipping.composed_steps if is_composed else clipping.steps,
                    step_size=(clipping.composed_step_size if is_composed else clipping.step_size) or None,
                )

            if is_composed and clipping.composed_by == "scale":
                for layer, norm in zip(members, norms, strict=True):
                    params = with_norm_scale(params, layer, jnp.where(norm > clip, clip / norm, 1.0))
                return params, vectors
            kernels = jnp.stack([kernel_of(params, layer) for layer in members])
            scales = jnp.stack([scaled(params, layer, is_composed) for layer in members])
            kernels = jax.vmap(clipped)(kernels, scales, jnp.stack([vectors[name] for name in names]), norms)
            for layer, kernel in zip(members, kernels, strict=True):
                params = with_kernel(params, layer, kernel)
            return params, iterate(params, vectors, members, is_composed, clipping.iterations)[0]

        def clip_all(
            which: tuple[Layers, ...], is_composed: bool, every: int, params: PyTree, vectors: PyTree
        ):
            def one(_: int, carry: tuple) -> tuple:
                for members in which:
                    carry = clip_group(*carry, members, is_composed)
                return carry

            # A loop of no or one round, not `cond`: under `vmap` that would compute both branches at every step.
            due = (state.step % every == 0) & jnp.isfinite(clip)
            return lax.fori_loop(0, jnp.where(due, 1, 0), one, (params, vectors))

        if clipping.every:
            params, vectors = clip_all(plain_groups, False, clipping.every, params, vectors)
        if composed:
            params, vectors = clip_all(composed_groups, True, clipping.composed_every, params, vectors)
        norms = {}
        for which, is_composed in ((plain_groups, False), (composed_groups, True)):
            for members in which:
                vectors, found = iterate(params, vectors, members, is_composed, count)
                norms |= dict(zip(_names(members, is_composed), found, strict=True))
        row = jnp.stack([norms[name] for name in tracked_names(layers, clipping)])
        at = jnp.minimum(state.step // record_every, len(extra["history"]) - 1)
        extra |= {"vectors": vectors, "norms": row, "history": extra["history"].at[at].set(row)}
        return state.replace(params=params, extra=extra)

    return post_step


def _composed(layers: Layers, clipping: ClippingConfig) -> Layers:
    return tuple(layer for layer in layers if layer.norm is not None) if clipping.composed_every else ()


def _names(members: Layers, is_composed: bool) -> list[str]:
    return [f"{layer.name}+norm" if is_composed else layer.name for layer in members]
