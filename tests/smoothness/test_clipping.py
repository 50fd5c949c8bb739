"""The step of clipping against NumPy with the matrices written out, and clipping until the norm is what was asked."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.affine import AffineLayer
from mu_jax.models.resnet import resnet18_model
from mu_jax.smoothness.fastclip import check_clip, clip_kernel, clip_step
from mu_jax.smoothness.layers import groups, input_shape, kernel_fn

QUICK = {"xla_backend_optimization_level": 0}
HEIGHT, WIDTH = 6, 5


def windows(image, size, stride, padding):
    """[H'·W', size·size·D] of an image [H,W,D]: what a convolution multiplies its kernel [size·size·D, E] by."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n + 2 * padding - size) // stride + 1 for n in (height, width))
    return np.stack(
        [
            padded[stride * i : stride * i + size, stride * j : stride * j + size].ravel()
            for i in range(rows)
            for j in range(columns)
        ]
    )


def matrix_of(layer, kernel):
    """[outputs, inputs] of a layer: its response to each unit image."""
    if layer.kind == "dense":
        return kernel.T
    flat = kernel.reshape(-1, kernel.shape[-1])
    units = np.eye(np.prod(layer.input_shape)).reshape(-1, *layer.input_shape)
    responses = [windows(unit, kernel.shape[0], layer.stride, layer.padding) @ flat for unit in units]
    return np.stack([response.ravel() for response in responses], axis=1)


def top(matrix):
    return np.linalg.svd(matrix, compute_uv=False)[0]


def conv_layer(stride=1, size=3, depth=2, features=3):
    padding = size // 2
    output = ((HEIGHT - 1) // stride + 1, (WIDTH - 1) // stride + 1, features)
    return AffineLayer(
        ("conv",), "conv", (HEIGHT, WIDTH, depth), output, (size, size, depth, features), stride, padding
    )


def published(layer, kernel, vector, sigma, c, steps, step_size=0.35):
    """The public code's step in NumPy: ‖M_W v − (c/σ) M_old v‖², a sum over channels and rows, a mean over columns."""
    design = windows(vector, kernel.shape[0], layer.stride, layer.padding)
    old = kernel.reshape(-1, kernel.shape[-1])
    goal, now, columns = c / sigma * (design @ old), old, layer.output_shape[1]
    for _ in range(steps):
        now = now - step_size * (2 / columns) * design.T @ (design @ now - goal)
    return now.reshape(kernel.shape)


def leading_vector(layer, kernel):
    _, values, right = np.linalg.svd(matrix_of(layer, kernel))
    return right[0].reshape(layer.input_shape), values[0]


@pytest.mark.parametrize("lowering", ["xla", "patches"])
@pytest.mark.parametrize("layer", [conv_layer(), conv_layer(stride=2)], ids=["conv", "strided"])
def test_the_published_step_equals_its_numpy_twin(layer, lowering):
    kernel = np.random.default_rng(0).normal(size=layer.kernel_shape)
    vector, sigma = leading_vector(layer, kernel)
    arranged = vector if lowering == "xla" else vector.transpose(2, 0, 1)
    for steps in (1, 5):
        ours = clip_step(
            kernel_fn(layer, lowering),
            jnp.asarray(kernel, jnp.float32),
            jnp.asarray(arranged[None], jnp.float32),
            jnp.asarray([sigma], jnp.float32),
            0.7 * sigma,
            steps=steps,
            step_size=0.35,
        )
        np.testing.assert_allclose(
            ours, published(layer, kernel, vector, sigma, 0.7 * sigma, steps), atol=2e-6
        )
    assert top(matrix_of(layer, np.asarray(ours, np.float64))) < sigma


def dense_case():
    """A kernel [D,E] with singular values 3, 2, ½, and its right singular vectors (of the map x ↦ xW)."""
    rng = np.random.default_rng(0)
    inputs, _ = np.linalg.qr(rng.normal(size=(5, 3)))
    outputs, _ = np.linalg.qr(rng.normal(size=(4, 3)))
    values = np.array([3.0, 2.0, 0.5])
    return inputs * values @ outputs.T, inputs.T, values, outputs.T


def dense_step(c, count=3, **options):
    kernel, vectors, values, _ = dense_case()
    arrays = (jnp.asarray(array, jnp.float32) for array in (kernel, vectors[:count], values[:count]))
    return np.asarray(clip_step(lambda kernel, x: x @ kernel, *arrays, c, **options))


def test_a_dense_layers_step_in_closed_form():
    # With L = ‖W'v − cu‖² and W'v = 3u: W − 0.35·2·(3 − c)·v uᵀ. The vectors below c take no part.
    kernel, vectors, _, outputs = dense_case()
    expected = kernel - 0.35 * 2 * (3 - 2.5) * np.outer(vectors[0], outputs[0])
    np.testing.assert_allclose(dense_step(2.5, step_size=0.35), expected, atol=1e-6)
    # The best step along the gradient of one vector gets to c at once; two vectors of other lengths need more.
    exact = kernel - (3 - 2.5) * np.outer(vectors[0], outputs[0])
    np.testing.assert_allclose(dense_step(2.5), exact, atol=1e-6)
    both = exact - 1.5 * np.outer(vectors[0], outputs[0]) - np.outer(vectors[1], outputs[1])
    np.testing.assert_allclose(dense_step(1.0), both, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"step_size": 0.35}, {"steps": 5}])
