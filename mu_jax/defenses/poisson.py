"""Batches by Poisson sampling, which DP-SGD's accounting presumes: at each step every example is drawn by itself.

A compiled step has one shape, so that a batch, whose size is random, is filled up to a capacity that it all but never
exceeds. Fillers are one row of weight zero that `with_filler` appends to the examples.
"""

import bisect
import dataclasses
import zlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from scipy.stats import binom

from mu_jax.config import InputError
from mu_jax.defenses.accounting import epsilon
from mu_jax.defenses.dp_sgd import PrivateGradient
from mu_jax.training.chunk import ChunkInputs, Examples
from mu_jax.training.loop import TrainingRun

OVERFLOW = 1e-9
"""Probability, over all steps of a run together, that a batch exceeds its capacity."""

_STREAM = zlib.crc32(b"poisson")


def capacity(rows: int, expected_batch: int, steps: int) -> int:
    """The least c with steps · P(Binomial(rows, expected_batch / rows) > c) ≤ 1e-9: by the union bound, a whole run's.

    InputError unless 1 ≤ expected_batch ≤ rows.

    >>> capacity(1000, 100, 500), capacity(1000, 1000, 500)
    (172, 1000)
    """
    if not 1 <= expected_batch <= rows:
        raise InputError(
            f"The expected batch size is {expected_batch}, but {rows} examples allow 1 to {rows}; change batch_size."
        )
    probability = expected_batch / rows
    return bisect.bisect_left(
        range(rows + 1), True, key=lambda c: steps * binom.sf(c, rows, probability) <= OVERFLOW
    )


def with_filler(examples: Examples) -> Examples:
    """The examples and one more row, the last: a black image with an even target, of weight 0."""
    images, targets = jnp.asarray(examples.images), jnp.asarray(examples.targets)
    even = jnp.full((1, *targets.shape[1:]), 1 / targets.shape[-1], targets.dtype)
    source, augmented = examples.source, examples.augmented
    return Examples(
        images=jnp.concatenate([images, jnp.zeros_like(images[:1])]),
        targets=jnp.concatenate([targets, even]),
        weights=jnp.append(jnp.asarray(examples.weights), jnp.float32(0)),
        augmented=None if augmented is None else jnp.append(jnp.asarray(augmented), False),
        source=None if source is None else jnp.append(jnp.asarray(source), jnp.int32(len(images))),
    )


@dataclasses.dataclass(frozen=True)
class PoissonRun(TrainingRun):
    """A run whose `optimization.batch_size` is the *expected* size of a batch.

    Each step draws each of the M rows of `index` with probability q = batch_size / M, by a stream of the run's name and
    seed and the step's number; steps and learning rates are as of any run. M is public, as is usual: neighbours in the
    sense of the accounting are a run with a row of the index, and one with the filler in its stead. A trainer of such
    runs is made for a batch of their `rows_per_step`; where those differ, give all of them the largest as `slots`.
    InputError where the batch is larger than the index, ValueError where a field contradicts another, and RuntimeError,
    while it trains, for a batch that exceeds the capacity.
    """

    filler: int = -1
    """row of the examples, of weight zero: that which `with_filler` appends"""
    slots: int = 0
    """rows in a step's arrays, `capacity` or more; 0 takes that"""

    def __post_init__(self) -> None:
        gradient, batch = self.recipe.gradient, self.optimization.batch_size
        least = capacity(len(self.index), batch, self.steps)
        if self.filler < 0:
            raise ValueError(
                f"The run {self.name!r} has the filler {self.filler}, but expected a row of the examples; give that "
                "which with_filler appends."
            )
        if len(np.unique(self.index)) < len(self.index):
            raise ValueError(
                f"The run {self.name!r} has rows twice in its index, but ε is of an example drawn once a step; give "
                "each row once."
            )
        if not isinstance(gradient, PrivateGradient) or gradient.expected_batch != batch:
            raise ValueError(
                f"The run {self.name!r} has batches of {batch} expected examples, but the recipe's gradient is "
                f"{gradient}; give it a PrivateGradient of this expected_batch."
            )
        if self.slots and self.slots < least:
            raise ValueError(
                f"The run {self.name!r} has {self.slots} slots, but its batches need {least}; give capacity's."
            )

    @property
    def sampling_probability(self) -> float:
        """q"""
        return self.optimization.batch_size / len(self.index)

    @property
    def rows_per_step(self) -> int:
        """Slots: what a step's arrays hold, fillers included."""
        return self.slots or capacity(len(self.index), self.optimization.batch_size, self.steps)

    def epsilon(self, delta: float) -> float:
        """ε at δ of the whole run, of its last weights and all before."""
        return epsilon(self.recipe.gradient.noise_multiplier, self.sampling_probability, self.steps, delta)

    def inputs(self, first: int, count: int, chunk_steps: int) -> ChunkInputs:
        index = np.full((chunk_steps, self.rows_per_step), self.filler, np.int32)
        for i in range(count):
            drawn = self._drawn(first + i)
            if len(drawn) > index.shape[1]:
                raise RuntimeError(
                    f"Step {first + i} of the run {self.name!r} drew {len(drawn)} examples, but has {index.shape[1]} "
                    "slots; give it more, or another seed."
                )
            index[i, : len(drawn)] = drawn
        return super().inputs(first, count, chunk_steps).replace(index=index)

    def _drawn(self, step: int) -> Int[np.ndarray, "_"]:
        rng = np.random.default_rng([_STREAM, self.seed, self._tag, step])
        return self.index[rng.random(len(self.index)) < self.sampling_probability]
