"""What normalisations of weights claim, against the SVD of the convolution's matrix written out in float64."""

import functools
import itertools
import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.layers import input_shape, kernel_fn
from mu_jax.smoothness.reshaped import (
    composed_bound,
    divided,
    divided_down_to,
    patches_per_pixel,
    power_norm,
    reshaped,
    reshaped_bound,
    reshaped_norm,
    reshaped_power_norm,
    reshaped_power_step,
)


def conv(size, taps, stride=1, padding=0, depth=2, features=3):
    out = tuple((side + 2 * padding - t) // stride + 1 for side, t in zip(size, taps, strict=True))
    return AffineLayer(
        ("conv",), "conv", (*size, depth), (*out, features), (*taps, depth, features), stride, padding
    )


LAYERS = [
    conv((5, 4), (3, 3), 1, 1),
    conv((6, 6), (3, 3), 2, 1),
    conv((5, 7), (3, 3), 2, 1),
    conv((6, 5), (1, 1), 2, 0),
    conv((5, 5), (2, 3), 1, 0),
    conv((7, 7), (3, 3), 3, 2),
    conv((6, 6), (5, 5), 1, 2),
    conv((3, 3), (3, 3), 1, 1),
]
"""In each of their images a whole patch fits."""


def matrix_of(layer, kernel):
    """[H'·W'·E, H·W·D] of a kernel [h,w,D,E], by the definition of convolution."""
    (height, width, depth), (rows, columns, features) = layer.input_shape, layer.output_shape
    matrix = np.zeros((rows, columns, features, height, width, depth))
    for i, j, u, v in np.ndindex(rows, columns, *layer.kernel_shape[:2]):
        y, x = layer.stride * i + u - layer.padding, layer.stride * j + v - layer.padding
        if 0 <= y < height and 0 <= x < width:
            matrix[i, j, :, y, x] += kernel[u, v].T
    return matrix.reshape(rows * columns * features, height * width * depth)


def norm_of(matrix):
    return np.linalg.svd(matrix, compute_uv=False)[0]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def words(layer):
    return "{}x{}-{}x{}-stride{}-padding{}".format(
        *layer.input_shape[:2], *layer.kernel_shape[:2], layer.stride, layer.padding
    )


def test_hand_values():
    # Nine ones: of one patch the norm is 3, of a flat image's inside 9; on 2×2 pixels every response is the whole sum.
    ones = np.ones((3, 3, 1, 1), np.float32)
    layer = conv((2, 2), (3, 3), 1, 1, 1, 1)
    assert reshaped_norm(ones) == pytest.approx(3.0, rel=1e-6)
    assert norm_of(matrix_of(layer, ones)) == pytest.approx(4.0)
    assert reshaped_bound(jnp.float32(3.0), layer) == pytest.approx(6.0)
    # [[3, 0], [4, 5]] maps (1, 0) to (3, 4); σ = 3√5.
    matrix = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    assert reshaped_norm(matrix) == pytest.approx(3 * 5**0.5, rel=1e-6)
    # From u = (1, 0): v = Wᵀu = (1, 0), Wv = (3, 4).
    u, sigma = reshaped_power_step(matrix, jnp.array([1.0, 0.0]))
    assert sigma == pytest.approx(5.0)
    np.testing.assert_allclose(u, [0.6, 0.8], rtol=1e-6)
    assert composed_bound(jnp.float32(2.0), jnp.array([0.5, -3.0])) == pytest.approx(6.0)


def test_the_reshaped_kernel_maps_a_patch_to_its_response():
    kernel, patch = random(3, 2, 4, 5), random(3, 2, 4, seed=1)
    expected = np.einsum("hwde,hwd->e", kernel, patch)
    np.testing.assert_allclose(reshaped(kernel) @ patch.ravel(), expected, rtol=1e-5)
    np.testing.assert_array_equal(reshaped(kernel[0, 0]), kernel[0, 0].T)


@pytest.mark.parametrize(
    "size, taps, stride, padding, patches",
    [
        ((8, 8), (3, 3), 1, 1, 9), ((8, 8), (3, 3), 2, 1, 4), ((8, 8), (1, 1), 2, 0, 1), ((1, 1), (3, 3), 1, 1, 1),
        ((2, 2), (3, 3), 1, 1, 4), ((8, 2), (3, 3), 1, 1, 6), ((8, 8), (5, 5), 3, 2, 4), ((2, 2), (3, 3), 2, 1, 1),
    ],
)  # fmt: skip
def test_patches_that_a_pixel_lies_in(size, taps, stride, padding, patches):
    layer = conv(size, taps, stride, padding)
    assert patches_per_pixel(layer) == patches
    # The twin: the response of a kernel of ones to ones in each pixel alone.
    counted = matrix_of(conv(size, taps, stride, padding, 1, 1), np.ones((*taps, 1, 1)))
    assert counted.sum(0).max() == patches


@pytest.mark.parametrize("layer", LAYERS, ids=words)
@pytest.mark.parametrize("signs", ["mixed", "positive"])
def test_the_claim_is_at_most_the_norm_and_the_bound_at_least(layer, signs):
    kernel = random(*layer.kernel_shape, seed=2)
    kernel = np.abs(kernel) if signs == "positive" else kernel
    true, claim = norm_of(matrix_of(layer, kernel)), float(reshaped_norm(kernel))
    assert claim == pytest.approx(norm_of(np.asarray(reshaped(kernel), np.float64)), rel=1e-5)
    bound = float(reshaped_bound(jnp.float32(claim), layer))
    assert claim <= true * (1 + 1e-5)
    assert true <= bound * (1 + 1e-5)
    if patches_per_pixel(layer) == 1:
        assert claim == pytest.approx(true, rel=1e-5)
    elif signs == "positive":
        # Patches that overlap add up: the claim is far off, and the bound near.
        assert claim < 0.8 * true
    assert bound == pytest.approx(claim * patches_per_pixel(layer) ** 0.5, rel=1e-6)


def test_where_no_patch_fits_the_claim_may_be_above_the_norm():
    layer = conv((1, 1), (3, 3), 1, 1)
    kernel = random(*layer.kernel_shape)
    claim, true = float(reshaped_norm(kernel)), norm_of(matrix_of(layer, kernel))
    assert true == pytest.approx(norm_of(kernel[1, 1]), rel=1e-5)
    assert claim > 1.5 * true
    assert reshaped_bound(jnp.float32(claim), layer) >= true


def test_a_dense_layers_claim_is_its_norm():
    layer = AffineLayer(("head",), "dense", (6,), (4,), (6, 4))
    kernel = random(6, 4)
    assert reshaped_norm(kernel) == pytest.approx(norm_of(kernel), rel=1e-5)
    assert patches_per_pixel(layer) == 1


def test_miyatos_iteration_is_its_numpy_twin():
    kernel, key = random(3, 3, 4, 6), jax.random.key(5)
    matrix = kernel.reshape(-1, 6).T.astype(np.float64)
    u, sigmas = np.asarray(jax.random.normal(key, (6,)), np.float64), []
    for _ in range(4):
        v = matrix.T @ u
        v /= np.linalg.norm(v)
        u = matrix @ v
        sigmas.append(np.linalg.norm(u))
        u /= sigmas[-1]
    found = [float(reshaped_power_norm(kernel, iterations=n, key=key)) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(found, sigmas, rtol=1e-5)
    # It grows towards the norm, and never passes it.
    true = norm_of(matrix)
    assert all(a < b for a, b in itertools.pairwise(found)) and found[-1] <= true * (1 + 1e-6)
    assert reshaped_power_norm(kernel, iterations=300, key=key) == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize("layer", LAYERS[:4], ids=words)
def test_gouks_iteration_is_its_numpy_twin(layer):
    kernel, key = random(*layer.kernel_shape, seed=3), jax.random.key(7)
    apply, matrix = kernel_fn(layer, "xla"), matrix_of(layer, kernel)
    shape = input_shape(layer, "xla")

    def norm(n):
        return power_norm(lambda x: apply(jnp.asarray(kernel), x) + 2.0, shape, iterations=n, key=key)

    v, expected = np.asarray(jax.random.normal(key, (math.prod(shape),)), np.float64), []
    for _ in range(4):
        expected.append(np.linalg.norm(matrix @ v) / np.linalg.norm(v))
        v = matrix.T @ (matrix @ v)
    np.testing.assert_allclose([norm(n) for n in range(4)], expected, rtol=1e-5)
    true = norm_of(matrix)
    assert norm(3) <= true * (1 + 1e-6)
    assert norm(500) == pytest.approx(true, rel=1e-4)


def test_a_batch_norm_by_itself_bounds_both_together():
    layer, scale = LAYERS[0], np.array([0.5, -3.0, 1.0], np.float32)
    kernel = random(*layer.kernel_shape)
    true = norm_of(matrix_of(layer, kernel * scale))
    alone = norm_of(matrix_of(layer, kernel))
    assert true < composed_bound(jnp.float32(alone), jnp.asarray(scale)) < 3 * alone + 1e-3
    flat = norm_of(matrix_of(layer, kernel * np.float32(-2)))
    assert composed_bound(jnp.float32(alone), jnp.full(3, -2.0)) == pytest.approx(flat, rel=1e-5)


def test_division_makes_the_norm_what_was_asked_for():
    kernel = random(3, 3, 2, 4)
    norm = reshaped_norm(kernel)
    assert reshaped_norm(divided(kernel, norm)) == pytest.approx(1.0, rel=1e-5)
    assert reshaped_norm(divided_down_to(kernel, norm, 0.5)) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_array_equal(divided_down_to(kernel, norm, 2 * norm), kernel)
    for c in (0.0, -1.0):
        with pytest.raises(InputError, match="norm to clip at is"):
            divided_down_to(kernel, norm, c)


def test_a_zero_kernel_has_norm_zero_and_no_nan():
    zero, key = np.zeros((3, 3, 2, 3), np.float32), jax.random.key(0)
    apply = kernel_fn(LAYERS[0], "xla")
    assert reshaped_norm(zero) == 0
    assert reshaped_power_norm(zero, iterations=3, key=key) == 0
    assert power_norm(lambda x: apply(jnp.asarray(zero), x), (5, 4, 2), iterations=3, key=key) == 0
    u, sigma = reshaped_power_step(zero, jnp.ones(3))
    assert sigma == 0 and np.isfinite(u).all()
    np.testing.assert_array_equal(divided(zero, jnp.float32(0)), zero)
    np.testing.assert_array_equal(divided_down_to(zero, jnp.float32(0), 1.0), zero)


def all_claims(kernel):
    layer, key = LAYERS[1], jax.random.key(1)
    apply = kernel_fn(layer, "xla")
    norm = reshaped_norm(kernel)
    return jnp.stack(
        [
            norm,
            reshaped_bound(norm, layer),
            reshaped_power_norm(kernel, iterations=2, key=key),
            power_norm(lambda x: apply(kernel, x), (6, 6, 2), iterations=2, key=key),
        ]
    )


def test_compiled_is_eager_and_vmap_is_the_loop():
    kernels = jnp.asarray(random(3, 3, 3, 2, 3, seed=4))
    one_by_one = jnp.stack([all_claims(kernel) for kernel in kernels])
    compiled = jax.jit(all_claims)
    np.testing.assert_allclose(jnp.stack([compiled(kernel) for kernel in kernels]), one_by_one, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(all_claims)(kernels), one_by_one, rtol=1e-5)
    assert compiled._cache_size() == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_can_be_compiled_for_accelerators(platform):
    kernel = jax.ShapeDtypeStruct((3, 3, 2, 3), jnp.float32)
    exported = jax.export.export(jax.jit(functools.partial(all_claims)), platforms=[platform])(kernel)
    assert exported.platforms == (platform,)
