"""VGG for small images (Simonyan and Zisserman 2015, configurations A, D, E), with batch-norm and one dense layer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mu_jax.models.layers import Convolution, Linear, batch_norm, max_pool_2x2
from mu_jax.models.model import Model, check_image_shape, from_module
from mu_jax.ops import layout_of

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""By depth: how many convolutions each of the five blocks has; with the head, as many layers as the name says, less the
two hidden dense layers of the original."""
MULTIPLES = (1, 2, 4, 8, 8)
"""Of each block: its channels as a multiple of `width`."""


class VGG(nn.Module):
    """Five blocks of relu(norm(conv3×3)), a 2×2 max-pool after each, a dense head; [B,H,W,D] → float32 [B,C].

    A pool that would leave no pixel is skipped, so that 8×8 images are pooled three times and the last two blocks work
    on one pixel; what pixels five pools leave of images above 32×32 are averaged, as no image of 32×32 needs.
    Convolutions have no bias: batch-norm would take it away. With `width` 64, three channels and ten classes, VGG-11,
    -16 and -19 have 9,228,362, 14,724,042 and 20,035,018 parameters: those of the common CIFAR variants in PyTorch
    less their convolutions' biases. They start as torchvision's: convolutions from N(0, 2 / (9·E)).
    """

    depth: int
    width: int
    num_classes: int
    lowering: str
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "B H W D"], *, train: bool) -> Float32[Array, "B C"]:
        layout = layout_of(self.lowering)
        shared = {"lowering": self.lowering, "dtype": self.dtype}
        x, number = layout.arrange(images), 0
        for convolutions, multiple in zip(CONVOLUTIONS[self.depth], MULTIPLES, strict=True):
            for _ in range(convolutions):
                number += 1
                x = Convolution(multiple * self.width, 3, 1, 1, **shared, name=f"conv{number}")(x)
                x = nn.relu(batch_norm(train=train, **shared, name=f"norm{number}")(x))
            if min(x.shape[1:3]) > 1:
                x = max_pool_2x2(x)
        # The mean and the head cost nothing, so they stay in float32 in bfloat16 models too.
        return Linear(self.num_classes, name="head")(layout.mean_over_pixels(x))


def vgg_model(
    depth: int,
    width: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    convolution: str = "xla",
    compute_dtype: str = "float32",
) -> Model:
    """VGG-`depth` (11, 16 or 19) of `width` to 8·width channels; InputError below 2×2, which cannot be pooled."""
    check_image_shape(image_shape, 2, f"VGG-{depth}")
    return from_module(VGG(depth, width, num_classes, convolution, jnp.dtype(compute_dtype)), image_shape)
