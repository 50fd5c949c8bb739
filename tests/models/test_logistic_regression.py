"""Logistic regression by its name: the MLP without hidden layers, on images and on rows of a table."""

import jax
import numpy as np
import pytest

from mu_jax.config import InputError, ModelConfig
from mu_jax.models import build_model
from mu_jax.models.head import head_of
from mu_jax.models.mlp import mlp_model

ROWS = (1, 1, 13)


def build(image_shape=ROWS, **changes):
    config = ModelConfig(name="logistic_regression", convolution="xla", **changes)
    return build_model(config, num_classes=3, image_shape=image_shape)


def rows(count, image_shape=ROWS, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *image_shape)).astype(np.float32)


@pytest.mark.parametrize("image_shape", [ROWS, (4, 3, 2)])
def test_logits_are_one_affine_map_of_the_input(image_shape):
    model = build(image_shape)
    variables = model.init(jax.random.key(0))
    path, kernel, bias = head_of(model, variables["params"])
    assert path == ("head",) and set(variables["params"]) == {"head"} and variables["batch_stats"] == {}
    x = rows(5, image_shape)
    expected = x.reshape(5, -1) @ np.asarray(kernel) + np.asarray(bias)
    logits, _ = model.apply(variables, x, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert logits.dtype == np.float32


def test_it_is_the_mlp_without_hidden_layers_of_whatever_width():
    x = rows(4)
    expected, *others = (
        model.apply(model.init(jax.random.key(1)), x, train=False)[0]
        for model in (mlp_model((), 3, ROWS), build(), build(width=7), build(compute_dtype="bfloat16"))
    )
    for other in others:  # the head computes in float32 always
        np.testing.assert_array_equal(other, expected)


def test_jit_equals_eager_and_vmap_equals_a_loop():
    model = build()
    keys, x = jax.random.split(jax.random.key(2), 3), rows(4)

    def logits(key):
        return model.apply(model.init(key), x, train=False)[0]

    eager = np.stack([logits(key) for key in keys])
    np.testing.assert_allclose(np.stack([jax.jit(logits)(key) for key in keys]), eager, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(logits)(keys), eager, rtol=1e-5, atol=1e-6)


def test_a_misspelt_name_is_refused():
    with pytest.raises(InputError, match="did you mean 'logistic_regression'"):
        ModelConfig(name="logistic_regresion")
