"""All layers of one model: their norms measured, and clipped until what is measured is within the bound."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.fastclip import KernelFn, check_clip, clip_kernel
from mu_jax.smoothness.layers import (
    block_fn,
    groups,
    input_shape,
    kernel_fn,
    kernel_of,
    measuring_lowering,
    norm_scale,
    with_kernel,
    with_norm_scale,
)
from mu_jax.smoothness.singular_values import leading_singular_values

PyTree = Any
Layers = tuple[AffineLayer, ...]


class LayerNorm(NamedTuple):
    """What was measured of one layer."""

    norm: float
    """of the layer by itself"""
    error: float
    """its estimated relative error"""
    composed: float | None
    """with the batch-norm behind it, in eval mode; None where there is none"""
    composed_error: float | None


def measure_layers(
    variables: PyTree, layers: Layers, lowering: str, *, tolerance: float = 1e-6
) -> dict[str, LayerNorm]:
    """The operator norm of every layer of a model, by name, in the order of `layers`."""
    plain, composed = {}, {}
    for members in groups(layers):
        program = _measuring(*_maps(members[0], lowering), input_shape(members[0], lowering), tolerance)
        kernels = [np.asarray(kernel_of(variables["params"], layer)) for layer in members]
        normed = [layer for layer in members if layer.norm is not None]
        for layer in normed:
            scale = np.asarray(norm_scale(variables["params"], variables["batch_stats"], layer))
            kernels.append(np.asarray(kernel_of(variables["params"], layer)) * scale)
        # All are under way before the first is waited for.
        found = [(float(norm), float(error)) for norm, error in [program(kernel) for kernel in kernels]]
        plain |= dict(zip([layer.name for layer in members], found, strict=False))
        composed |= dict(zip([layer.name for layer in normed], found[len(members) :], strict=True))
    return {
        layer.name: LayerNorm(*plain[layer.name], *composed.get(layer.name, (None, None))) for layer in layers
    }


class ClippedModel(NamedTuple):
    """What became of a model."""

    variables: PyTree
    moved: float
    """‖new − old‖₂ / ‖old‖₂ over all parameters"""
    rounds: int
    """over all layers, by themselves and then with their batch-norm, until neither had to be clipped"""
    divided: tuple[str, ...]
    """layers whose kernel had to be divided, because clipping did not do"""


def clip_layers(
    variables: PyTree,
    layers: Layers,
    c: float,
    lowering: str,
    *,
    composed: str | None = "kernel",
    slack: float = 0.02,
    max_rounds: int = 20,
) -> ClippedModel:
    """Clip every layer until its measured norm is at most (1 + slack)·c, then also that with its batch-norm.

    `composed` says how the latter: by its kernel, by batch-norm's `scale` γ, or not at all (None), as in
    `ClippingConfig.composed_by`. Running statistics stay as they are. Clipping a kernel for one norm can raise the
    other, so both are repeated until neither changes anything; after `max_rounds` what is still too large is divided.
    InputError for c ≤ 0.
    """
    check_clip(c)
    if composed not in ("kernel", "scale", None):
        raise ValueError(f"composed is {composed!r}, but expected kernel, scale or None; pass one of these.")
    model = _Clipping(variables["params"], variables["batch_stats"], lowering, c, slack / 2)
    rounds, changed = 0, True
    while changed and rounds < max_rounds:
        rounds += 1
        changed = model.clip(layers, composed=False)
        if composed == "kernel":
            changed |= model.clip(layers, composed=True)
    if changed:
        model.divide_kernels(layers, composed == "kernel")
    if composed == "scale":
        model.divide_scales(layers)
    return ClippedModel(
        {"params": model.params, "batch_stats": variables["batch_stats"]},
        _distance(model.params, variables["params"]),
        rounds,
        tuple(sorted(model.divided)),
    )


class _Clipping:
    """A model's parameters while its layers are clipped, group by group of one shape."""

    def __init__(self, params: PyTree, batch_stats: PyTree, lowering: str, c: float, slack: float) -> None:
        # Half of the slack that is asked for: clipped to within all of it, one norm would be pushed out by the other's.
        self.params, self.batch_stats, self.lowering = params, batch_stats, lowering
        self.c, self.slack = np.float32(c), slack
        self.divided: set[str] = set()

    def clip(self, layers: Layers, *, composed: bool) -> bool:
        """Whether anything had to be changed."""
        changed = False
        # Clipping is the larger program by far: layers that are within the bound are not worth compiling it.
        for members in groups(self._too_large(_normed(layers) if composed else layers, composed=composed)):
            program = _clipping(
                *_maps(members[0], self.lowering), input_shape(members[0], self.lowering), self.slack
            )
            clipped = []
            for layer in members:
                kernel = np.asarray(kernel_of(self.params, layer))
                scale = self._scale(layer) if composed else np.ones(kernel.shape[-1], np.float32)
                clipped.append(program(kernel, scale, self.c))
            for layer, found in zip(members, jax.tree.map(np.asarray, clipped), strict=True):
                if found.rounds:
                    self.params, changed = with_kernel(self.params, layer, found.kernel), True
                if found.scaled:
                    self.divided.add(layer.name)
        return changed

    def _too_large(self, layers: Layers, *, composed: bool) -> Layers:
        measured = measure_layers(
            {"params": self.params, "batch_stats": self.batch_stats}, layers, self.lowering
        )
        limit = self.c * (1 + self.slack)
        norms = {name: found.composed if composed else found.norm for name, found in measured.items()}
        return tuple(layer for layer in layers if norms[layer.name] > limit)

    def divide_kernels(self, layers: Layers, composed: bool) -> None:
        """Divide the kernels of layers that are too large: a layer's norm and its composed one shrink alike."""
        variables = {"params": self.params, "batch_stats": self.batch_stats}
        for layer, found in zip(
            layers, measure_layers(variables, layers, self.lowering).values(), strict=True
        ):
            norm = max(found.norm, (found.composed or 0.0) if composed else 0.0)
            if norm > self.c * (1 + self.slack):
                kernel = np.asarray(kernel_of(self.params, layer)) * np.float32(self.c / norm)
                self.params = with_kernel(self.params, layer, kernel)
                self.divided.add(layer.name)

    def divide_scales(self, layers: Layers) -> None:
        """Multiply γ by c over the composed norm, where that is larger than c."""
        variables = {"params": self.params, "batch_stats": self.batch_stats}
        normed = _normed(layers)
        for layer, found in zip(
            normed, measure_layers(variables, normed, self.lowering).values(), strict=True
        ):
            if found.composed > self.c * (1 + self.slack):
                self.params = with_norm_scale(self.params, layer, np.float32(self.c / found.composed))

    def _scale(self, layer: AffineLayer) -> np.ndarray:
        return np.asarray(norm_scale(self.params, self.batch_stats, layer))


