"""The layers that all networks here are made of: parameters in float32, arithmetic in `dtype`."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mu_jax.ops import conv, layout_of


def he_normal_fan_out(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "h w D E"]:
    """N(0, 2 / (h·w·E)) for a kernel [h,w,D,E] (He et al. 2015, eq. 14), as torchvision's ResNets start."""
    height, width, _, features = shape
    # Drawn flat, because XLA takes four times as long to compile random bits of a four-dimensional shape.
    draws = jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
    return draws * math.sqrt(2 / (height * width * features))


def uniform_within(bound: float) -> Callable[..., Array]:
    """An initialiser that draws from U(−bound, bound)."""

    def initialise(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return initialise


class Convolution(nn.Module):
    """A `size`×`size` convolution, [B,H,W,D] → [B,H',W',features] in `dtype`; its `kernel` is HWIO.

    `padding` pixels of zeros stand on every side, so H' = ⌊(H + 2·padding − size) / stride⌋ + 1. `lowering` is
    `mu_jax.ops.conv`'s, and images are in its layout (above: channels last); the parameters are the same for
    all. There is no bias unless asked for, because batch-norm follows in most networks.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    lowering: str = "xla"
    dtype: Any = jnp.float32
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "_ H W _"]) -> Float[Array, "_ Ho Wo _"]:
        layout = layout_of(self.lowering)
        kernel_shape = (self.size, self.size, x.shape[layout.channels], self.features)
        kernel = self.param("kernel", he_normal_fan_out, kernel_shape, jnp.float32)
        y = conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            lowering=self.lowering,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y += layout.spread(bias.astype(self.dtype))
        return y


class Linear(nn.Module):
    """x·kernel + bias, [..., D] → [..., features] in `dtype`; both start uniform in ±1/√D, as in PyTorch."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch E"]:
        fan_in = x.shape[-1]
        initialise = uniform_within(fan_in**-0.5)
        kernel = self.param("kernel", initialise, (fan_in, self.features), jnp.float32)
        bias = self.param("bias", initialise, (self.features,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def batch_norm(*, train: bool, lowering: str, dtype: Any, name: str) -> nn.BatchNorm:
    """Batch-norm over all but the channels, which lie where `lowering` has them: γ·(x − μ)/√(σ² + 1e-5) + β.

    Running statistics become 0.9·old + 0.1·new; the new σ² is the batch's biased one, where PyTorch's is
    unbiased. Statistics are taken in float32 whatever `dtype`, and σ² in two passes: E[x²] − μ² cancels.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis=layout_of(lowering).channels,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=jnp.float32,
        name=name,
    )


MOST_GROUPS, SMALLEST_GROUP = 16, 4
"""Of group-norm: 16 groups, as De et al. 2022 ("Unlocking High-Accuracy Differentially Private Image Classification
through Scale") train Wide-ResNets of 64 to 256 channels by DP-SGD, but fewer where a group would have less than four
channels: of one channel on one pixel, as ResNet-18's last stage has on 8×8 images, nothing but β would be left."""


def group_count(channels: int) -> int:
    """Into how many groups group-norm parts so many channels: the most that divide them within the bounds above.

    >>> [group_count(channels) for channels in (2, 8, 24, 64, 512)]
    [1, 2, 6, 16, 16]
    """
    most = max(min(MOST_GROUPS, channels // SMALLEST_GROUP), 1)
    return max(groups for groups in range(1, most + 1) if channels % groups == 0)


class GroupNorm(nn.Module):
    """γ·(x − μ)/√(σ² + 1e-5) + β, of moments over the pixels and a group of channels of each image by itself.

    Wu and He 2018, "Group Normalization"; no output depends on the rest of its batch. Channels lie where `lowering` has
    them, and consecutive ones make a group. As in batch-norm, moments are taken in float32, and σ² in two passes.
    """

    lowering: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "_ H W _"]) -> Float[Array, "_ H W _"]:
        layout = layout_of(self.lowering)
        axis, channels = layout.channels, x.shape[layout.channels]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        groups = group_count(channels)
        grouped = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(
            *x.shape[:axis], groups, channels // groups, *x.shape[axis + 1 :]
        )
        # The axis of groups stands where that of channels did, and pushes a batch behind it one further.
        kept = (axis, layout.batch + (layout.batch > axis))
        pooled = tuple(i for i in range(grouped.ndim) if i not in kept)
        centred = grouped - jnp.mean(grouped, axis=pooled, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=pooled, keepdims=True)
        normalised = (centred * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        return (normalised * layout.spread(scale) + layout.spread(bias)).astype(self.dtype)


def norm_or_nothing(
    norm: str, *, train: bool, lowering: str, dtype: Any, name: str
) -> Callable[[Array], Array]:
    """`batch`: the batch-norm above; `group`: group-norm; `none`: the identity, which makes no parameters."""
    if norm == "none":
        return lambda x: x
    if norm == "group":
        return GroupNorm(lowering=lowering, dtype=dtype, name=name)
    return batch_norm(train=train, lowering=lowering, dtype=dtype, name=name)


def max_pool_2x2(x: Float[Array, "_ H W _"]) -> Float[Array, "_ Ho Wo _"]:
    """The largest of each 2×2 window, ⌊H/2⌋×⌊W/2⌋ in either layout; an odd last row or column is dropped.

    A maximum of pairs, whose gradient goes to the greater one (half to each where they tie), in whatever way `x` is
    computed. Rejected: `reduce_window`, whose gradient is a select-and-scatter; and `jnp.max`, whose gradient goes to
    pixels that equal the maximum: where XLA computes `x` anew for the comparison, and rounds it otherwise, none does.
    Behind a batch-norm half of the gradient was lost so, on CPU at `xla_backend_optimization_level` 0.
    """
    first, height, width, last = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(first, height // 2, 2, width // 2, 2, last)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])
