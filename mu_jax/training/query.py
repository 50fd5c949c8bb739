"""What a trained model says of images: logits in full precision, batch-norm in eval mode."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from mu_jax.data.augmentation import normalize
from mu_jax.models import Model

PyTree = Any


@functools.cache
def make_query(
    model: Model, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int
) -> Callable[[PyTree, UInt8[Array, "N H W D"]], Float[Array, "N C"]]:
    """`query(variables, images uint8[N,H,W,D]) -> logits float32[N,C]`, compiled.

    `model` must compute in float32 (build it so, also where training ran in bfloat16): matrix products run at the
    highest precision, because attacks read differences of logits that TensorFloat-32 would round away.
    """

    @jax.jit
    def query(variables: PyTree, images: UInt8[Array, "N H W D"]) -> Float[Array, "N C"]:
        def logits(batch: Array) -> Array:
            with jax.default_matmul_precision("highest"):
                return model.apply(variables, normalize(batch, mean, std), train=False)[0]

        number = images.shape[0]
        size = min(batch_size, number)
        blocks = -(-number // size)
        # In eval mode images do not meet, so the fill changes no other image's logits.
        filled = jnp.pad(images, ((0, blocks * size - number), (0, 0), (0, 0), (0, 0)))
        batched = lax.map(logits, filled.reshape(blocks, size, *images.shape[1:]))
        return batched.reshape(blocks * size, -1)[:number]

    return query
