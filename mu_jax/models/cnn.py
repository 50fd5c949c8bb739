"""A small convolutional network without normalisation: no output depends on the rest of its batch."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mu_jax.models.layers import Convolution, Linear, max_pool_2x2
from mu_jax.models.model import Model, check_image_shape, from_module
from mu_jax.ops import layout_of

HIDDEN = 128
"""Units of the dense layer before the head."""


class SmallCNN(nn.Module):
    """conv3×3(w) – relu – conv3×3(2w) – relu – max-pool 2×2 – dense(128) – relu – dense(C); float32 [B,C].

    Both convolutions keep the image's size (one pixel of padding) and have biases, since no norm follows.
    """

    width: int
    num_classes: int
    lowering: str
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "B H W D"], *, train: bool) -> Float32[Array, "B C"]:
        shared = {"padding": 1, "lowering": self.lowering, "dtype": self.dtype, "use_bias": True}
        layout = layout_of(self.lowering)
        x = nn.relu(Convolution(self.width, 3, **shared, name="conv1")(layout.arrange(images)))
        x = nn.relu(Convolution(2 * self.width, 3, **shared, name="conv2")(x))
        x = layout.restore(max_pool_2x2(x))
        x = nn.relu(Linear(HIDDEN, dtype=self.dtype, name="hidden")(x.reshape(x.shape[0], -1)))
        return Linear(self.num_classes, name="head")(x)


def cnn_model(
    width: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    convolution: str = "xla",
    compute_dtype: str = "float32",
) -> Model:
    """The small CNN of `width` and 2·width channels; InputError below 2×2, where nothing is left to pool."""
    check_image_shape(image_shape, 2, "the small CNN")
    return from_module(SmallCNN(width, num_classes, convolution, jnp.dtype(compute_dtype)), image_shape)
