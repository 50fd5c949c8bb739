"""The worker that makes batches of 8-bit images, and trains on them, by mu_jax.

A variant is `{"form"}`. `train` is the training of every experiment: chunks of steps that pick, augment and normalise
their own rows. Batches by themselves are made as such a step makes them: `calls`, a compiled call a batch; `loop`, a
compiled loop over a chunk of batches, which leaves them all in memory. A step of any is a whole epoch.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks.data_case import CROP_PADDING, EPOCH, DataCase
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, serve
from benchmarks.training_case import LEARNING_RATE, MEAN, MOMENTUM, NUM_CLASSES, STD, WEIGHT_DECAY
from mu_jax.config import InputError, ModelConfig
from mu_jax.data.augmentation import augment, normalize
from mu_jax.models import build_model
from mu_jax.ops import choose_lowering
from mu_jax.training.batches import batch_indices
from mu_jax.training.chunk import ChunkInputs, Examples, label_targets, make_run_chunk
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.state import initial_state
from mu_jax.training.step import Recipe

CHUNK_STEPS = 50
"""Steps in one compiled chunk, as the experiments have it."""
_LOOPED = 8


def prepare(case: DataCase, variant: dict[str, Any]) -> Prepared:
    """Compiles the epoch."""
    facts = {"form": variant["form"]}
    try:
        if case.kind == EPOCH:
            run, facts["lowering"] = training(case)
        else:
            run = {"calls": _calls, "loop": _loop}[variant["form"]](case)
    except InputError as error:
        raise BadRequest(str(error)) from None
    return Prepared(run, case.batches * case.batch, facts=facts)


def training(case: DataCase) -> tuple[Callable[[int], float], str]:
    """(so many epochs of one training, which goes on from call to call and gives the last loss; the lowering)."""
    lowering = choose_lowering("auto", jax.default_backend(), width=case.width, image_size=case.side)
    shape = (case.side, case.side, 3)
    config = ModelConfig(width=case.width)
    model = build_model(config, num_classes=NUM_CLASSES, image_shape=shape, convolution=lowering)
    recipe = Recipe(model, mean=(MEAN,), std=(STD,), crop_padding=CROP_PADDING, flip=True)
    key, run_chunk = jax.random.key(0), make_run_chunk(recipe)
    state = jax.jit(lambda key: initial_state(model, recipe.make_optimizer(), key))(key)
    images, labels = random_data(case)
    weights = np.ones(case.examples, np.float32)
    examples = jax.device_put(Examples(images, label_targets(labels, NUM_CLASSES), weights))
    hyperparameters = jax.device_put(Hyperparameters(np.float32(MOMENTUM), np.float32(WEIGHT_DECAY)))
    chunk, epoch = min(CHUNK_STEPS, case.batches), 0

    def advance(rows: np.ndarray) -> jax.Array:
        nonlocal state
        count = np.int32(len(rows))
        padded = np.zeros((chunk, case.batch), np.int32)
        padded[: len(rows)] = rows
        inputs = ChunkInputs(padded, np.full(chunk, LEARNING_RATE, np.float32), np.zeros(chunk, np.float32))
        state, metrics = run_chunk(state, examples, inputs, count, key, hyperparameters)
        return metrics["loss"]

    def run(count: int) -> float:
        nonlocal epoch
        for _ in range(count):
            rows = rows_of(case, epoch)
            for first in range(0, len(rows), chunk):
                losses = advance(rows[first : first + chunk])
            epoch += 1
        jax.block_until_ready(state)
        return float(losses[(len(rows) - 1) % chunk])

    advance(rows_of(case, 0)[:0])
    return run, lowering


def random_data(case: DataCase) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8[N,H,W,3], labels int64[N])."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (case.examples, case.side, case.side, 3), dtype=np.uint8)
    return images, rng.integers(0, NUM_CLASSES, case.examples)


def rows_of(case: DataCase, epoch: int) -> np.ndarray:
    """int32[batches,B] of one epoch, drawn on the host as training draws them."""
    return batch_indices(np.arange(case.examples), case.batch, epoch * case.batches, case.batches, seed=[0])


def make_batch(
    images: jax.Array, labels: jax.Array, rows: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(float32[B,H,W,3] augmented and normalised, labels[B]), as a step of training makes them."""
    shown = augment(images[rows], key, crop_padding=CROP_PADDING, flip=True)
    return normalize(shown, (MEAN,), (STD,)), labels[rows]


def _calls(case: DataCase) -> Callable[[int], float]:
    make = jax.jit(
        lambda images, labels, rows, key, i: make_batch(images, labels, rows, jax.random.fold_in(key, i))
    )
    images, labels, key = jax.device_put((*random_data(case), jax.random.key(0)))

    def epoch_of(epoch: int) -> None:
        for i, rows in enumerate(rows_of(case, epoch)):
            # As a training step would wait for it.
            jax.block_until_ready(make(images, labels, rows, key, np.int32(i)))

    return _epochs(epoch_of)


def _loop(case: DataCase) -> Callable[[int], float]:
    size = min(_LOOPED, case.batches)

    @jax.jit
    def make(images: jax.Array, labels: jax.Array, rows: jax.Array, key: jax.Array, first: jax.Array) -> Any:
        def one(numbered: tuple[jax.Array, jax.Array]) -> Any:
            i, rows = numbered
            return make_batch(images, labels, rows, jax.random.fold_in(key, first + i))

        return lax.map(one, (jax.numpy.arange(size), rows))

    images, labels, key = jax.device_put((*random_data(case), jax.random.key(0)))

    def epoch_of(epoch: int) -> None:
        rows = rows_of(case, epoch)
        for first in range(0, len(rows), size):
            # The last loop may begin earlier: a shorter one would be a program of its own.
            first = min(first, len(rows) - size)
            jax.block_until_ready(make(images, labels, rows[first : first + size], key, np.int32(first)))

    return _epochs(epoch_of)


def _epochs(epoch_of: Callable[[int], None]) -> Callable[[int], float]:
    """So many epochs, each with the next number; compiled and warm."""
    next_epoch = 0

    def run(count: int) -> float:
        nonlocal next_epoch
        for _ in range(count):
            epoch_of(next_epoch)
            next_epoch += 1
        return 0.0

    run(1)
    return run


if __name__ == "__main__":
    serve(DataCase, describe, prepare, device_peak_bytes)
