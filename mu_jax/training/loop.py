"""The loop around compiled chunks: it owns progress, checkpoints, divergence and resuming."""

import dataclasses
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.config import OptimizationConfig
from mu_jax.training.batches import batch_indices
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.chunk import ChunkInputs, Examples, make_run_chunk
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.schedules import learning_rates, total_steps
from mu_jax.training.state import TrainState, variables_of
from mu_jax.training.step import Recipe

PyTree = Any


class DivergenceError(RuntimeError):
    """A loss or gradient was not finite; the message says where, and what to try."""


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What, besides its initial state, determines a trained model."""

    name: str
    """Names the run's streams of randomness, with `seed`; runs of different names are independent."""
    seed: int
    index: np.ndarray
    """int[M], the rows of the examples that an epoch visits once"""
    optimization: OptimizationConfig
    recipe: Recipe
    gradient_mask: PyTree = None
    extra: PyTree = dataclasses.field(default_factory=dict)
    """arrays, what the recipe's `post_step` starts from; the run's initial state holds them"""

    @property
    def steps(self) -> int:
        return total_steps(self.optimization, len(self.index))

    @property
    def rows_per_step(self) -> int:
        """The width of `inputs(...).index`: what a trainer of many models is made for."""
        return self.optimization.batch_size

    @property
    def trained_samples(self) -> int:
        """Examples shown, repeats counted."""
        return self.steps * self.optimization.batch_size

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """(for the initial weights, for the steps): by seed and name, never by place among other runs."""
        key = jax.random.fold_in(jax.random.key(self.seed), self._tag)
        key_init, key_steps = jax.random.split(key)
        return key_init, key_steps

    @property
    def _tag(self) -> int:
        return zlib.crc32(self.name.encode())

    def inputs(self, first: int, count: int, chunk_steps: int) -> ChunkInputs:
        """Steps first … first + count − 1, filled up to the chunk's length with rows that are never read."""
        size = self.optimization.batch_size
        fill = ((0, chunk_steps - count),)
        index = batch_indices(self.index, size, first, count, (self.seed, self._tag))
        rates = learning_rates(self.optimization, len(self.index), first, count)
        progress = ((first + np.arange(count)) / max(self.steps, 1)).astype(np.float32)
        return ChunkInputs(
            index=np.pad(index, (*fill, (0, 0))),
            learning_rate=np.pad(rates, fill),
            progress=np.pad(progress, fill),
        )


@dataclasses.dataclass(frozen=True)
class ChunkReport:
    """What the loop says after each chunk."""

    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float
    learning_rate: float
    steps_done: int
    """in this chunk, which took `seconds` (without compilation) and saw `images`"""
    seconds: float
    images: int


def train(
    run: TrainingRun,
    state: TrainState,
    examples: Examples,
    *,
    chunk_steps: int,
    checkpoints: Checkpoints | None = None,
    on_chunk: Callable[[ChunkReport], None] = lambda report: None,
    on_compiled: Callable[[float], None] = lambda seconds: None,
) -> TrainState:
    """Train to the end of the run, from the newest checkpoint where there is one; `state` is used up (donated).

    After each chunk `on_chunk` is told, and then the checkpoint is written: a kill between the two repeats the
    chunk and its report. A loss or gradient that is not finite raises DivergenceError and saves nothing.
    """
    hyperparameters = Hyperparameters(
        jnp.float32(run.optimization.momentum), jnp.float32(run.optimization.weight_decay)
    )
    _, key = run.keys()
    run_chunk = make_run_chunk(run.recipe)
    first = 0
    if checkpoints is not None and (latest := checkpoints.latest_step()) is not None:
        state, first = checkpoints.restore(latest, state), latest
        checkpoints.keep_only(latest)
        if first >= run.steps:
            return state

    def advance(
        state: TrainState, inputs: ChunkInputs, count: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        # NumPy's count: a Python int would be another type to the compiler.
        return run_chunk(state, examples, inputs, np.int32(count), key, hyperparameters, run.gradient_mask)

    began = time.perf_counter()
    state, _ = jax.block_until_ready(advance(state, run.inputs(first, 0, chunk_steps), 0))
    on_compiled(time.perf_counter() - began)

    while first < run.steps:
        count = min(chunk_steps, run.steps - first)
        inputs = run.inputs(first, count, chunk_steps)
        began = time.perf_counter()
        state, metrics = advance(state, inputs, count)
        metrics = {name: np.asarray(value)[:count] for name, value in metrics.items()}
        seconds = time.perf_counter() - began
        _refuse_divergence(run, first, inputs.learning_rate, metrics, state)
        first += count
        size = run.optimization.batch_size
        on_chunk(
            ChunkReport(
                step=first,
                steps=run.steps,
                epoch=first * size / len(run.index),
                loss=float(metrics["loss"].mean()),
                accuracy=float(metrics["accuracy"].mean()),
                learning_rate=float(inputs.learning_rate[count - 1]),
                steps_done=count,
                seconds=seconds,
                images=count * size,
            )
        )
        if checkpoints is not None:
            checkpoints.save(first, state)
    return state


def _refuse_divergence(
    run: TrainingRun, first: int, rates: np.ndarray, metrics: dict[str, np.ndarray], state: TrainState
) -> None:
    bad = ~(np.isfinite(metrics["loss"]) & np.isfinite(metrics["gradient_norm"]))
    # A last update may overflow the weights after a loss that was finite: such a checkpoint could only fail.
    broken = not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(variables_of(state)))
    if bad.any() or broken:
        at = int(np.argmax(bad)) if bad.any() else len(bad) - 1
        raise DivergenceError(
            f"Training of {run.name} diverged: loss, gradient or weights are not finite at step {first + at} of "
            f"{run.steps} (learning rate {rates[at]:.3g}); try a smaller learning_rate, a longer warmup_epochs, or "
            "compute_dtype float32, in a new --workdir. What was saved before is intact."
        )
