"""Many steps in one compiled program, with the whole data on the device."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.state import TrainState
from mu_jax.training.step import Batch, Recipe, make_step

PyTree = Any


class Examples(flax.struct.PyTreeNode):
    """All that training may draw from, on the device once; runs pick rows by index."""

    images: PyTree
    """uint8[N,H,W,D] (float32[N,1,1,F] of a table), or [I,…] with `source`"""
    targets: PyTree
    """float32[N,C]"""
    weights: PyTree
    """float32[N]"""
    augmented: PyTree = None
    """bool[N], which of them a recipe's crops and mirroring apply to; None: all"""
    source: PyTree = None
    """int32[N], the image of each example: several models' targets of one image need it but once; None: its own"""

    def batch(self, inputs: "ChunkInputs", i: Int[Array, ""]) -> Batch:
        """What step i of a chunk sees."""
        rows = inputs.index[i]
        return Batch(
            images=self.images[rows if self.source is None else self.source[rows]],
            targets=self.targets[rows],
            weights=self.weights[rows],
            learning_rate=inputs.learning_rate[i],
            progress=inputs.progress[i],
            augmented=None if self.augmented is None else self.augmented[rows],
        )


def label_targets(
    labels: Int[np.ndarray, "N"], num_classes: int, label_smoothing: float = 0.0
) -> Float[np.ndarray, "N C"]:
    """One-hot rows, with the share `label_smoothing` of each spread evenly over all classes."""
    one_hot = np.eye(num_classes, dtype=np.float32)[labels]
    return (1.0 - label_smoothing) * one_hot + np.float32(label_smoothing / num_classes)


class ChunkInputs(flax.struct.PyTreeNode):
    """What the steps of one chunk do not share."""

    index: PyTree
    """int32[chunk,B], rows of the examples"""
    learning_rate: PyTree
    """float32[chunk]"""
    progress: PyTree
    """float32[chunk]"""


# The cache is what lets runs of equal recipe share a program: a jitted function made anew would compile anew.
@functools.cache
def make_run_chunk(recipe: Recipe) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """`run_chunk(state, examples, inputs, count, key, hyperparameters, gradient_mask)`, compiled, state donated.

    Runs the first `count` of the chunk's steps. The count is an input, so the last, shorter chunk of a run needs
    no program of its own, and a call with 0 compiles and changes nothing. Step s draws its randomness from
    `fold_in(key, s)`, whatever the chunk it lies in. Metrics come back as float32[chunk]; those from `count` on
    are zero and mean nothing.
    """
    step = make_step(recipe)

    @functools.partial(jax.jit, donate_argnums=0)
    def run_chunk(
        state: TrainState,
        examples: Examples,
        inputs: ChunkInputs,
        count: Int[Array | np.ndarray, ""] | np.int32,
        key: jax.Array,
        hyperparameters: Hyperparameters,
        gradient_mask: PyTree = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        def one(i: Array, carry: tuple) -> tuple:
            state, metrics = carry
            key_step = jax.random.fold_in(key, state.step)
            state, now = step(state, examples.batch(inputs, i), key_step, hyperparameters, gradient_mask)
            return state, {name: row.at[i].set(now[name].astype(row.dtype)) for name, row in metrics.items()}

        empty = jnp.zeros(inputs.learning_rate.shape, jnp.float32)
        metrics = {"loss": empty, "accuracy": empty, "gradient_norm": empty}
        return lax.fori_loop(0, count, one, (state, metrics))

    return run_chunk
