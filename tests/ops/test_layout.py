import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.ops.layout import BATCH_LAST, CHANNELS_LAST

LAYOUTS = {"channels last": CHANNELS_LAST, "batch last": BATCH_LAST}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(name="images")
def images_fixture():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5)), jnp.float32)


@each_layout
def test_arrange_puts_batch_and_channels_where_the_layout_says(layout, images):
    x = layout.arrange(images)
    assert x.shape[1:3] == (3, 4)
    assert (x.shape[layout.batch], x.shape[layout.channels]) == (2, 5)
    index = {layout.batch: 1, layout.channels: 4, 1: 2, 2: 3}
    assert x[tuple(index[axis] for axis in range(4))] == images[1, 2, 3, 4]
    np.testing.assert_array_equal(layout.restore(x), images)


def test_channels_last_copies_nothing(images):
    assert CHANNELS_LAST.arrange(images) is images
    assert CHANNELS_LAST.restore(images) is images


@each_layout
def test_spread_puts_one_number_on_each_channel(layout, images):
    channels = jnp.arange(5.0)
    got = layout.restore(layout.arrange(images) + layout.spread(channels))
    np.testing.assert_array_equal(got, images + channels)


@each_layout
@pytest.mark.parametrize(
    "dtype, precise", [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_mean_over_pixels_is_of_the_batch_in_full_precision(layout, images, dtype, precise):
    with jax.enable_x64(dtype == "float64"):
        x = images.astype(dtype)
        got = layout.mean_over_pixels(layout.arrange(x))
        assert got.dtype == precise
        np.testing.assert_allclose(got, np.asarray(x, np.float64).mean((1, 2)), rtol=1e-5, atol=1e-7)


@each_layout
def test_arranging_and_restoring_under_vmap_and_jit(layout, images):
    stacked = jnp.stack([images, 2 * images])
    arranged = jax.jit(jax.vmap(layout.arrange))(stacked)
    np.testing.assert_array_equal(arranged[1], layout.arrange(2 * images))
    np.testing.assert_array_equal(jax.vmap(layout.restore)(arranged), stacked)
