"""The leading singular values of affine maps, against the SVD of the matrix written out in float64."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.config import InputError
from mu_jax.models.resnet import resnet18_model
from mu_jax.smoothness.fastclip import check_affine, leading_singular_values, power_step, spectral_norm
from mu_jax.smoothness.layers import groups, input_shape, kernel_fn

QUICK = {"xla_backend_optimization_level": 0}
"""What is compiled here runs once."""
SHAPES = (
    "stem", "stage1_block0/conv1",
    *(f"stage{stage}_block0/{part}" for stage in (2, 3, 4) for part in ("conv1", "conv2", "shortcut")),
    "head",
)  # fmt: skip
"""A layer of each shape of ResNet-18."""


@functools.cache
def resnet_layers(size):
    layers = resnet18_model(4, 10, (size, size, 3)).layers()
    return {members[0].name: members[0] for members in groups(layers)}


def conv_matrix(kernel, height, width, stride=1, padding=0):
    """[H'·W'·E, H·W·D] of a kernel [h,w,D,E], by the definition of convolution."""
    h, w, depth, features = kernel.shape
    rows, columns = ((n + 2 * padding - k) // stride + 1 for n, k in ((height, h), (width, w)))
    matrix = np.zeros((rows, columns, features, height, width, depth))
    for i, j, u, v in np.ndindex(rows, columns, h, w):
        y, x = stride * i + u - padding, stride * j + v - padding
        if 0 <= y < height and 0 <= x < width:
            matrix[i, j, :, y, x] += kernel[u, v].T
    return matrix.reshape(rows * columns * features, height * width * depth)


def matrix_of(layer, kernel):
    if layer.kind == "dense":
        return kernel.T
    return conv_matrix(kernel, *layer.input_shape[:2], layer.stride, layer.padding)


def random(*shape, seed=0):
    """Float32 numbers in float64."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(np.float64)


def as_float32(array):
    return jnp.asarray(array, jnp.float32)


def measure(function, shape, **options):
    """`leading_singular_values`, compiled quickly."""
    found = jax.jit(lambda: leading_singular_values(function, shape, **options), compiler_options=QUICK)
    return found()


def norm_of(function, shape):
    return float(measure(function, shape).values[0])


def svd(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def dense(matrix):
    return lambda x: jnp.asarray(matrix, jnp.float32) @ x


def convolve(x, kernel, padding="SAME", **options):
    y = lax.conv_general_dilated(
        x[None], kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )
    return y[0]


@pytest.mark.parametrize("size", [8, 9])
def test_the_shapes_below_are_all_that_resnet18_has(size):
    assert tuple(resnet_layers(size)) == SHAPES


@pytest.mark.parametrize("name", SHAPES)
def test_spectral_norm_of_every_layer_shape_of_resnet18(name):
    layer = resnet_layers(8)[name]
    kernel, apply, shape = random(*layer.kernel_shape), kernel_fn(layer, "xla"), input_shape(layer, "xla")
    norm = jax.jit(lambda kernel: spectral_norm(lambda x: apply(kernel, x), shape), compiler_options=QUICK)
    true = svd(matrix_of(layer, kernel))[0]
    found = float(norm(as_float32(kernel)))
    np.testing.assert_allclose(found, true, rtol=1e-5)
    assert found <= true * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_leading_singular_values_of_every_layer_shape_of_resnet18(name):
    layer = resnet_layers(9)[name]
    kernel, apply = random(*layer.kernel_shape, seed=1), kernel_fn(layer, "patches")
    shape = input_shape(layer, "patches")
    found, matrix = measure(lambda x: apply(as_float32(kernel), x), shape, k=3), matrix_of(layer, kernel)
    true = svd(matrix)[:3]
    np.testing.assert_allclose(found.values, true, rtol=1e-5)
    assert np.all(np.asarray(found.values) <= true * (1 + 1e-6))
    assert np.all(1 - np.asarray(found.values) / true <= np.asarray(found.error) + 2e-6)
    vectors = np.asarray(found.vectors, np.float64)
    assert vectors.shape == (3, *shape)
    if layer.kind == "conv":  # [D,H,W], where the matrix has [H,W,D]
        vectors = vectors.transpose(0, 2, 3, 1)
    vectors = vectors.reshape(3, -1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-5)
    # In a cluster of values the vectors are any of its span: only the residual says whether they are right.
    residual = vectors @ matrix.T @ matrix - true[:, None] ** 2 * vectors
    assert np.linalg.norm(residual, axis=1).max() < 5e-3 * true[0] ** 2


def test_hand_values():
    found = measure(dense([[3.0, 0.0], [4.0, 5.0]]), (2,), k=2)
    np.testing.assert_allclose(found.values, [3 * 5**0.5, 5**0.5], rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.vectors), np.full((2, 2), 0.5**0.5), rtol=1e-5)
    assert spectral_norm(lambda x: jnp.array([3.0, 4.0]) * x, (2,)) == pytest.approx(4.0, rel=1e-6)
    # Each of 2×2 pixels is the sum of the two channels: √2.
    assert norm_of(lambda x: x.sum(-1), (2, 2, 2)) == pytest.approx(2**0.5, rel=1e-6)


