"""A recipe that makes its gradient by itself: the slot alone, with gradients that are easy to foresee."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mu_jax.config import DataConfig, OptimizationConfig
from mu_jax.models.mlp import mlp_model
from mu_jax.training.chunk import label_targets
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.state import initial_state
from mu_jax.training.step import Batch, Recipe, make_step

SHAPE, CLASSES, N = (2, 2, 1), 3, 8
MODEL = mlp_model((), CLASSES, SHAPE)
CONFIG = OptimizationConfig(batch_size=N, crop_padding=1, flip=True)


@dataclasses.dataclass(frozen=True)
class Plain:
    """What the step does by itself."""

    def __call__(self, objective, params, images, targets, weights, key):
        return jax.value_and_grad(objective, has_aux=True)(params, images, targets, weights)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Nothing but noise."""

    def __call__(self, objective, params, images, targets, weights, key):
        return objective(params, images, targets, weights), jax.tree.map(
            lambda leaf: jax.random.normal(key, leaf.shape), params
        )


def penalty(params, progress):
    return progress * optax.tree.norm(params, squared=True)


def stepped(key=0, weights=None, **extra):
    rng = np.random.default_rng(0)
    recipe = Recipe.of(MODEL, DataConfig(), CONFIG, **extra)
    batch = Batch(
        images=jnp.asarray(rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8)),
        targets=jnp.asarray(label_targets(np.arange(N) % CLASSES, CLASSES)),
        weights=jnp.ones(N) if weights is None else jnp.asarray(weights, jnp.float32),
        learning_rate=jnp.float32(0.1),
        progress=jnp.float32(0.25),
    )
    state = initial_state(MODEL, recipe.make_optimizer(), jax.random.key(1))
    scalars = Hyperparameters(jnp.float32(0.9), jnp.float32(0.01))
    state, metrics = make_step(recipe)(state, batch, jax.random.key(key), scalars)
    return state.params, metrics


@pytest.mark.parametrize("extra", [{}, {"penalty": penalty}], ids=["alone", "penalty"])
def test_the_plain_gradient_in_the_slot_is_the_step_without_one(extra):
    # Crops and mirroring must be drawn alike, or no parameter would agree.
    (params, metrics), (expected, of_plain) = stepped(gradient=Plain(), **extra), stepped(**extra)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name in of_plain:
        np.testing.assert_allclose(metrics[name], of_plain[name], rtol=1e-5)


def test_each_step_has_a_key_of_its_own():
    draws = [stepped(key, gradient=Drawn())[0] for key in (0, 0, 1)]
    first, again, other = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(d)]) for d in draws)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).min() > 0


def test_accuracy_leaves_out_examples_of_weight_zero():
    weights = np.zeros(N)
    assert stepped(weights=weights, gradient=Plain())[1]["accuracy"] == 0
    accuracies = [float(stepped(weights=np.eye(N)[i], gradient=Plain())[1]["accuracy"]) for i in range(N)]
    assert set(accuracies) == {0.0, 1.0}
    np.testing.assert_allclose(np.mean(accuracies), stepped()[1]["accuracy"], rtol=1e-6)


def test_recipes_of_equal_gradients_are_one_key():
    first, second = (Recipe.of(MODEL, DataConfig(), CONFIG, gradient=Plain()) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != Recipe.of(MODEL, DataConfig(), CONFIG)