def test_vectors_within_c_leave_the_kernel_as_it_is(options):
    kernel = dense_case()[0].astype(np.float32)
    for c in (3.1, np.inf):
        np.testing.assert_array_equal(dense_step(c, **options), kernel)
    # What lies below c is no part of the step: with or without those vectors, the same.
    # But for rounding: one vector's sums and two vectors' are added in orders of their own.
    alone = dense_step(2.5, count=1, **options)
    np.testing.assert_allclose(dense_step(2.5, **options), alone, rtol=1e-6)


def test_the_best_step_is_where_the_loss_is_least_along_the_gradient():
    layer = conv_layer()
    kernel = np.random.default_rng(0).normal(size=layer.kernel_shape)
    vector, sigma = leading_vector(layer, kernel)
    ours = clip_step(
        kernel_fn(layer, "xla"),
        jnp.asarray(kernel, jnp.float32),
        jnp.asarray(vector[None], jnp.float32),
        jnp.asarray([sigma], jnp.float32),
        1.0,
    )
    design, flat = windows(vector, 3, 1, 1), kernel.reshape(-1, 3)

    def loss(step):
        moved = flat + step * (np.asarray(ours, np.float64).reshape(-1, 3) - flat)
        return np.sum((design @ moved - design @ flat / sigma) ** 2)

    assert loss(1.0) < min(loss(0.9), loss(1.1), loss(0.0))
    assert loss(0.95) == pytest.approx(loss(1.05), rel=1e-3)


@functools.cache
def resnet_layers():
    return {members[0].name: members[0] for members in groups(resnet18_model(4, 10, (8, 8, 3)).layers())}


def clipping(layer, lowering="xla", **options):
    shape = input_shape(layer, lowering)
    return lambda kernel, c: clip_kernel(kernel_fn(layer, lowering), kernel, shape, c, **options)


def clipper(*layer_and_lowering, **options):
    return jax.jit(clipping(*layer_and_lowering, **options), compiler_options=QUICK)


@pytest.mark.parametrize(
    "name",
    ["stem", "stage1_block0/conv1"]
    + [
        pytest.param(f"stage{stage}_block0/{part}", marks=[pytest.mark.slow] if stage == 3 else [])
        for stage in (2, 3, 4)
        for part in ("conv1", "conv2", "shortcut")
    ]
    + ["head"],
)
def test_clipped_kernels_of_every_shape_of_resnet18_have_the_norm_asked_for(name):
    layer = resnet_layers()[name]
    clip = clipper(layer)
    kernel = np.random.default_rng(0).normal(size=layer.kernel_shape) / np.sqrt(
        np.prod(layer.kernel_shape[:-1])
    )
    kernel *= 1.8 / top(matrix_of(layer, kernel))
    given = jnp.asarray(kernel, jnp.float32)
    for c in (0.5, 1.0):
        found = clip(given, jnp.float32(c))
        ours = np.asarray(found.kernel, np.float64)
        true = top(matrix_of(layer, ours))
        assert true <= 1.02 * c
        assert found.norm == pytest.approx(true, rel=2e-3)
        assert found.before == pytest.approx(1.8, rel=2e-3)
        assert found.rounds > 0 and not found.scaled
        # The spectrum is cut, not shrunk: the kernel keeps more of its size, and moves less, than by dividing.
        divided = kernel * c / 1.8
        assert np.linalg.norm(ours) > np.linalg.norm(divided)
        assert np.linalg.norm(ours - kernel) < np.linalg.norm(divided - kernel)
    untouched = clip(given, jnp.float32(1.8))
    np.testing.assert_array_equal(untouched.kernel, given)
    assert untouched.rounds == 0 and not untouched.scaled
    zero = clip(jnp.zeros_like(given), jnp.float32(0.5))
    assert zero.norm == zero.before == zero.error == 0 and not zero.scaled
    np.testing.assert_array_equal(zero.kernel, np.zeros(layer.kernel_shape))
    assert clip._cache_size() == 1


