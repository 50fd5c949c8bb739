"""What layers are given: of every lowering the same, and no different from what the network computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import ModelConfig
from mu_jax.models import Model, build_model
from mu_jax.ops import LOWERINGS, conv

QUICK = {"xla_backend_optimization_level": 0}
SHAPE = (9, 8, 3)
"""Neither square nor even, so that no two axes can be mixed up."""


def build(lowering):
    return build_model(
        ModelConfig(name="cnn", width=4), num_classes=5, image_shape=SHAPE, convolution=lowering
    )


@pytest.fixture(scope="module", name="images")
def images_fixture():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, *SHAPE)), jnp.float32)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_inputs_are_what_the_layers_make_their_outputs_of(lowering, images):
    model = build(lowering)
    variables = model.init(jax.random.key(0))
    watched = jax.jit(lambda v, x: model.inputs(v, x, train=False), compiler_options=QUICK)
    logits, batch_stats, inputs = watched(variables, images)
    wanted, _ = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=QUICK)(
        variables, images
    )
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    assert batch_stats == {}
    layers = model.layers()
    assert {layer.name: (6, *layer.input_shape) for layer in layers} == {
        name: x.shape for name, x in inputs.items()
    }
    np.testing.assert_array_equal(inputs["conv1"], images)
    params = variables["params"]
    first = conv(images, params["conv1"]["kernel"], padding=1, lowering="xla") + params["conv1"]["bias"]
    np.testing.assert_allclose(inputs["conv2"], jax.nn.relu(first), atol=1e-5)
    np.testing.assert_allclose(
        inputs["head"] @ params["head"]["kernel"] + params["head"]["bias"], logits, atol=1e-5
    )


def test_derivatives_run_through_the_inputs(images):
    model = build("xla")
    variables = model.init(jax.random.key(0))

    def features(params):
        return jnp.sum(model.inputs({**variables, "params": params}, images, train=True)[2]["head"])

    gradient = jax.jit(jax.grad(features), compiler_options=QUICK)(variables["params"])
    assert np.abs(gradient["conv1"]["kernel"]).max() > 0
    np.testing.assert_array_equal(gradient["head"]["kernel"], 0)


def test_watching_ends_with_the_call(images):
    model = build("xla")
    variables = model.init(jax.random.key(0))
    _, _, inputs = model.inputs(variables, images, train=False)
    before = {name: id(x) for name, x in inputs.items()}
    model.apply(variables, images[:2], train=False)
    assert {name: id(x) for name, x in inputs.items()} == before


def test_many_models_are_watched_as_one_is(images):
    model = build("xla")
    keys = jax.random.split(jax.random.key(3), 2)
    stacked = jax.vmap(model.init)(keys)
    many = jax.jit(
        jax.vmap(lambda v: model.inputs(v, images, train=False)[2]["head"]), compiler_options=QUICK
    )(stacked)
    for i in range(2):
        one = model.inputs(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), images, train=False)[2]["head"]
        np.testing.assert_allclose(many[i], one, atol=1e-5)


def test_a_model_of_other_make_says_that_it_cannot(images):
    model = Model(lambda key: {}, lambda variables, images, *, train: (images, {}))
    with pytest.raises(ValueError, match="does not say what its layers are given"):
        model.inputs({}, images, train=False)