def test_a_bias_cancels():
    kernel = random(3, 3, 2, 3)
    true = svd(conv_matrix(kernel, 5, 4, padding=1))[0]
    found = norm_of(lambda x: convolve(x, as_float32(kernel)) + jnp.array([3.0, -2.0, 5.0]), (5, 4, 2))
    assert found == pytest.approx(true, rel=1e-5)


def test_dilation():
    kernel = random(3, 3, 2, 2)
    holes = np.zeros((5, 5, 2, 2))
    holes[::2, ::2] = kernel
    found = norm_of(lambda x: convolve(x, as_float32(kernel), "VALID", rhs_dilation=(2, 2)), (7, 6, 2))
    assert found == pytest.approx(svd(conv_matrix(holes, 7, 6))[0], rel=1e-5)


def test_reflect_padding():
    kernel, shape = random(3, 3, 2, 2), (4, 5, 2)
    cells = np.pad(np.arange(40).reshape(shape), ((1, 1), (1, 1), (0, 0)), mode="reflect").ravel()
    matrix = conv_matrix(kernel, 6, 7) @ np.eye(40)[cells]
    found = norm_of(
        lambda x: convolve(jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="reflect"), as_float32(kernel), "VALID"),
        shape,
    )
    assert found == pytest.approx(svd(matrix)[0], rel=1e-5)
    assert abs(found / svd(conv_matrix(kernel, 4, 5, padding=1))[0] - 1) > 1e-2


def test_batch_norm_behind_a_convolution():
    kernel, gamma = random(3, 3, 2, 3), np.array([0.5, -3.0, 1.0])
    mean, variance, beta = random(3, seed=1), np.array([0.1, 2.0, 0.5]), random(3, seed=2)
    scale = gamma / np.sqrt(variance + 1e-5)

    def composed(x):
        return (convolve(x, as_float32(kernel)) - as_float32(mean)) * as_float32(scale) + as_float32(beta)

    matrix = np.tile(scale, 20)[:, None] * conv_matrix(kernel, 5, 4, padding=1)
    assert norm_of(composed, (5, 4, 2)) == pytest.approx(svd(matrix)[0], rel=1e-5)


def test_values_of_high_multiplicity():
    # A 1×1 convolution has each singular value of its matrix once for every pixel.
    kernel = random(1, 1, 8, 8)
    found = measure(lambda x: convolve(x, as_float32(kernel)), (9, 9, 8), k=3)
    np.testing.assert_allclose(found.values, np.full(3, svd(kernel[0, 0])[0]), rtol=1e-5)
    identity = measure(lambda x: x, (50,), k=3)
    np.testing.assert_allclose(identity.values, np.ones(3), rtol=1e-6)
    assert identity.rounds == 1


