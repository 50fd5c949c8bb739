"""Small real models for the attacks on class unlearning: trained once, for all tests of this folder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mu_jax.data import digits


@dataclasses.dataclass(frozen=True)
class DigitModels:
    """Logits of MLPs of width 16 on the 1,297 training and then the 500 test digits; eights are to be forgotten."""

    original: np.ndarray
    """[6, 1797, 10], trained on all classes."""
    retrained: np.ndarray
    """[10, 1797, 10], trained without the eights; none shares a seed with another."""
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    forget_class: int = 8


@pytest.fixture(scope="session")
def digit_models():
    data = digits.load()
    images = np.concatenate([data.x_train, data.x_test]).reshape(-1, 64) / 255.0
    labels = np.concatenate([data.y_train, data.y_test])
    train = np.arange(len(data.y_train))
    x, y = jnp.asarray(images[train], jnp.float32), jnp.asarray(labels[train])
    originals, models = 6, 16
    kept = (np.arange(models)[:, None] < originals) | (labels[train] != 8)
    optimizer = optax.adam(0.01)

    def logits_of(params, x):
        return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["out"]

    def fit(key, weight):
        first, second = jax.random.split(key)
        params = {
            "hidden": jax.random.normal(first, (64, 16)) / 8,
            "bias": jnp.zeros(16),
            "out": jax.random.normal(second, (16, 10)) / 4,
        }

        def loss(params):
            losses = optax.softmax_cross_entropy_with_integer_labels(logits_of(params, x), y)
            return jnp.sum(weight * losses) / jnp.sum(weight)

        def step(state, _):
            params, slots = state
            updates, slots = optimizer.update(jax.grad(loss)(params), slots, params)
            return (optax.apply_updates(params, updates), slots), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=150)[0][0]

    params = jax.jit(jax.vmap(fit))(
        jax.random.split(jax.random.key(0), models), jnp.asarray(kept, jnp.float32)
    )
    logits = np.asarray(jax.vmap(logits_of, (0, None))(params, jnp.asarray(images, jnp.float32)))
    test = np.arange(len(train), len(labels))
    return DigitModels(logits[:originals], logits[originals:], labels, train, test)
