"""The head of every network: found, and replaced by another one, also of another number of outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError, ModelConfig
from mu_jax.models import Model, build_model
from mu_jax.models.head import head_of, with_head

SHAPE, CLASSES = (8, 8, 1), 5


def build(name, classes=CLASSES, shape=SHAPE):
    return build_model(
        ModelConfig(name=name, width=12, convolution="xla"), num_classes=classes, image_shape=shape
    )


def started(model):
    """Zeros in the shapes of the network's weights: nothing is compiled."""
    return jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(model.init, jax.random.key(0))
    )


@pytest.mark.parametrize(
    ("name", "features"), [("mlp", 12), ("cnn", 128), ("resnet18", 96), ("vgg11", 96), ("vit", 12)]
)
def test_every_network_ends_in_its_head(name, features):
    model = build(name, shape=(32, 32, 3))
    path, kernel, bias = head_of(model, started(model)["params"])
    assert path == ("head",)
    assert kernel.shape == (features, CLASSES) and bias.shape == (CLASSES,)


def test_logits_are_the_features_through_the_head():
    model = build("mlp")
    variables = model.init(jax.random.key(1))
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    _, kernel, bias = head_of(model, variables["params"])
    _, _, inputs = model.inputs(variables, images, train=False)
    before, _ = model.apply(variables, images, train=False)
    np.testing.assert_allclose(inputs["head"] @ kernel + bias, before, atol=1e-6)
    # A head twice as large, and with one output more in another model of the same body.
    doubled, _ = model.apply(with_head(model, variables, 2 * kernel, 2 * bias), images, train=False)
    np.testing.assert_allclose(doubled, 2 * before, rtol=1e-5, atol=1e-6)
    wider = build("mlp", CLASSES + 1)
    grown = with_head(wider, variables, np.pad(kernel, ((0, 0), (0, 1))), np.append(np.asarray(bias), 7.0))
    after, _ = wider.apply(grown, images, train=False)
    np.testing.assert_allclose(after, np.pad(before, ((0, 0), (0, 1)), constant_values=7), atol=1e-6)
    # What was given stays as it was, and all else is shared.
    assert head_of(model, variables["params"])[1] is kernel
    assert grown["params"]["hidden1"] is variables["params"]["hidden1"]
    assert head_of(wider, grown["params"])[1].dtype == jnp.float32


def test_a_network_that_does_not_say_its_layers_has_no_head():
    model = build("mlp")
    with pytest.raises(InputError, match="does not end in a dense layer, so it has no head"):
        head_of(Model(model.init, model.apply), started(model)["params"])
