"""Singular values of convolutions around a ring, and which of them bound a layer with zeros around its image."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.fourier import circular_norm, circular_singular_values, fourier_bound


def layer_of(size, taps, stride=1, padding=0, depth=2, features=3):
    out = tuple((side + 2 * padding - t) // stride + 1 for side, t in zip(size, taps, strict=True))
    return AffineLayer(
        ("conv",), "conv", (*size, depth), (*out, features), (*taps, depth, features), stride, padding
    )


def circular_matrix(kernel, size, stride):
    """[H/s·W/s·E, H·W·D] of a kernel [h,w,D,E] whose patches wrap around, by the definition."""
    h, w, depth, features = kernel.shape
    rows, columns = size[0] // stride, size[1] // stride
    matrix = np.zeros((rows, columns, features, *size, depth))
    for i, j, u, v in np.ndindex(rows, columns, h, w):
        matrix[i, j, :, (stride * i + u) % size[0], (stride * j + v) % size[1]] += kernel[u, v].T
    return matrix.reshape(rows * columns * features, size[0] * size[1] * depth)


def zero_padded_matrix(kernel, layer, stride=None):
    """[H'·W'·E, H·W·D] of a layer, or of its convolution with another stride."""
    stride = stride or layer.stride
    (height, width, depth), (h, w, _, features) = layer.input_shape, kernel.shape
    rows, columns = (
        (side + 2 * layer.padding - taps) // stride + 1 for side, taps in ((height, h), (width, w))
    )
    matrix = np.zeros((rows, columns, features, height, width, depth))
    for i, j, u, v in np.ndindex(rows, columns, h, w):
        y, x = stride * i + u - layer.padding, stride * j + v - layer.padding
        if 0 <= y < height and 0 <= x < width:
            matrix[i, j, :, y, x] += kernel[u, v].T
    return matrix.reshape(rows * columns * features, height * width * depth)


def svd(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


RIPPLE = np.array([1, -1, 1], np.float32).reshape(3, 1, 1, 1)
"""1 − 2cos ω at frequency ω, up to a sign: largest, 3, where the image changes sign from row to row."""


def test_hand_values():
    delta = np.zeros((3, 3, 2, 2), np.float32)
    delta[1, 1] = np.eye(2)
    np.testing.assert_allclose(circular_singular_values(delta, (4, 5)), np.ones((4, 5, 2)), rtol=1e-6)
    # Over three rows ω is 0 or ±2π/3: |1 − 2cos ω| is 1, 2, 2.
    found = circular_singular_values(RIPPLE, (3, 1))
    np.testing.assert_allclose(found.ravel(), [1, 2, 2], rtol=1e-6)
    assert circular_norm(RIPPLE, (4, 1)) == pytest.approx(3.0, rel=1e-6)
    # Larger than the ring: on one row all taps meet the same pixel.
    assert circular_norm(RIPPLE, (1, 1)) == pytest.approx(1.0, rel=1e-6)
    # Every second row of the identity is as long as the identity.
    assert circular_norm(delta, (4, 4), stride=2) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    "shape, size, stride",
    [
        ((3, 3, 2, 3), (5, 4), 1), ((3, 3, 3, 2), (4, 6), 2), ((1, 1, 3, 2), (4, 4), 2), ((2, 3, 1, 2), (6, 3), 3),
        ((3, 2, 1, 2), (2, 2), 1), ((5, 5, 1, 1), (3, 3), 3), ((3, 3, 2, 2), (1, 7), 1),
    ],
)  # fmt: skip
def test_they_are_those_of_the_matrix(shape, size, stride):
    kernel = random(*shape)
    true = svd(circular_matrix(kernel, size, stride))
    found = circular_singular_values(kernel, size, stride=stride)
    depth, features = shape[2:]
    assert found.shape == (size[0] // stride, size[1] // stride, min(features, stride**2 * depth))
    np.testing.assert_allclose(np.sort(np.ravel(found))[::-1], true, rtol=1e-5, atol=1e-5)
    assert np.all(np.diff(found, axis=-1) <= 0)
    assert circular_norm(kernel, size, stride=stride) == pytest.approx(true[0], rel=1e-5)


LAYERS = [
    ((5, 4), (3, 3), 1, 1), ((6, 6), (3, 3), 2, 1), ((5, 7), (3, 3), 2, 1), ((6, 5), (1, 1), 2, 0),
    ((5, 5), (2, 3), 1, 0), ((7, 7), (3, 3), 3, 2), ((4, 4), (5, 5), 1, 2), ((1, 1), (3, 3), 1, 1),
    ((2, 3), (3, 3), 2, 1), ((4, 3), (2, 2), 1, 1), ((3, 4), (2, 2), 2, 3), ((4, 5), (1, 1), 3, 1),
]  # fmt: skip


@pytest.mark.parametrize("which", LAYERS, ids=lambda which: "-".join(map(str, which)).replace(", ", "x"))
@pytest.mark.parametrize("signs", ["mixed", "positive", "alternating"])
def test_a_ring_with_room_for_the_zeros_bounds_a_layer(which, signs):
    layer = layer_of(*which)
    kernel = random(*layer.kernel_shape, seed=1)
    if signs != "mixed":
        kernel = np.abs(kernel)
    if signs == "alternating":
        taps = np.indices(layer.kernel_shape[:2]).sum(0)
        kernel = kernel * ((-1.0) ** taps)[..., None, None].astype(np.float32)
    true = svd(zero_padded_matrix(kernel, layer))[0]
    unstrided = svd(zero_padded_matrix(kernel, layer, stride=1))[0]
    assert true <= unstrided * (1 + 1e-12)
    bound, loose = (float(fourier_bound(kernel, layer, strided=strided)) for strided in (True, False))
    assert true <= bound * (1 + 1e-5)
    assert unstrided <= loose * (1 + 1e-5)
    if layer.stride == 1:
        assert bound == loose


def test_the_layer_is_a_part_of_the_rings_matrix():
    # Rows of the ring where a response lies, columns where a pixel lies: nothing else is left out.
    layer = layer_of((4, 5), (3, 3), 2, 1)
    kernel = random(*layer.kernel_shape)
    ring = circular_matrix(kernel, (6, 6), 2).reshape(3, 3, 3, 6, 6, 2)
    # A patch that starts at pixel 0 of the ring starts at −1 of the layer, whose pixels therefore lie at 1 and on.
    part = ring[:2, :3, :, 1:5, 1:6]
    np.testing.assert_array_equal(part.reshape(2 * 3 * 3, 4 * 5 * 2), zero_padded_matrix(kernel, layer))


def test_the_ring_of_the_image_itself_is_no_bound_from_either_side():
    layer = layer_of((3, 1), (3, 1), 1, 1, 1, 1)
    # One column: padded at its sides too, which adds responses that are zero.
    true = svd(zero_padded_matrix(RIPPLE, layer))[0]
    assert true == pytest.approx(1 + 2**0.5)
    assert circular_norm(RIPPLE, (3, 1)) == pytest.approx(2.0, rel=1e-6)
    assert fourier_bound(RIPPLE, layer) == pytest.approx(3.0, rel=1e-6)
    # Ones: around a ring every pixel sees nine.
    ones = np.ones((3, 3, 1, 1), np.float32)
    padded = svd(zero_padded_matrix(ones, layer_of((3, 3), (3, 3), 1, 1, 1, 1)))[0]
    assert padded == pytest.approx((1 + 2**0.5) ** 2)
    assert circular_norm(ones, (3, 3)) == pytest.approx(9.0, rel=1e-6)


def test_without_zeros_around_the_ring_is_the_image_and_of_large_images_the_bound_is_close():
    kernel = random(3, 3, 2, 2, seed=3)
    layer = layer_of((5, 4), (3, 3), 1, 0, 2, 2)
    assert fourier_bound(kernel, layer) == circular_norm(kernel, (5, 4))
    gaps = []
    for size in (4, 8, 16):
        layer = layer_of((size, size), (3, 3), 1, 1, 2, 2)
        gaps.append(float(fourier_bound(kernel, layer)) / svd(zero_padded_matrix(kernel, layer))[0] - 1)
    assert gaps[0] > gaps[1] > gaps[2] >= -1e-6
    assert gaps[2] < 0.03


def test_a_1x1_convolution_with_a_stride_is_its_matrix():
    layer = layer_of((6, 5), (1, 1), 2, 0)
    kernel = random(*layer.kernel_shape)
    assert fourier_bound(kernel, layer) == pytest.approx(svd(kernel[0, 0])[0], rel=1e-5)


def test_a_stride_that_does_not_go_around_is_refused():
    with pytest.raises(InputError, match="5×4 pixels and the stride 2, but .* pad the image"):
        circular_singular_values(random(3, 3, 1, 1), (5, 4), stride=2)
    with pytest.raises(InputError, match="stride 0"):
        circular_norm(random(3, 3, 1, 1), (4, 4), stride=0)


def test_a_zero_kernel_has_norm_zero():
    assert circular_norm(np.zeros((3, 3, 2, 3), np.float32), (4, 4)) == 0


def strided_bound(kernel):
    return fourier_bound(kernel, layer_of((6, 5), (3, 3), 2, 1))


def test_compiled_is_eager_and_vmap_is_the_loop():
    kernels = jnp.asarray(random(3, 3, 3, 2, 3, seed=4))
    one_by_one = jnp.stack([strided_bound(kernel) for kernel in kernels])
    compiled = jax.jit(strided_bound)
    np.testing.assert_allclose(jnp.stack([compiled(kernel) for kernel in kernels]), one_by_one, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(strided_bound)(kernels), one_by_one, rtol=1e-5)
    assert compiled._cache_size() == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_can_be_compiled_for_accelerators(platform):
    kernel = jax.ShapeDtypeStruct((3, 3, 2, 3), jnp.float32)
    exported = jax.export.export(jax.jit(strided_bound), platforms=[platform])(kernel)
    assert exported.platforms == (platform,)
