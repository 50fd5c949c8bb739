"""Batch-norm's running statistics of weights that were changed by other means than training."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, UInt8

from mu_jax.data.augmentation import normalize
from mu_jax.models import Model
from mu_jax.training.batches import batch_indices

PyTree = Any


def renew_batch_statistics(
    model: Model,
    variables: PyTree,
    images: UInt8[Array, "N H W D"],
    index: Int[np.ndarray, "M"],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int,
    batches: int = 50,
    seed: int = 0,
) -> PyTree:
    """The variables with running statistics of the rows `index` alone, as they are: neither cropped nor mirrored.

    So many training-mode forward passes, each of which moves a statistic a tenth of the way (old ones are left with
    0.9⁵⁰, half a percent). The parameters stay; a network without batch-norm comes back as it was.
    """
    if not jax.tree.leaves(variables["batch_stats"]):
        return variables
    rows = batch_indices(index, batch_size, 0, batches, (seed, len(index)))
    renew = _make_renew(model, tuple(mean), tuple(std))
    return {"params": variables["params"], "batch_stats": renew(variables, images, jnp.asarray(rows))}


@functools.cache
def _make_renew(model: Model, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[..., PyTree]:
    @jax.jit
    def renew(variables: PyTree, images: Array, rows: Array) -> PyTree:
        def one(batch_stats: PyTree, batch: Array) -> tuple[PyTree, None]:
            seen = {"params": variables["params"], "batch_stats": batch_stats}
            return model.apply(seen, normalize(images[batch], mean, std), train=True)[1], None

        return lax.scan(one, variables["batch_stats"], rows)[0]

    return renew
