"""FastClip while a model trains: every layer's leading singular vector carried along, its norm clipped now and then.

All of it is a `post_step` of the training engine; the vectors are in the `extra` slot of the state. The norm to clip at
is there too, as data: models that are clipped differently, and models that are not, train side by side in one program.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from mu_jax.config.smoothness import ClippingConfig
from mu_jax.models.affine import AffineLayer
from mu_jax.ops import conv, layout_of
from mu_jax.smoothness.fastclip import check_clip, clip_step
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
    return [layer.name for layer in layers] + [_name(layer, True) for layer in _composed(layers, clipping)]


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
    normed = _composed(layers, clipping)
    plain, composed = _grouped(layers, (False,)), _grouped(normed, (True,))
    others = tuple(layer for layer in layers if layer not in normed)
    tracked = (*_grouped(normed, (False, True)), *_grouped(others, (False,)))

    def post_step(state: TrainState, batch: Batch, key: jax.Array) -> TrainState:
        del batch, key
        extra, params = dict(state.extra), state.params
        vectors, clip = extra["vectors"], extra["clip"]
        count = jnp.where(state.step == 1, clipping.first_iterations, 1)

        def iterate(
            params: PyTree, vectors: PyTree, which: Groups, count: Array | int
        ) -> tuple[PyTree, PyTree]:
            """(vectors, norms by name) after `count` power iterations"""
            steps = [jax.vmap(functools.partial(_power_step, group.responses(lowering))) for group in which]
            weights = [
                (group.kernels(params), group.scales(params, state.batch_stats), group.stacked(vectors))
                for group in which
            ]

            # One loop of all groups: their operations, each too small for all cores, are independent within it.
            def one(_: Any, carry: list) -> list:
                return [
                    step(kernels, scales, v)
                    for step, (kernels, scales, _), (v, _) in zip(steps, weights, carry, strict=True)
                ]

            start = [(v, jnp.zeros(v.shape[:2])) for _, _, v in weights]
            vectors, norms = dict(vectors), {}
            for group, (v, found) in zip(which, lax.fori_loop(0, count, one, start), strict=True):
                vectors |= dict(zip(group.names, v.reshape(-1, *v.shape[2:]), strict=True))
                norms |= dict(zip(group.names, found.reshape(-1), strict=True))
            return vectors, norms

        def clipped(params: PyTree, vectors: PyTree, norms: PyTree, group: _Group) -> PyTree:
            """The parameters after one clipping of a group's layers, which are of one kind"""
            (is_composed,) = group.kinds
            norms = jnp.stack([norms[name] for name in group.names])
            if is_composed and clipping.composed_by == "scale":
                for layer, norm in zip(group.members, norms, strict=True):
                    params = with_norm_scale(params, layer, jnp.where(norm > clip, clip / norm, 1.0))
                return params
            apply = kernel_fn(group.members[0], lowering)
            step_size = clipping.composed_step_size if is_composed else clipping.step_size

            def one(kernel: Array, scale: Array, vector: Array, norm: Array) -> Array:
                return clip_step(
                    lambda kernel, x: apply(kernel * scale[0], x),
                    kernel,
                    vector,
                    norm[None],
                    clip,
                    steps=clipping.composed_steps if is_composed else clipping.steps,
                    step_size=step_size or None,
                )

            scales = group.scales(params, state.batch_stats)
            kernels = jax.vmap(one)(group.kernels(params), scales, group.stacked(vectors), norms)
            for layer, kernel in zip(group.members, kernels, strict=True):
                params = with_kernel(params, layer, kernel)
            return params

        def clip_all(which: Groups, every: int, params: PyTree, vectors: PyTree) -> tuple[PyTree, PyTree]:
            def one(_: Any, carry: tuple) -> tuple:
                params, vectors = carry
                vectors, norms = iterate(params, vectors, which, clipping.iterations)
                for group in which:
                    params = clipped(params, vectors, norms, group)
                return params, iterate(params, vectors, which, clipping.iterations)[0]

            # A loop of no or one round, not `cond`: under `vmap` that would compute both branches at every step.
            due = (state.step % every == 0) & jnp.isfinite(clip)
            return lax.fori_loop(0, jnp.where(due, 1, 0), one, (params, vectors))

        if clipping.every:
            params, vectors = clip_all(plain, clipping.every, params, vectors)
        if composed:
            params, vectors = clip_all(composed, clipping.composed_every, params, vectors)
        vectors, norms = iterate(params, vectors, tracked, count)
        row = jnp.stack([norms[name] for name in tracked_names(layers, clipping)])
        at = jnp.minimum(state.step // record_every, len(extra["history"]) - 1)
        extra |= {"vectors": vectors, "norms": row, "history": extra["history"].at[at].set(row)}
        return state.replace(params=params, extra=extra)

    return post_step


class _Group(NamedTuple):
    """n layers of one shape, each by itself (kind False), composed with its batch-norm (True), or both."""

    members: Layers
    kinds: tuple[bool, ...]

    @property
    def names(self) -> list[str]:
        """[n · kinds]"""
        return [_name(layer, kind) for layer in self.members for kind in self.kinds]

    def kernels(self, params: PyTree) -> Array:
        """[n, *kernel]"""
        return jnp.stack([kernel_of(params, layer) for layer in self.members])

    def scales(self, params: PyTree, batch_stats: PyTree) -> Array:
        """[n, kinds, E], what batch-norm multiplies each channel by, and ones"""
        ones = jnp.ones(self.members[0].kernel_shape[-1])
        scales = [
            norm_scale(params, batch_stats, layer) if kind else ones
            for layer in self.members
            for kind in self.kinds
        ]
        return jnp.stack(scales).reshape(len(self.members), len(self.kinds), -1)

    def stacked(self, vectors: PyTree) -> Array:
        """[n, kinds, *input_shape]"""
        stacked = jnp.stack([vectors[name] for name in self.names])
        return stacked.reshape(len(self.members), len(self.kinds), *stacked.shape[1:])

    def responses(self, lowering: str) -> Callable[[Array, Array, Array], Array]:
        """(kernel, scales[kinds, E], x[kinds, *input_shape]) ↦ the responses [kinds, ...] of one of the layers.

        Both kinds are one batch for one kernel: half of the products and copies, and each twice as long.
        """
        layer = self.members[0]
        if layer.kind == "dense":
            return lambda kernel, scales, x: x @ kernel * scales
        layout = layout_of(lowering)

        def respond(kernel: Array, scales: Array, x: Array) -> Array:
            x = jnp.moveaxis(x, 0, layout.batch)
            y = conv(x, kernel, stride=layer.stride, padding=layer.padding, lowering=lowering)
            y = jnp.moveaxis(y, layout.batch, 0)
            return y * (scales[:, None, None] if layout.channels == 3 else scales[:, :, None, None])

        return respond


Groups = tuple[_Group, ...]


def _power_step(
    responses: Callable[[Array, Array, Array], Array], kernel: Array, scales: Array, vectors: Array
) -> tuple[Array, Array]:
    """`fastclip.power_step` of each of a layer's kinds: (next vectors [kinds, *input_shape], norms [kinds]).

    There is no bias, so the response to zero need not be computed and taken off.
    """
    with jax.default_matmul_precision("highest"):
        lengths = _lengths(vectors)
        vectors = vectors / jnp.where(lengths > 0, lengths, 1.0)
        images, back = jax.vjp(functools.partial(responses, kernel, scales), vectors)
        (moved,) = back(images)
    lengths = _lengths(moved)
    vectors = jnp.where(lengths > 0, moved / jnp.where(lengths > 0, lengths, 1.0), vectors)
    return vectors, _lengths(images).reshape(-1)


def _lengths(rows: Array) -> Array:
    """‖·‖₂ of each of the first axis, in a shape that broadcasts."""
    return jnp.sqrt(jnp.sum(jnp.square(rows), axis=tuple(range(1, rows.ndim)), keepdims=True))


def _grouped(layers: Layers, kinds: tuple[bool, ...]) -> Groups:
    return tuple(_Group(members, kinds) for members in groups(layers))


def _composed(layers: Layers, clipping: ClippingConfig) -> Layers:
    return tuple(layer for layer in layers if layer.norm is not None) if clipping.composed_every else ()


def _name(layer: AffineLayer, is_composed: bool) -> str:
    return f"{layer.name}+norm" if is_composed else layer.name
