"""What a trained model says of images: logits in full precision, batch-norm in eval mode."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Shaped, UInt8

from mu_jax.data.augmentation import normalize
from mu_jax.models import Model

PyTree = Any


@functools.cache
def make_query(
    model: Model, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int
) -> Callable[[PyTree, UInt8[Array, "N H W D"] | Float32[Array, "N 1 1 D"]], Float[Array, "N C"]]:
    """`query(variables, images uint8[N,H,W,D] or float32[N,1,1,F]) -> logits float32[N,C]`, compiled.

    `model` must compute in float32 (build it so, also where training ran in bfloat16).
    """

    @jax.jit
    def query(
        variables: PyTree, images: UInt8[Array, "N H W D"] | Float32[Array, "N 1 1 D"]
    ) -> Float[Array, "N C"]:
        return map_blocks(lambda block: logits_of(model, variables, block, mean, std), batch_size, images)

    return query


def logits_of(
    model: Model,
    variables: PyTree,
    images: UInt8[Array, "B H W D"] | Float32[Array, "B 1 1 D"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float32[Array, "B C"]:
    """Logits of one block of images; `model` must compute in float32.

    Matrix products run at the highest precision, because attacks read differences of logits that TensorFloat-32
    would round away.
    """
    with jax.default_matmul_precision("highest"):
        return model.apply(variables, normalize(images, mean, std), train=False)[0]


def map_blocks(
    function: Callable[..., PyTree], batch_size: int, *arrays: Shaped[Array | np.ndarray, "N ..."]
) -> PyTree:
    """`function(*arrays)` for a function of examples that do not meet, at most `batch_size` examples at a time.

    Arrays and results have the examples on their first axis. Where the last block would be shorter, it begins earlier,
    and what it repeats is dropped: filling it up would copy all examples.
    """
    number = arrays[0].shape[0]
    size = min(batch_size, number)
    blocks = -(-number // size)
    arrays = tuple(jnp.asarray(array) for array in arrays)

    def block(i: Array) -> PyTree:
        first = jnp.minimum(i * size, number - size)
        return function(*(lax.dynamic_slice_in_dim(array, first, size) for array in arrays))

    results = lax.map(block, jnp.arange(blocks, dtype=jnp.int32))
    left = number - (blocks - 1) * size

    def joined(result: Array) -> Array:
        whole = result[:-1].reshape((blocks - 1) * size, *result.shape[2:])
        return jnp.concatenate([whole, result[-1, size - left :]])

    return jax.tree.map(joined, results)
