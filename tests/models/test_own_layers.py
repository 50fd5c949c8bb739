"""The layers of a user's own network: which are known as linear maps, and that they are those maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.head import head_of
from mu_jax.models.own_module import model_of
from mu_jax.smoothness.layers import groups, kernel_fn, kernel_of

SHAPE = (7, 8, 2)


class Net(nn.Module):
    convolution: tuple
    bias: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(4, **dict(self.convolution), name="first")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(3, use_bias=self.bias, name="head")(x.reshape(x.shape[0], -1))


def layers_of(**convolution):
    return model_of(Net(tuple({"kernel_size": (3, 3), **convolution}.items())), 3, SHAPE).layers()


PLAIN = [
    ({}, 1, 1),
    ({"padding": ((1, 1), (1, 1)), "strides": (2, 2)}, 2, 1),
    ({"padding": "VALID", "strides": 2}, 2, 0),
    ({"padding": 2}, 1, 2),
    ({"padding": (1, 1)}, 1, 1),
    ({"kernel_size": (1, 1)}, 1, 0),
]


@pytest.mark.parametrize(("convolution", "stride", "padding"), PLAIN)
def test_plain_layers_are_known(convolution, stride, padding):
    first, head = layers_of(**convolution)
    assert (first.name, first.kind, first.norm) == ("first", "conv", ("norm",))
    assert (first.stride, first.padding) == (stride, padding)
    assert (head.name, head.kind, head.input_shape[0]) == ("head", "dense", np.prod(first.output_shape))


@pytest.mark.parametrize(
    "convolution", [PLAIN[1][0], *(pytest.param(form, marks=pytest.mark.slow) for form, _, _ in PLAIN[2:])]
)
def test_they_are_the_linear_maps_that_they_are_said_to_be(convolution):
    how = {"kernel_size": (3, 3), **convolution}
    model, draw = model_of(Net(tuple(how.items())), 3, SHAPE), np.random.default_rng(0)
    first = model.layers()[0]
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: draw.random(leaf.shape, np.float32), shapes)
    image = jnp.asarray(draw.normal(size=(1, *SHAPE)), jnp.float32)
    own = variables["params"]["first"]

    @jax.jit
    def everything(image):
        _, _, inputs = model.inputs(variables, image, train=False)
        kernel = jnp.asarray(kernel_of(variables["params"], first))
        return (
            inputs["first"],
            kernel_fn(first, "xla")(kernel, image[0]),
            nn.Conv(4, **how).apply({"params": own}, image),
        )

    given, mapped, direct = everything(image)
    np.testing.assert_array_equal(given, image)
    np.testing.assert_allclose(np.moveaxis(mapped, 0, -1), direct[0] - own["bias"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "convolution",
    [
        {"feature_group_count": 2},
        {"kernel_dilation": 2},
        {"strides": (1, 2)},
        {"padding": ((1, 0), (1, 1))},
        {"padding": "CIRCULAR"},
        {"kernel_size": (2, 2)},
    ],
)
def test_layers_of_other_forms_are_said_to_be_such_and_refused_by_what_needs_their_map(convolution):
    first, head = layers_of(**convolution)
    assert (first.kind, head.kind) == ("other", "dense")
    with pytest.raises(InputError, match="The layer first has groups, dilation, uneven strides"):
        groups((first, head))


def test_a_head_without_bias_or_of_another_kind_is_none():
    model = model_of(Net((("kernel_size", (3, 3)),), bias=False), 3, SHAPE)
    with pytest.raises(InputError, match="head, has no bias"):
        head_of(model, jax.eval_shape(model.init, jax.random.key(0))["params"])

    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Conv(3, (3, 3))(x).mean(axis=(1, 2))

    model = model_of(Pooled(), 3, SHAPE)
    with pytest.raises(InputError, match="does not end in a dense layer"):
        head_of(model, {})
