"""`flax.linen.Conv` of a user's own network, computed by `mu_jax.ops.conv` like the convolutions of ours."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mu_jax.ops import conv, layout_of


@contextlib.contextmanager
def convolutions_lowered(lowering: str):
    """While a network is called inside: its `nn.Conv` of images go through `mu_jax.ops.conv`, by `lowering`.

    XLA's own convolution loses most of its speed inside a compiled loop on CPU, and becomes a grouped one where many
    models ride together. Same values and derivatives, to rounding. Convolutions with groups or dilation, with
    different strides along the axes, with a precision of their own, or of other than images, stay as they are; so do
    those whose author has put another function in their place.
    """
    if lowering == "xla":
        yield
        return

    def replace(call: Any, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if (
            context.method_name == "__call__"
            and isinstance(layer, nn.Conv)
            and layer.conv_general_dilated is None
            and layer.conv_general_dilated_cls is None
        ):
            # The field is flax's own place for another convolution; a module's fields are frozen, so it is put there
            # past the lock. The instance is this call's alone: flax makes one anew for every call of the network.
            object.__setattr__(layer, "conv_general_dilated", functools.partial(_lowered, lowering=lowering))
        return call(*arguments, **keywords)

    with nn.intercept_methods(replace):
        yield


def explicit_padding(
    padding: str | Sequence[tuple[int, int]],
    sizes: Sequence[int],
    windows: Sequence[int],
    strides: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Zeros before and after each axis, for `SAME`, `VALID` or pairs as they are."""
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(tuple(sizes), tuple(windows), tuple(strides), padding))
    return tuple((int(low), int(high)) for low, high in padding)


def _lowered(
    images: Float[Array, "..."],
    kernel: Float[Array, "..."],
    strides: Sequence[int],
    padding: Any,
    *,
    lowering: str,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **others: Any,
) -> Float[Array, "..."]:
    """In place of `lax.conv_general_dilated`, as `nn.Conv` calls it; images [B,H,W,D] and kernels [h,w,D,E] are
    lowered.
    """
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    if (
        images.ndim != 4
        or len(set(strides)) != 1
        or any(dilation != 1 for dilation in dilations)
        or feature_group_count != 1
        or precision is not None
        or others.get("preferred_element_type") is not None
    ):
        return lax.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            precision=precision,
            **others,
        )
    pads = explicit_padding(padding, images.shape[1:3], kernel.shape[:2], strides)
    even = pads[0][0]
    if any(pad != (even, even) for pad in pads):
        images, even = jnp.pad(images, ((0, 0), *pads, (0, 0))), 0
    layout = layout_of(lowering)
    y = conv(layout.arrange(images), kernel, stride=strides[0], padding=even, lowering=lowering)
    return layout.restore(y)
