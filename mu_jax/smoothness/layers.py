"""A network's affine layers as linear maps of one example, by themselves or with the batch-norm behind them."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mu_jax.config import InputError
from mu_jax.models.affine import AffineLayer
from mu_jax.ops import conv, layout_of
from mu_jax.smoothness.fastclip import KernelFn

PyTree = Any
_LARGE = 16 * 16
EPSILON = 1e-5
"""Batch-norm's, in `mu_jax.models.layers.batch_norm`."""


# The cache is what makes layers of one shape one program: programs are told apart by their functions' identity.
@functools.cache
def _kernel_fn(kind: str, stride: int, padding: int, lowering: str) -> KernelFn:
    if kind == "dense":
        return lambda kernel, x: x @ kernel
    layout = layout_of(lowering)

    def apply(kernel: Array, x: Array) -> Array:
        one = jnp.expand_dims(x, layout.batch)
        y = jnp.squeeze(conv(one, kernel, stride=stride, padding=padding, lowering=lowering), layout.batch)
        return jnp.moveaxis(y, -1, 0) if layout.channels == 3 else y

    return apply


def kernel_fn(layer: AffineLayer, lowering: str) -> KernelFn:
    """(kernel, one example in `input_shape`) ↦ the layer's response without its bias: [E], or [E,H',W'].

    The latter for every lowering, because the published step of clipping tells rows from columns.
    """
    return _kernel_fn(layer.kind, layer.stride, layer.padding, lowering)


@functools.cache
def _block_fn(kind: str, stride: int, padding: int, lowering: str) -> KernelFn:
    if kind == "dense":
        return lambda kernel, rows: rows @ kernel
    layout = layout_of(lowering)

    def apply(kernel: Array, rows: Array) -> Array:
        images = jnp.moveaxis(rows, 0, layout.batch)
        y = conv(images, kernel, stride=stride, padding=padding, lowering=lowering)
        y = jnp.moveaxis(y, layout.batch, 0)
        return jnp.moveaxis(y, -1, 1) if layout.channels == 3 else y

    return apply


def block_fn(layer: AffineLayer, lowering: str) -> KernelFn:
    """`kernel_fn` for several examples at once, [m, *input_shape]: one convolution of a batch, not m of one image."""
    return _block_fn(layer.kind, layer.stride, layer.padding, lowering)


def measuring_lowering(layer: AffineLayer, lowering: str) -> str:
    """The lowering to measure a layer by: `lowering`, or `winograd` in place of `patches` for large images.

    There copies are the bill (64 channels of 32×32: 1.85 s by patches, 0.75 s by Winograd's tiles, the same seven
    digits), while on small ones transforming the kernel costs more than it saves (512 channels of 4×4: 1.0 and 1.7 s).
    """
    if lowering == "patches" and layer.kind == "conv" and math.prod(layer.input_shape[:2]) >= _LARGE:
        return "winograd"
    return lowering


def input_shape(layer: AffineLayer, lowering: str) -> tuple[int, ...]:
    """Of the example that `kernel_fn` takes: [D], or [D,H,W] where the lowering is batch-last, [H,W,D] where not."""
    if layer.kind == "dense" or layout_of(lowering).channels == 3:
        return layer.input_shape
    height, width, depth = layer.input_shape
    return (depth, height, width)


def kernel_of(params: PyTree, layer: AffineLayer) -> Float[Array | np.ndarray, "..."]:
    """The layer's kernel among a model's parameters."""
    return _at(params, layer.path)["kernel"]


def with_kernel(params: PyTree, layer: AffineLayer, kernel: Float[Array | np.ndarray, "..."]) -> PyTree:
    """The parameters with another kernel in this layer; all else is shared."""
    return _replaced(params, (*layer.path, "kernel"), kernel)


def norm_scale(params: PyTree, batch_stats: PyTree, layer: AffineLayer) -> Float[Array, "E"]:
    """γ/√(σ² + 1e-5) of the batch-norm behind a layer, in eval mode: what it multiplies each channel by.

    Composed with it, the layer is the layer of the kernel times this, along its last axis.
    """
    if layer.norm is None:
        raise ValueError(f"The layer {layer.name} has no batch-norm behind it.")
    variance = _at(batch_stats, layer.norm)["var"]
    return _at(params, layer.norm)["scale"] * jax.lax.rsqrt(variance + EPSILON)


def with_norm_scale(
    params: PyTree, layer: AffineLayer, factor: Float[Array, ""] | float | np.float32
) -> PyTree:
    """The parameters with γ of the batch-norm behind a layer multiplied by a factor; its shift β stays."""
    scale = _at(params, layer.norm)["scale"] * factor
    return _replaced(params, (*layer.norm, "scale"), scale)


def refuse_unknown(layer: AffineLayer) -> None:
    """InputError for a layer of a user's own network that is no plain convolution or dense layer."""
    if layer.kind == "other":
        raise InputError(
            f"The layer {layer.name} has groups, dilation, uneven strides or padding, or several axes, but expected a "
            "plain convolution or dense layer, whose map is known here; use another network."
        )


def groups(layers: tuple[AffineLayer, ...]) -> tuple[tuple[AffineLayer, ...], ...]:
    """Layers of one shape together, in the order of their first; InputError for those with group-norm behind them."""
    found: dict[tuple, list[AffineLayer]] = {}
    for layer in layers:
        refuse_unknown(layer)
        if layer.group_norm:
            raise InputError(
                f"The layer {layer.name} has group-norm behind it, which is no linear map, but layers' norms bound a "
                "model with batch-norm or none; train one with --config.model.norm=batch or none."
            )
        found.setdefault(layer.shape, []).append(layer)
    return tuple(tuple(group) for group in found.values())


def _at(tree: PyTree, path: tuple[str, ...]) -> PyTree:
    for name in path:
        tree = tree[name]
    return tree


def _replaced(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**tree, path[0]: value}
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}
