"""A multilayer perceptron on flattened pixels; with no hidden layer, multinomial logistic regression."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mu_jax.models.layers import Linear
from mu_jax.models.model import Model, check_image_shape, from_module


class MLP(nn.Module):
    """relu(dense) for each size in `hidden`, then a dense head; [B,H,W,D] → float32 [B,C]."""

    hidden: tuple[int, ...]
    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "B H W D"], *, train: bool) -> Float32[Array, "B C"]:
        x = images.reshape(images.shape[0], -1)
        for layer, units in enumerate(self.hidden, start=1):
            x = nn.relu(Linear(units, dtype=self.dtype, name=f"hidden{layer}")(x))
        return Linear(self.num_classes, name="head")(x)


def mlp_model(
    hidden: tuple[int, ...],
    num_classes: int,
    image_shape: tuple[int, int, int],
    compute_dtype: str = "float32",
) -> Model:
    """An MLP with these hidden layers; `hidden=()` is logistic regression, whose training loss is convex."""
    check_image_shape(image_shape, 1, "the MLP")
    return from_module(MLP(tuple(hidden), num_classes, jnp.dtype(compute_dtype)), image_shape)