def test_a_cluster_just_below_the_largest():
    # More values than the block has vectors, within parts in ten thousand, as a convolution's lie.
    values = np.concatenate([1 - 1e-4 * np.arange(20), np.linspace(0.9, 0, 80)])
    basis, _ = np.linalg.qr(random(100, 100))
    assert norm_of(dense(basis * values @ basis.T), (100,)) == pytest.approx(1.0, rel=1e-5)


def test_rank_one():
    left, right = random(20), random(30, seed=1)
    found = measure(dense(np.outer(left, right)), (30,), k=3)
    true = np.linalg.norm(left) * np.linalg.norm(right)
    assert found.values[0] == pytest.approx(true, rel=1e-5)
    # Ritz values are those of a Gram matrix: what float32 cannot tell from zero is √1e-7 of the largest.
    assert np.all(np.asarray(found.values[1:]) < 1e-3 * true)
    assert np.isfinite(found.vectors).all() and np.isfinite(found.error).all()


def test_a_zero_kernel_has_norm_zero_and_no_nan():
    found = measure(lambda x: convolve(x, jnp.zeros((3, 3, 2, 2))), (4, 4, 2), k=2)
    np.testing.assert_array_equal(found.values, np.zeros(2))
    np.testing.assert_array_equal(found.error, np.zeros(2))
    assert np.isfinite(found.vectors).all()
    assert spectral_norm(lambda x: 0 * x, (3,)) == 0
    vector, sigma = power_step(lambda x: 0 * x, jnp.full((3,), 2.0))
    assert sigma == 0
    np.testing.assert_allclose(vector, np.full(3, 3**-0.5), rtol=1e-6)


def test_the_estimated_error_is_calibrated():
    # Cut off early, so that errors are far above rounding; spectra from flat to steep.
    count, size, k = 60, 40, 2
    rng = np.random.default_rng(0)
    matrices, true = np.empty((count, size, size)), np.empty((count, k))
    for i in range(count):
        left, _ = np.linalg.qr(rng.normal(size=(size, size)))
        right, _ = np.linalg.qr(rng.normal(size=(size, size)))
        values = np.sort(rng.uniform(size=size) ** rng.uniform(0.1, 1.0))[::-1]
        matrices[i], true[i] = left * values @ right.T, values[:k]

    @functools.partial(jax.jit, static_argnums=2, compiler_options=QUICK)
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def cut_off(matrix, key, rounds):
        found = leading_singular_values(
            lambda x: matrix @ x, (size,), k=k, tolerance=1e-9, max_rounds=rounds, key=key
        )
        return found.values, found.error

    keys = jax.random.split(jax.random.key(3), count)
    for rounds in (2, 3):
        values, error = map(np.asarray, cut_off(as_float32(matrices), keys, rounds))
        actual = 1 - values / true
        assert actual.min() > -1e-6  # never above the true value
        told = error + 1e-6
        assert np.mean(actual <= 4 * told) >= 0.95, rounds
        assert 0.5 < np.median(told / np.maximum(actual, 1e-6)) < 2, rounds


def test_a_better_tolerance_takes_more_rounds_and_the_limit_is_kept():
    matrix = random(60, 60)
    rough, fine = (measure(dense(matrix), (60,), tolerance=t) for t in (1e-2, 1e-6))
    assert rough.rounds < fine.rounds <= 60
    assert rough.error[0] <= 1e-2 and fine.error[0] <= 1e-6
    cut = measure(dense(matrix), (60,), max_rounds=2)
    assert cut.rounds == 2 and cut.error[0] > 1e-6
    # Warm starts of any length, also of more vectors than the map has inputs.
    warm = measure(dense(matrix), (60,), start=1e3 * measure(dense(matrix), (60,), k=5).vectors)
    assert warm.rounds < fine.rounds
    np.testing.assert_allclose(warm.values, fine.values, rtol=1e-6)
    wide = measure(lambda x: 2 * x, (2,), start=as_float32(random(3, 2)))
    np.testing.assert_allclose(wide.values, [2.0], rtol=1e-6)


