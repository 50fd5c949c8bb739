"""Several models' own targets and images as one set of examples."""

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import OptimizationConfig
from mu_jax.experiments.blocks import of_block, together
from mu_jax.models.mlp import mlp_model
from mu_jax.training.chunk import ChunkInputs, Examples
from mu_jax.training.step import Recipe
from mu_jax.unlearning.plan import PlannedRun


def _block(number, own, augmented=True):
    """`number` shared images of value i, and `own` further ones; targets say which block and row it is."""
    rows = 3 + len(own)
    return Examples(
        images=jnp.asarray([[0], [1], [2], *([value] for value in own)], jnp.uint8).reshape(rows, 1, 1, 1),
        targets=jnp.stack([jnp.full(rows, number), jnp.arange(rows)], axis=1).astype(jnp.float32),
        weights=jnp.arange(1.0, rows + 1) * (number + 1),
        augmented=(jnp.arange(rows) < 3) if augmented else None,
    )


def _rows(examples, rows):
    """What a step sees of these rows."""
    count = len(rows)
    inputs = ChunkInputs(
        index=jnp.asarray([rows], jnp.int32), learning_rate=jnp.zeros(1), progress=jnp.zeros(1)
    )
    batch = examples.batch(inputs, jnp.int32(0))
    assert batch.images.shape[0] == count
    return batch


@pytest.mark.parametrize("extra", [2, 4])
def test_each_block_shows_its_own_rows_whatever_the_others_have(extra):
    blocks = [_block(0, (10, 11)), _block(1, (20,)), _block(2, ())]
    whole = together(blocks, images=3, extra=extra)
    for number, block in enumerate(blocks):
        own = np.arange(block.images.shape[0])
        batch = _rows(whole, own + number * (3 + extra))
        for name in ("images", "targets", "weights", "augmented"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(block, name), err_msg=name)


def test_shared_images_lie_there_once_and_fillers_have_no_weight():
    whole = together([_block(0, (10,)), _block(1, ())], images=3, extra=1)
    assert whole.images.shape[0] == 3 + 2
    assert whole.weights[2 * 4 - 1] == 0
    alone = together([_block(0, (), augmented=False), _block(1, (), augmented=False)], images=3)
    assert alone.images.shape[0] == 3 and alone.augmented is None


def test_more_images_than_there_is_room_for_are_refused():
    with pytest.raises(ValueError, match="has 5 images, but expected 3 to 4"):
        together([_block(0, (10, 11))], images=3, extra=1)


def test_a_run_visits_the_rows_of_its_block():
    recipe = Recipe(mlp_model((), 2, (1, 1, 1)), (0.0,), (1.0,))
    run = PlannedRun("a", 0, np.array([0, 2]), OptimizationConfig(), recipe)
    moved = of_block(run, 7)
    np.testing.assert_array_equal(moved.index, [7, 9])
    assert moved.name == "a" and moved.passes == ()
