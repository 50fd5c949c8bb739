"""Several models' own targets, weights and extra images, as one set of examples that a group of models shares."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mu_jax.training.chunk import Examples
from mu_jax.training.loop import TrainingRun
from mu_jax.unlearning.plan import PlannedRun


def together(blocks: Sequence[Examples], images: int, extra: int = 0) -> Examples:
    """One set of examples whose block k, of `images` + `extra` rows, is model k's.

    The first `images` images of each block are the same ones, and lie on the device once; a block may have up to
    `extra` images of its own behind them (AMUN's neighbours). Rows that a block lacks repeat its first one, with
    weight 0, and no run visits them.
    """
    shared = blocks[0].images if blocks[0].images.shape[0] == images else blocks[0].images[:images]
    own, sources, targets, weights, augmented = [], [], [], [], []
    for block in blocks:
        more = block.images.shape[0] - images
        if not 0 <= more <= extra or block.source is not None:
            raise ValueError(
                f"A block has {images + more} images, but expected {images} to {images + extra}, each of its own row."
            )
        missing = extra - more
        sources.append(np.arange(images, dtype=np.int32))
        sources.append(images + extra * (len(own)) + np.arange(extra, dtype=np.int32))
        own.append(_filled(block.images[images:], block.images[:1], missing))
        targets.append(_filled(block.targets, block.targets[:1], missing))
        weights.append(_filled(block.weights, jnp.zeros(1, jnp.float32), missing))
        applies = jnp.ones(images + more, bool) if block.augmented is None else block.augmented
        augmented.append(_filled(applies, applies[:1], missing))
    return Examples(
        images=jnp.concatenate([shared, *own]) if extra else shared,
        targets=jnp.concatenate(targets),
        weights=jnp.concatenate(weights),
        augmented=None if all(block.augmented is None for block in blocks) else jnp.concatenate(augmented),
        source=jnp.asarray(np.concatenate(sources)),
    )


def of_block(planned: PlannedRun, offset: int) -> TrainingRun:
    """The same run, on the rows of the block that begins at `offset`."""
    passes = tuple(
        tuple(dataclasses.replace(part, index=part.index + offset) for part in epoch)
        for epoch in planned.passes
    )
    return dataclasses.replace(planned, index=planned.index + offset, passes=passes)


def _filled(array, filler, number: int):
    return jnp.concatenate([array, jnp.repeat(filler, number, axis=0)]) if number else array
