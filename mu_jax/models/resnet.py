"""ResNet-18 for small images (He et al. 2016): its stem is 3×3 with stride 1, and no max-pool follows."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mu_jax.models.layers import Convolution, Linear, norm_or_nothing
from mu_jax.models.model import Model, check_image_shape, from_module
from mu_jax.ops import layout_of

STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))
"""Of each stage: its channels as a multiple of `width`, and the stride of its first block."""


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), both convolutions 3×3, the first with `stride`.

    The shortcut is x itself, or a 1×1 convolution and batch-norm where the shape changes. `halve_shortcut`
    halves the sum in the latter case, as FastClip and AMUN do: two 1-Lipschitz branches then make a
    1-Lipschitz block. With `norm="none"` there is no batch-norm, and convolutions have biases in its stead; with
    `norm="group"` there is group-norm in its place. Images are in the layout of `lowering`.
    """

    features: int
    stride: int
    halve_shortcut: bool
    norm: str
    lowering: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "_ H W _"], *, train: bool) -> Float[Array, "_ Ho Wo _"]:
        shared = {"lowering": self.lowering, "dtype": self.dtype}
        norm = functools.partial(norm_or_nothing, self.norm, train=train, **shared)
        convolution = functools.partial(Convolution, self.features, use_bias=self.norm == "none", **shared)

        branch = convolution(3, self.stride, 1, name="conv1")(x)
        branch = nn.relu(norm(name="norm1")(branch))
        branch = convolution(3, 1, 1, name="conv2")(branch)
        branch = norm(name="norm2")(branch)

        if self.stride == 1 and x.shape == branch.shape:
            return nn.relu(branch + x)
        shortcut = convolution(1, self.stride, 0, name="shortcut")(x)
        shortcut = norm(name="shortcut_norm")(shortcut)
        total = branch + shortcut
        return nn.relu(total / 2 if self.halve_shortcut else total)


class ResNet18(nn.Module):
    """Stem, four stages of two basic blocks, the mean over pixels, a dense head; [B,H,W,D] → float32 [B,C].

    With `width` 64, three channels and ten classes it has 11,173,962 parameters, as the common CIFAR variant
    in PyTorch has.
    """

    width: int
    num_classes: int
    halve_shortcut: bool
    norm: str
    lowering: str
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "B H W D"], *, train: bool) -> Float32[Array, "B C"]:
        layout = layout_of(self.lowering)
        shared = {"lowering": self.lowering, "dtype": self.dtype}
        stem = Convolution(self.width, 3, 1, 1, use_bias=self.norm == "none", **shared, name="stem")
        x = stem(layout.arrange(images))
        x = nn.relu(norm_or_nothing(self.norm, train=train, **shared, name="stem_norm")(x))
        for stage, (multiple, stride) in enumerate(STAGES, start=1):
            for block in range(2):
                x = BasicBlock(
                    features=multiple * self.width,
                    stride=stride if block == 0 else 1,
                    halve_shortcut=self.halve_shortcut,
                    norm=self.norm,
                    **shared,
                    name=f"stage{stage}_block{block}",
                )(x, train=train)
        # The mean and the head cost nothing, so they stay in float32 in bfloat16 models too.
        return Linear(self.num_classes, name="head")(layout.mean_over_pixels(x))


def resnet18_model(
    width: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    halve_shortcut: bool = False,
    convolution: str = "xla",
    compute_dtype: str = "float32",
    norm: str = "batch",
) -> Model:
    """ResNet-18 of `width`, 2·width, 4·width and 8·width channels; InputError below 8×8, halved to 1×1."""
    check_image_shape(image_shape, 8, "ResNet-18")
    return from_module(
        ResNet18(width, num_classes, halve_shortcut, norm, convolution, jnp.dtype(compute_dtype)), image_shape
    )