def _normed(layers: Layers) -> Layers:
    return tuple(layer for layer in layers if layer.norm is not None)


def _distance(new: PyTree, old: PyTree) -> float:
    pairs = list(zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))
    moved = sum(float(np.sum((np.asarray(a) - np.asarray(b)) ** 2)) for a, b in pairs)
    return (moved / max(sum(float(np.sum(np.asarray(b) ** 2)) for _, b in pairs), 1e-30)) ** 0.5


def _maps(layer: AffineLayer, lowering: str) -> tuple[KernelFn, KernelFn]:
    """(of one example, of a block)"""
    lowering = measuring_lowering(layer, lowering)
    return kernel_fn(layer, lowering), block_fn(layer, lowering)


# Caches, because layers of one shape, of one model or of many, share a program. It is of one layer: a stack gained
# nothing, since each would go on until the slowest has converged, and another number of layers was another program.
@functools.cache
def _measuring(one: KernelFn, block: KernelFn, shape: tuple[int, ...], tolerance: float) -> Callable:
    def measure(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = leading_singular_values(
            lambda x: one(kernel, x), shape, block_fn=lambda rows: block(kernel, rows), tolerance=tolerance
        )
        return found.values[0], found.error[0]

    return jax.jit(measure)


@functools.cache
def _clipping(one: KernelFn, block: KernelFn, shape: tuple[int, ...], slack: float) -> Callable:
    def clip(kernel: jax.Array, scale: jax.Array, c: jax.Array) -> Any:
        return clip_kernel(
            lambda kernel, x: one(kernel * scale, x),
            kernel,
            shape,
            c,
            block_fn=lambda kernel, rows: block(kernel * scale, rows),
            slack=slack,
        )

    return jax.jit(clip)
