import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.config import InputError
from mu_jax.ops import LOWERINGS, choose_lowering, conv

# (image side, depth, features, kernel side, stride, padding): the stem, a block's convolutions, its strided entry,
# the projection shortcuts, and the unpadded case.
SHAPES = [
    (8, 3, 5, 3, 1, 1),
    (8, 4, 4, 3, 1, 1),
    (8, 4, 8, 3, 2, 1),
    (7, 4, 8, 3, 2, 1),
    (8, 4, 8, 1, 2, 0),
    (7, 2, 3, 1, 1, 0),
    (6, 2, 3, 3, 1, 0),
    (1, 4, 4, 3, 1, 1),
]


def reference(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def make(shape, dtype=np.float32, seed=0, models=()):
    side, depth, features, size, _, _ = shape
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*models, 2, side, side, depth))
    kernel = rng.normal(size=(*models, size, size, depth, features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def slow_conv(x, kernel, stride, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[0]
    side = (x.shape[1] - size) // stride + 1
    y = np.zeros((x.shape[0], side, side, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size, :]
            y[:, i, j] = np.einsum("buvd,uvde->be", window, kernel)
    return y


def loss_of(function):
    return lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel)))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_hand_value(lowering):
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
    # Each window's top-left minus its bottom-right: always −4.
    np.testing.assert_array_equal(conv(x, kernel, lowering=lowering), jnp.full((1, 2, 2, 1), -4.0))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_loop_over_windows(lowering, shape):
    stride, padding = shape[4:]
    x, kernel = make(shape)
    y = conv(x, kernel, stride=stride, padding=padding, lowering=lowering)
    np.testing.assert_allclose(
        y, slow_conv(np.asarray(x), np.asarray(kernel), stride, padding), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 3e-2)])
def test_value_and_gradients_equal_xla(lowering, shape, dtype, tolerance):
    stride, padding = shape[4:]
    with jax.enable_x64(dtype == "float64"):
        x, kernel = make(shape, dtype)

        def ours(x, kernel):
            return conv(x, kernel, stride=stride, padding=padding, lowering=lowering)

        def exact(x, kernel):
            return reference(x, kernel, stride, padding)

        assert ours(x, kernel).dtype == jnp.dtype(dtype)
        # In bfloat16 the two round differently; the float32 result of the same rounded inputs is the judge of both.
        wide = (x, kernel) if dtype != "bfloat16" else (x.astype("float32"), kernel.astype("float32"))
        wanted = (exact(*wide), *jax.grad(loss_of(exact), (0, 1))(*wide))
        # Eagerly too, where the shape is the hardest; each eager operation is a compilation of its own.
        for transform in (jax.jit, lambda f: f) if shape == SHAPES[3] else (jax.jit,):
            got = (transform(ours)(x, kernel), *transform(jax.grad(loss_of(ours), (0, 1)))(x, kernel))
            for a, b in zip(got, wanted, strict=True):
                error = jnp.linalg.norm((a.astype(b.dtype) - b).ravel()) / jnp.linalg.norm(b.ravel())
                assert error < tolerance


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("shape", SHAPES[:5])
def test_vmap_over_models_equals_the_loop(lowering, shape):
    stride, padding = shape[4:]
    x, kernel = make(shape, models=(3,))

    def gradient(x, kernel):
        return jax.grad(
            loss_of(lambda x, k: conv(x, k, stride=stride, padding=padding, lowering=lowering)), (0, 1)
        )(x, kernel)

    looped = [gradient(x[i], kernel[i]) for i in range(3)]
    shared = [gradient(x[0], kernel[i]) for i in range(3)]
    for got, wanted in (
        (jax.vmap(gradient)(x, kernel), looped),
        (jax.vmap(gradient, in_axes=(None, 0))(x[0], kernel), shared),
    ):
        for a, b in zip(got, zip(*wanted, strict=True), strict=True):
            np.testing.assert_allclose(a, jnp.stack(b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("shape", SHAPES[:5])
def test_inside_scan_equals_outside(lowering, shape):
    stride, padding = shape[4:]
    x, kernel = make(shape)

    def gradient(kernel, scale):
        loss = loss_of(lambda x, k: conv(x, k, stride=stride, padding=padding, lowering=lowering))
        return jax.grad(loss, 1)(x * scale, kernel)

    scales = jnp.array([1.0, 0.5])
    _, scanned = jax.jit(lambda k: lax.scan(lambda c, s: (c, gradient(k, s)), 0.0, scales))(kernel)
    np.testing.assert_allclose(
        scanned, jnp.stack([gradient(kernel, s) for s in scales]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_second_derivatives_and_forward_mode(lowering):
    shape = SHAPES[2]
    x, kernel = make(shape)
    tangent = jnp.ones_like(kernel)

    def hessian_product(function):
        gradient = jax.grad(lambda k: loss_of(function)(x, k))
        return jax.jvp(gradient, (kernel,), (tangent,))[1]

    got = hessian_product(lambda x, k: conv(x, k, stride=2, padding=1, lowering=lowering))
    np.testing.assert_allclose(got, hessian_product(lambda x, k: reference(x, k, 2, 1)), rtol=1e-3, atol=1e-3)


def test_patches_leave_no_convolution_in_the_program():
    x, kernel = make(SHAPES[1], models=(2,))
    function = jax.grad(loss_of(lambda x, k: conv(x, k, padding=1, lowering="patches")), (0, 1))
    text = jax.jit(jax.vmap(function)).lower(x, kernel).as_text()
    assert "stablehlo.convolution" not in text
    assert "stablehlo.dot_general" in text


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_exports_for_every_backend(platform, lowering):
    x, kernel = make(SHAPES[2])
    function = jax.jit(
        jax.grad(loss_of(lambda x, k: conv(x, k, stride=2, padding=1, lowering=lowering)), (0, 1))
    )
    exported = jax.export.export(function, platforms=[platform])(x, kernel)
    assert exported.platforms == (platform,)


def test_the_lowering_follows_the_backend_unless_set():
    assert choose_lowering("auto", "cpu") == "patches"
    assert choose_lowering("auto", "gpu") == choose_lowering("auto", "tpu") == "xla"
    assert choose_lowering("xla", "cpu") == "xla"


def test_bad_input_is_refused():
    x, kernel = make(SHAPES[1])
    with pytest.raises(InputError, match="winograd"):
        choose_lowering("winograd", "cpu")
    with pytest.raises(InputError, match="expected xla or patches"):
        conv(x, kernel, lowering="auto")
    with pytest.raises(InputError, match="smaller than the 3×3"):
        conv(x[:, :2, :2], kernel, lowering="patches")