def measure_two(kernel):
    found = leading_singular_values(lambda x: convolve(x, kernel), (4, 4, 2), k=2)
    return found.values, found.error


def test_jit_equals_eager_and_vmap_over_models_and_layers_equals_a_loop():
    kernels = as_float32(random(2, 3, 3, 3, 2, 2))
    compiled = jax.jit(measure_two, compiler_options=QUICK)
    both = jax.jit(jax.vmap(jax.vmap(measure_two)), compiler_options=QUICK)(kernels)
    assert both[0].shape == (2, 3, 2)
    np.testing.assert_allclose(compiled(kernels[0, 0])[0], measure_two(kernels[0, 0])[0], rtol=2e-6)
    for i, j in np.ndindex(2, 3):
        alone = compiled(kernels[i, j])[0]
        np.testing.assert_allclose(both[0][i, j], alone, rtol=2e-6)
        true = svd(conv_matrix(np.asarray(kernels[i, j], np.float64), 4, 4, padding=1))
        np.testing.assert_allclose(alone, true[:2], rtol=1e-5)
    assert compiled._cache_size() == 1  # six kernels, one program


@pytest.mark.parametrize(
    "function", [jax.nn.relu, jnp.abs, jnp.square, lambda x: x / (1 + jnp.abs(x)), lambda x: x * jnp.nan]
)
def test_what_is_not_affine_is_refused_by_name(function):
    matrix = as_float32(random(5, 6))
    with pytest.raises(InputError, match=r"^stage1_block0/conv1 is not affine: .* without its activation"):
        spectral_norm(lambda x: function(matrix @ x), (6,), name="stage1_block0/conv1")


def test_an_affine_map_passes_whatever_its_size():
    for scale in (1e-12, 1.0, 1e12):
        check_affine(lambda x, scale=scale: scale * (3 * x + 1), (7,))


@pytest.mark.parametrize("k", [0, 7, -1])
def test_more_values_than_the_map_has_are_refused(k):
    with pytest.raises(InputError, match=rf"k is {k}, but the map has 6 inputs .* ask for 1 to \d"):
        leading_singular_values(lambda x: x, (6,), k=k)
    with pytest.raises(InputError, match="the block 2 vectors"):
        leading_singular_values(lambda x: x, (6,), k=3, start=jnp.eye(6)[:2])


def test_power_step_equals_its_numpy_twin_and_power_qr():
    kernel = random(3, 3, 2, 3)
    matrix = conv_matrix(kernel, 5, 4, padding=1)
    vector = random(5, 4, 2, seed=1)
    step = jax.jit(lambda v: power_step(lambda x: convolve(x, as_float32(kernel)) + 1.0, v))
    ours, twin, published = as_float32(vector), vector.ravel(), vector.ravel()
    for i in range(300):
        ours, sigma = step(ours)
        expected = np.linalg.norm(matrix @ twin) / np.linalg.norm(twin)
        twin = matrix.T @ (matrix @ twin)
        twin /= np.linalg.norm(twin)
        # The paper's, with its shift: X ← (I + MᵀM)X, QR.
        q, r = np.linalg.qr((published + matrix.T @ (matrix @ published))[:, None])
        published = q[:, 0]
        if i < 20:
            np.testing.assert_allclose(sigma, expected, rtol=1e-5)
            np.testing.assert_allclose(np.ravel(ours), twin, atol=1e-5)
        assert sigma <= svd(matrix)[0] * (1 + 1e-6)
    np.testing.assert_allclose(sigma, svd(matrix)[0], rtol=1e-5)
    np.testing.assert_allclose(sigma, np.sqrt(abs(r[0, 0]) - 1), rtol=1e-5)
    assert step._cache_size() == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_measuring_exports_for_accelerators(platform):
    shape = jax.ShapeDtypeStruct((2, 3, 3, 2, 2), jnp.float32)
    exported = jax.export.export(jax.jit(jax.vmap(measure_two)), platforms=[platform])(shape)
    assert exported.platforms == (platform,)
