"""Every lowering is `lax.conv_general_dilated` in value and gradient, for every shape; bad input is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convolution_cases import (
    BATCH,
    CASES,
    ENTRY,
    F2,
    F4,
    MATRIX_LOWERINGS,
    MODEL_SHAPES,
    ODD_SHAPES,
    PIXEL,
    SHAPES_8,
    SHAPES_32,
    SHORTCUT,
    TOLERANCE,
    Shape,
    assert_near,
    derivatives,
    exact_derivatives,
    make,
    ours,
    quick,
    reference,
    uses_winograd,
)
from mu_jax.config import InputError
from mu_jax.models import layers
from mu_jax.models.cnn import cnn_model
from mu_jax.models.resnet import resnet18_model
from mu_jax.ops import BATCH_LAST, CHANNELS_LAST, LOWERINGS, conv, layout_of
from mu_jax.ops.winograd import choose_tile


def test_the_shapes_are_those_of_the_models(monkeypatch):
    met = set()

    def spy(x, kernel, *, stride, padding, lowering):
        met.add(Shape(x.shape[1], *kernel.shape[2:], kernel.shape[0], stride, padding))
        return conv(x, kernel, stride=stride, padding=padding, lowering=lowering)

    monkeypatch.setattr(layers, "conv", spy)
    for image_shape, shapes in (((32, 32, 3), SHAPES_32), ((8, 8, 1), SHAPES_8)):
        met.clear()
        for model in (resnet18_model(4, 10, image_shape), cnn_model(4, 10, image_shape)):
            jax.eval_shape(model.init, jax.random.key(0))
        assert met == set(shapes)


def test_both_tiles_occur_among_the_shapes():
    def tile(shape):
        side = shape.side + 2 * shape.padding - 2
        return choose_tile((side, side), BATCH, max(shape.depth, shape.features), jnp.dtype("float32"))

    for shapes in (SHAPES_32, SHAPES_8, ODD_SHAPES):
        assert {tile(shape) for shape in shapes if uses_winograd(shape)} == {2, 4}
    assert (tile(F4), tile(F2)) == (4, 2)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_hand_value(lowering):
    # Each window's top-left minus its bottom-right, two rows and two columns on: always −10.
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0).at[2, 2].set(-1.0)
    np.testing.assert_allclose(
        quick(ours(lowering, 1, 0))(x, kernel), jnp.full((1, 2, 2, 1), -10.0), rtol=1e-5
    )


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_images_stay_in_the_layout_of_the_lowering(lowering):
    layout = layout_of(lowering)
    assert layout == (CHANNELS_LAST if lowering == "xla" else BATCH_LAST)
    x, kernel, _ = make(ENTRY)
    y = jax.eval_shape(lambda x: conv(x, kernel, stride=2, padding=1, lowering=lowering), layout.arrange(x))
    assert y.shape == ((2, 4, 4, 6) if lowering == "xla" else (6, 4, 4, 2))


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


@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_equals_the_loop_over_windows(lowering, shape):
    x, kernel, _ = make(shape)
    got = quick(ours(lowering, *shape[4:]))(x, kernel)
    assert_near(got, slow_conv(np.asarray(x), np.asarray(kernel), *shape[4:]))


@pytest.mark.parametrize(
    "lowering, shape, dtype",
    [
        *itertools.product(["patches"], MODEL_SHAPES, ["float32", "float64"]),
        *itertools.product(["winograd"], filter(uses_winograd, MODEL_SHAPES), ["float32", "float64"]),
        *itertools.product(["patches"], ODD_SHAPES, ["float64"]),
        *itertools.product(["winograd"], filter(uses_winograd, ODD_SHAPES), ["float64"]),
        *itertools.product(["winograd"], [ENTRY, SHORTCUT, PIXEL], ["float32"]),
        *itertools.product(["xla"], [F4, F2, ENTRY, SHORTCUT], ["float32"]),
        *itertools.product(MATRIX_LOWERINGS, [F4, F2], ["bfloat16"]),
        *itertools.product(["patches", "xla"], [ENTRY], ["bfloat16"]),
    ],
)
def test_value_and_gradients_equal_xla(lowering, shape, dtype):
    with jax.enable_x64(dtype == "float64"):
        arguments = make(shape, dtype)
        got = quick(derivatives(ours(lowering, *shape[4:])))(*arguments)
        assert {a.dtype for a in got} == {jnp.dtype(dtype)}
        # In bfloat16 both round, each its own way: the float32 result of the same rounded inputs is the judge.
        judged = (a.astype("float32") if dtype == "bfloat16" else a for a in arguments)
        assert_near(got, exact_derivatives(*shape[4:])(*judged), TOLERANCE[dtype])


@st.composite
def geometries(draw):
    """(lowering, dtype, stride, padding, shape of the images, shape of the kernel); half are 3×3 of stride 1."""
    lowering, dtype = draw(st.sampled_from(LOWERINGS)), draw(st.sampled_from(("float32", "float64")))
    padding = draw(st.integers(0, 3))
    if draw(st.booleans()):
        stride, taps = 1, (3, 3)
        sides = tuple(draw(st.integers(max(1, 3 - 2 * padding), 13)) for _ in range(2))
    else:
        stride = draw(st.integers(1, 3))
        sides = tuple(draw(st.integers(1, 13)) for _ in range(2))
        taps = tuple(draw(st.integers(1, min(5, side + 2 * padding))) for side in sides)
    batch, depth, features = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 9))
    return lowering, dtype, stride, padding, (batch, *sides, depth), (*taps, depth, features)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(geometries())
# A single tap that sees padding; windows that miss the image in one direction or both, or leave out some pixels.
@example(("patches", "float64", 1, 1, (2, 2, 3, 2), (1, 1, 2, 3)))
@example(("patches", "float64", 2, 3, (2, 1, 1, 3), (1, 1, 3, 2)))
@example(("patches", "float64", 3, 1, (1, 1, 7, 2), (1, 3, 2, 3)))
@example(("patches", "float64", 3, 0, (2, 8, 5, 2), (2, 1, 2, 2)))
@example(("winograd", "float64", 1, 3, (3, 10, 3, 2), (3, 3, 2, 4)))
# A larger kernel of which only 3×3 taps ever meet the image; one of 3×3 and stride 2.
@example(("winograd", "float64", 1, 2, (1, 2, 2, 2), (5, 5, 2, 3)))
@example(("winograd", "float64", 2, 1, (2, 7, 6, 2), (3, 3, 2, 3)))
def test_random_shapes_equal_xla(geometry):
    lowering, dtype, stride, padding, images_shape, kernel_shape = geometry
    rng = np.random.default_rng(0)

    def both(x, kernel):
        y, pull = jax.vjp(reference(stride, padding), x, kernel)
        cotangent = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return derivatives(ours(lowering, stride, padding))(x, kernel, cotangent), (y, *pull(cotangent))

    with jax.enable_x64(True):
        arguments = (jnp.asarray(rng.normal(size=s), dtype) for s in (images_shape, kernel_shape))
        assert_near(*jax.jit(both)(*arguments), TOLERANCE[dtype])


@pytest.mark.parametrize(
    "lowering, shape", [("winograd", F2), ("patches", F2), ("patches", ENTRY), ("xla", ENTRY)]
)
def test_operation_by_operation_equals_xla_and_compiles_once(lowering, shape):
    arguments = make(shape)
    run = derivatives(ours(lowering, *shape[4:]))
    assert_near(run(*arguments), exact_derivatives(*shape[4:])(*arguments))
    compiled = []

    def listen(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        # A new function, as each layer of a model makes its own: the maps inside are those of the first.
        derivatives(ours(lowering, *shape[4:]))(*arguments)
        assert not compiled
        quick(lambda x: x - 3.25)(arguments[0])
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("lowering, shape", CASES)
def test_a_second_call_compiles_nothing(lowering, shape):
    run = quick(derivatives(ours(lowering, *shape[4:])))
    for seed in range(2):
        run(*make(shape, seed=seed))
    assert run._cache_size() == 1
    first, again = (
        jax.jit(derivatives(ours(lowering, *shape[4:]))).lower(*make(shape)).as_text() for _ in range(2)
    )
    assert first == again


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_bad_input_is_refused(lowering):
    layout, (x, kernel, _) = layout_of(lowering), make(F4)
    with pytest.raises(InputError, match=r"have 2 channels, but the kernel expects 3; .* on axis [03] "):
        conv(layout.arrange(x[..., :2]), kernel, padding=1, lowering=lowering)
    other = CHANNELS_LAST if layout == BATCH_LAST else BATCH_LAST
    with pytest.raises(InputError, match="channels, but the kernel expects 3"):
        conv(other.arrange(x), kernel, padding=1, lowering=lowering)
    with pytest.raises(InputError, match="An image of 8×2 with padding 0 is smaller than the 3×3 kernel"):
        conv(layout.arrange(x[:, :, :2]), kernel, lowering=lowering)
    with pytest.raises(InputError, match="images are float32, the kernel bfloat16, but expected one dtype"):
        conv(layout.arrange(x), kernel.astype("bfloat16"), lowering=lowering)
    with pytest.raises(InputError, match="stride is 0 and padding 1, but expected at least 1"):
        conv(layout.arrange(x), kernel, stride=0, padding=1, lowering=lowering)


@pytest.mark.parametrize("lowering", ["auto", "winograd_9", ""])
def test_unknown_lowerings_are_refused(lowering):
    message = f"'{lowering}', but expected xla, patches, winograd"
    with pytest.raises(InputError, match=message):
        layout_of(lowering)
    x, kernel, _ = make(F4)
    with pytest.raises(InputError, match=message):
        conv(x, kernel, lowering=lowering)
