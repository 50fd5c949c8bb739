"""A layer as a map of a block of examples, beside the map of one; and the lowering it is measured by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.layers import block_fn, input_shape, kernel_fn, measuring_lowering
from mu_jax.smoothness.singular_values import leading_singular_values

CONV = AffineLayer(("conv",), "conv", (6, 5, 3), (3, 3, 4), (3, 3, 3, 4), stride=2, padding=1)
DENSE = AffineLayer(("head",), "dense", (7,), (4,), (7, 4))


def large(side):
    return AffineLayer(("conv",), "conv", (side, side, 4), (side, side, 4), (3, 3, 4, 4), padding=1)


@pytest.mark.parametrize("layer", [CONV, DENSE], ids=lambda layer: layer.kind)
@pytest.mark.parametrize("lowering", ["xla", "patches", "winograd"])
def test_a_block_is_its_examples_one_after_another(layer, lowering):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=layer.kernel_shape), jnp.float32)
    rows = jnp.asarray(rng.normal(size=(5, *input_shape(layer, lowering))), jnp.float32)
    one = kernel_fn(layer, lowering)
    expected = jnp.stack([one(kernel, row) for row in rows])
    np.testing.assert_allclose(block_fn(layer, lowering)(kernel, rows), expected, rtol=1e-5, atol=1e-5)


def test_the_same_norm_by_block_and_by_one():
    rng = np.random.default_rng(1)
    kernel = jnp.asarray(rng.normal(size=CONV.kernel_shape), jnp.float32)
    shape, one, block = input_shape(CONV, "patches"), kernel_fn(CONV, "patches"), block_fn(CONV, "patches")

    @jax.jit
    def both():
        by_one = leading_singular_values(lambda x: one(kernel, x), shape)
        # An offset that differs from example to example would be a bug of the caller; the same one cancels.
        by_block = leading_singular_values(
            lambda x: one(kernel, x), shape, block_fn=lambda rows: block(kernel, rows) + 3.0
        )
        return by_one.values[0], by_block.values[0]

    np.testing.assert_allclose(*both(), rtol=1e-5)


def test_large_images_are_measured_by_tiles_on_the_same_layout():
    assert measuring_lowering(large(16), "patches") == "winograd"
    assert measuring_lowering(large(15), "patches") == "patches"
    assert measuring_lowering(large(32), "xla") == "xla"
    assert measuring_lowering(DENSE, "patches") == "patches"
    assert input_shape(large(16), "patches") == input_shape(large(16), "winograd")