def test_models_and_layers_side_by_side_are_clipped_as_each_alone():
    layer = conv_layer(depth=2, features=2)
    one, rng = clipping(layer, "patches"), np.random.default_rng(0)
    kernels, bounds = rng.normal(size=(2, 2, 3, 3, 2, 2)).astype(np.float32), np.float32([0.8, np.inf])
    grid = jax.vmap(jax.vmap(one, in_axes=(0, None)))
    both = jax.jit(grid, compiler_options=QUICK)(jnp.asarray(kernels), jnp.asarray(bounds))
    clip = jax.jit(one, compiler_options=QUICK)
    np.testing.assert_array_equal(both.kernel[1], kernels[1])
    np.testing.assert_array_equal(both.rounds[1], [0, 0])
    for i in range(2):
        alone = clip(jnp.asarray(kernels[0, i]), jnp.float32(0.8))
        assert both.rounds[0, i] == alone.rounds > 0
        np.testing.assert_allclose(both.kernel[0, i], alone.kernel, atol=1e-4)
        assert top(matrix_of(layer, np.asarray(both.kernel[0, i], np.float64))) <= 1.02 * 0.8


def pointwise():
    return AffineLayer(("conv",), "conv", (4, 4, 3), (4, 4, 3), (1, 1, 3, 3))


def test_an_invariant_subspace_hides_nothing():
    # 16 pixels: the 12 vectors of a block may all belong to the first value, and those to come after are as large.
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    kernel = (turn * [2.0, 1.9, 0.3]) @ turn.T
    found = clipper(pointwise())(jnp.asarray(kernel[None, None], jnp.float32), jnp.float32(0.5))
    values = np.linalg.svd(np.asarray(found.kernel, np.float64)[0, 0], compute_uv=False)
    assert values[0] <= 0.51 and not found.scaled
    np.testing.assert_allclose(values[2], 0.3, atol=1e-3)  # and what was within c is as it was

    # The same in a dense layer: twenty equal values, then twenty that are 2% smaller.
    layer = AffineLayer(("head",), "dense", (40,), (40,), (40, 40))
    kernel = np.diag(np.repeat([2.0, 1.96], 20)).astype(np.float32)
    found = clipper(layer)(jnp.asarray(kernel), jnp.float32(1.0))
    assert top(np.asarray(found.kernel, np.float64)) <= 1.02
    assert not found.scaled


def test_where_rounds_run_out_the_kernel_is_divided_and_that_is_said():
    layer = conv_layer()
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=layer.kernel_shape), jnp.float32)
    for rounds in (0, 1):
        found = clipper(layer, max_rounds=rounds)(kernel, jnp.float32(0.5))
        assert found.scaled and found.rounds == rounds
        assert found.norm == pytest.approx(0.5, rel=1e-6)
        assert top(matrix_of(layer, np.asarray(found.kernel, np.float64))) <= 1.02 * 0.5


@pytest.mark.parametrize("c", [0, -1.0, 0.0, float("nan"), np.array([1.0, -2.0])])
def test_a_norm_to_clip_at_that_is_not_positive_is_refused(c):
    with pytest.raises(InputError, match=r"The norm to clip at is .*, but expected a positive number"):
        check_clip(c)
    if np.ndim(c) == 0:
        with pytest.raises(InputError, match="expected a positive number"):
            clip_kernel(lambda kernel, x: x @ kernel, jnp.eye(2), (2,), float(c))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_clipping_exports_for_accelerators(platform):
    shapes = (jax.ShapeDtypeStruct((3, 3, 2, 3), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))
    exported = jax.export.export(clipper(conv_layer()), platforms=[platform])(*shapes)
    assert exported.platforms == (platform,)
