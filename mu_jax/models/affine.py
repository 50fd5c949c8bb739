"""The affine layers of a network: convolutions and dense layers, each with the shape it sees."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.models.layers import Convolution, GroupNorm, Linear
from mu_jax.models.own_convolution import explicit_padding
from mu_jax.ops import layout_of

_LAYERS = (Convolution, Linear, nn.Conv, nn.Dense, nn.ConvLocal, nn.ConvTranspose, nn.DenseGeneral)


@dataclasses.dataclass(frozen=True)
class AffineLayer:
    """What of a layer, besides its weights, makes it the linear map that it is (plus a bias)."""

    path: tuple[str, ...]
    """where in `params` its kernel lies"""
    kind: str
    """`conv` or `dense`; `other`, of a user's own network, where it is neither of the form that is known here: with
    groups, dilation, uneven strides or padding, transposed, or over several axes at once"""
    input_shape: tuple[int, ...]
    """of one example: (H, W, D), (D,), or (T, D) where a dense layer maps each of T tokens"""
    output_shape: tuple[int, ...]
    """of one example: (H', W', E), (E,) or (T, E)"""
    kernel_shape: tuple[int, ...]
    """(h, w, D, E) or (D, E)"""
    stride: int = 1
    padding: int = 0
    norm: tuple[str, ...] | None = None
    """where in `params` and `batch_stats` the batch-norm lies that its output goes through; None: through none"""
    group_norm: bool = False
    """whether its output goes through group-norm, which divides by a deviation of the image's own: no linear map"""

    @property
    def name(self) -> str:
        """`stage1_block0/conv1`, say."""
        return "/".join(self.path)

    @property
    def shape(self) -> tuple:
        """All that two layers must share to be computed together."""
        return (self.kind, self.input_shape, self.kernel_shape, self.stride, self.padding)


def affine_layers(module: nn.Module, image_shape: tuple[int, int, int]) -> tuple[AffineLayer, ...]:
    """Those of a network that is called as `module(images[B,H,W,D], train=...)`, in the order in which it calls them.

    They are found by watching one abstract call. A norm belongs to the layer whose very output it is given. Of a user's
    own network its `nn.Conv` and `nn.Dense` are found as well.
    """
    found: list[AffineLayer] = []
    # The outputs are kept, so that no later array can take the identity of one that is gone.
    outputs: list[Any] = []

    def watch(call: Any, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> Any:
        result = call(*arguments, **keywords)
        layer = context.module
        if context.method_name != "__call__":
            return result
        if isinstance(layer, _LAYERS):
            found.append(_describe(layer, arguments[0], result))
            outputs.append(result)
        elif isinstance(layer, nn.BatchNorm | GroupNorm) and getattr(layer, "epsilon", 1e-5) == 1e-5:
            norm = {"group_norm": True} if isinstance(layer, GroupNorm) else {"norm": layer.path}
            for i, output in enumerate(outputs):
                if output is arguments[0]:
                    found[i] = dataclasses.replace(found[i], **norm)
        return result

    with nn.intercept_methods(watch):
        jax.eval_shape(
            lambda key: module.init(key, jnp.zeros((1, *image_shape)), train=False), jax.random.key(0)
        )
    return tuple(found)


def with_layer_inputs(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What `call()` gives, and what each convolution and dense layer within it was given, by the layer's name.

    Images are [B,H,W,D] whatever the layers' lowering, all else as it was. Derivatives run through them as ever.
    """
    found: dict[str, Any] = {}

    def watch(call: Any, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if context.method_name == "__call__" and isinstance(layer, _LAYERS):
            x = arguments[0]
            found["/".join(layer.path)] = (
                layout_of(layer.lowering).restore(x) if isinstance(layer, Convolution) else x
            )
        return call(*arguments, **keywords)

    with nn.intercept_methods(watch):
        return call(), found


def _describe(layer: nn.Module, x: Any, y: Any) -> AffineLayer:
    if isinstance(layer, nn.Conv):
        return _describe_flax(layer, x, y)
    if not isinstance(layer, Convolution | Linear | nn.Dense):
        return AffineLayer(layer.path, "other", x.shape[1:], y.shape[1:], ())
    if isinstance(layer, Linear | nn.Dense):
        return AffineLayer(layer.path, "dense", x.shape[1:], y.shape[1:], (x.shape[-1], y.shape[-1]))
    channels = layout_of(layer.lowering).channels

    def of_one(image: Any) -> tuple[int, int, int]:
        return (image.shape[1], image.shape[2], image.shape[channels])

    kernel_shape = (layer.size, layer.size, x.shape[channels], layer.features)
    return AffineLayer(layer.path, "conv", of_one(x), of_one(y), kernel_shape, layer.stride, layer.padding)


def _describe_flax(layer: nn.Conv, x: Any, y: Any) -> AffineLayer:
    """Of flax's own convolution: `conv` where it has the form of ours, of images, and `other` where not."""
    other = AffineLayer(layer.path, "other", x.shape[1:], y.shape[1:], ())
    size = _each_axis(layer.kernel_size, 1)
    axes, padding = len(size), layer.padding
    strides = _each_axis(layer.strides, axes)
    dilations = _each_axis(layer.input_dilation, axes) + _each_axis(layer.kernel_dilation, axes)
    if (
        axes != 2
        or x.ndim != 4
        or layer.feature_group_count != 1
        or set(dilations) != {1}
        or len(set(strides)) != 1
    ):
        return other
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            return other
        padding = explicit_padding(padding, x.shape[1:3], size, strides)
    # flax takes a number for all axes, one an axis, and pairs.
    pads = np.broadcast_to(
        np.reshape(padding, (-1, 1)) if np.ndim(padding) == 1 else np.asarray(padding), (2, 2)
    )
    if len(np.unique(pads)) != 1:
        return other
    kernel_shape = (*size, x.shape[-1], layer.features)
    return AffineLayer(
        layer.path, "conv", x.shape[1:], y.shape[1:], kernel_shape, strides[0], int(pads[0, 0])
    )


def _each_axis(value: Any, axes: int) -> tuple[int, ...]:
    """What flax takes for a number an axis: nothing (1 each), one for all, or several."""
    if value is None or isinstance(value, int):
        return (1 if value is None else value,) * axes
    return tuple(value)
