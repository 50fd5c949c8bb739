"""Layers against hand values and slow NumPy twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.models.layers import Convolution, Linear, batch_norm, max_pool_2x2
from mu_jax.ops import LOWERINGS, layout_of

ONE_OF_EACH_LAYOUT = ("xla", "patches")


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_convolution_is_the_sum_over_windows(size, stride, padding, lowering):
    layer, layout = (
        Convolution(4, size, stride, padding, lowering=lowering, use_bias=True),
        layout_of(lowering),
    )
    images, bias = _normal(2, 6, 5, 3), _normal(4, seed=1)
    x = layout.arrange(jnp.asarray(images))
    params = layer.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (size, size, 3, 4), "bias": (4,)}
    kernel = params["kernel"]
    got = layout.restore(jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": jnp.asarray(bias)}}, x))

    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = (6 + 2 * padding - size) // stride + 1
    columns = (5 + 2 * padding - size) // stride + 1
    expected = np.empty((2, rows, columns, 4))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            expected[:, i, j] = np.einsum("bhwd,hwde->be", window, np.asarray(kernel)) + bias
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_convolution_starts_he_normal_by_fan_out():
    layer = Convolution(64, 3)
    kernel = layer.init(jax.random.key(0), jnp.zeros((1, 3, 3, 32)))["params"]["kernel"]
    assert kernel.shape == (3, 3, 32, 64)
    standardised = np.asarray(kernel).ravel() / np.sqrt(2 / (3 * 3 * 64))
    assert abs(standardised.std() - 1) < 0.02
    assert abs(standardised.mean()) < 0.03
    assert abs(standardised).max() > 3.5  # a normal cut off at two deviations is not what torchvision draws


def test_linear_starts_uniform_within_one_over_root_fan_in():
    params = Linear(50).init(jax.random.key(0), jnp.zeros((1, 400)))["params"]
    for values in (params["kernel"], params["bias"]):
        assert abs(values).max() <= 1 / 20
        assert abs(values).max() > 0.9 / 20
        assert values.min() < -0.8 / 20
    np.testing.assert_allclose(params["kernel"].std(), 1 / 20 / np.sqrt(3), rtol=0.02)


def test_linear_is_an_affine_map():
    params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([10.0, 20.0])}
    got = Linear(2).apply({"params": params}, jnp.array([[1.0, -1.0]]))
    np.testing.assert_array_equal(got, [[8.0, 18.0]])


@pytest.mark.parametrize("lowering", ONE_OF_EACH_LAYOUT)
def test_batch_norm_by_hand(lowering):
    images = jnp.asarray(_normal(4, 2, 2, 3) * 2 + 5)
    layout, norm = (
        layout_of(lowering),
        batch_norm(train=True, lowering=lowering, dtype=jnp.float32, name="norm"),
    )
    old = {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([4.0, 5.0, 6.0])}
    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.5, 0.0, -0.5])}
    variables = {"params": params, "batch_stats": old}
    got, updated = norm.apply(variables, layout.arrange(images), mutable=["batch_stats"])
    got = layout.restore(got)

    flat = np.asarray(images, np.float64).reshape(-1, 3)
    mean, variance = flat.mean(0), flat.var(0)
    expected = (flat - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(np.asarray(got).reshape(-1, 3), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 * old["var"] + 0.1 * variance, rtol=1e-5)


@pytest.mark.parametrize("lowering", ONE_OF_EACH_LAYOUT)
def test_batch_norm_takes_statistics_in_float32_whatever_the_compute_dtype(lowering):
    # 4,096 values near 100: a sum in bfloat16 (8 bits) stalls far below their total, and so does E[x²] − μ².
    images = jnp.asarray(100 + _normal(16, 16, 16, 1), jnp.bfloat16)
    norm = batch_norm(train=True, lowering=lowering, dtype=jnp.bfloat16, name="norm")
    x = layout_of(lowering).arrange(images)
    variables = norm.init(jax.random.key(0), x)
    got, updated = norm.apply(variables, x, mutable=["batch_stats"])
    exact = np.asarray(images, np.float64)
    assert got.dtype == jnp.bfloat16
    assert updated["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * exact.mean(), rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * exact.var(), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(got, np.float64).std(), 1, rtol=1e-2)


@pytest.mark.parametrize("lowering", ONE_OF_EACH_LAYOUT)
def test_max_pool_drops_the_odd_row_and_column(lowering):
    layout = layout_of(lowering)
    images = jnp.concatenate([jnp.arange(15.0).reshape(1, 3, 5, 1), jnp.ones((1, 3, 5, 1))])
    got = layout.restore(max_pool_2x2(layout.arrange(images)))
    np.testing.assert_array_equal(got[..., 0], [[[6.0, 8.0]], [[1.0, 1.0]]])


@pytest.mark.parametrize("lowering", ONE_OF_EACH_LAYOUT)
def test_max_pool_sends_the_gradient_to_the_largest(lowering):
    layout = layout_of(lowering)
    images = jnp.array([[1.0, 4.0], [3.0, 2.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: max_pool_2x2(layout.arrange(x)).sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0.0, 1.0], [0.0, 0.0]])
