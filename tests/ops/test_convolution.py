"""Every lowering is `lax.conv_general_dilated`: in value and derivatives, under every transformation, in any layout."""

import functools
import itertools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

from mu_jax.config import InputError
from mu_jax.models import layers
from mu_jax.models.cnn import cnn_model
from mu_jax.models.resnet import resnet18_model
from mu_jax.ops import BATCH_LAST, CHANNELS_LAST, LOWERINGS, conv, layout_of
from mu_jax.ops.winograd import choose_tile

QUICK = {"xla_backend_optimization_level": 0}
"""What is compiled runs once, so halve the compilation instead; the random shapes below are fully optimised."""

BATCH = 2
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}
"""Relative, in norm."""


class Shape(NamedTuple):
    side: int
    depth: int
    features: int
    size: int
    stride: int
    padding: int


# What ResNet-18 and the CNN of width 4 ask for, RGB at 32×32 and gray at 8×8.
SHAPES_32 = (
    Shape(32, 3, 4, 3, 1, 1), Shape(32, 4, 4, 3, 1, 1), Shape(32, 4, 8, 3, 1, 1),
    Shape(32, 4, 8, 3, 2, 1), Shape(32, 4, 8, 1, 2, 0), Shape(16, 8, 8, 3, 1, 1),
    Shape(16, 8, 16, 3, 2, 1), Shape(16, 8, 16, 1, 2, 0), Shape(8, 16, 16, 3, 1, 1),
    Shape(8, 16, 32, 3, 2, 1), Shape(8, 16, 32, 1, 2, 0), Shape(4, 32, 32, 3, 1, 1),
)  # fmt: skip
SHAPES_8 = (
    Shape(8, 1, 4, 3, 1, 1), Shape(8, 4, 4, 3, 1, 1), Shape(8, 4, 8, 3, 1, 1),
    Shape(8, 4, 8, 3, 2, 1), Shape(8, 4, 8, 1, 2, 0), Shape(4, 8, 8, 3, 1, 1),
    Shape(4, 8, 16, 3, 2, 1), Shape(4, 8, 16, 1, 2, 0), Shape(2, 16, 16, 3, 1, 1),
    Shape(2, 16, 32, 3, 2, 1), Shape(2, 16, 32, 1, 2, 0), Shape(1, 32, 32, 3, 1, 1),
)  # fmt: skip
MODEL_SHAPES = (*SHAPES_32, *SHAPES_8)
# Odd sides, no padding and two, and strides that leave a rest.
ODD_SHAPES = (
    Shape(7, 2, 3, 1, 1, 0), Shape(7, 4, 5, 3, 1, 1), Shape(7, 4, 5, 3, 2, 1), Shape(9, 3, 4, 1, 2, 0),
    Shape(6, 2, 3, 3, 1, 0), Shape(11, 3, 2, 3, 1, 2), Shape(5, 2, 3, 3, 2, 2), Shape(3, 5, 7, 3, 1, 0),
)  # fmt: skip

F4, F2 = Shape(8, 3, 5, 3, 1, 1), Shape(4, 3, 6, 3, 1, 1)
ENTRY, SHORTCUT, PIXEL = Shape(8, 4, 6, 3, 2, 1), Shape(8, 4, 6, 1, 2, 0), Shape(1, 3, 4, 3, 1, 1)
MATRIX_LOWERINGS = ("patches", "winograd")
CASES = [
    *itertools.product(MATRIX_LOWERINGS, (F4, F2)),
    *itertools.product(["patches"], (ENTRY, SHORTCUT, PIXEL)),
    *itertools.product(["xla"], (F4, ENTRY)),
]
MATRIX_CASES = [case for case in CASES if case[0] != "xla"]


def uses_winograd(shape):
    return shape.size == 3 and shape.stride == 1 and shape.side > 1


def ours(lowering, stride, padding):
    """`conv` with its layout at the edges, so that all lowerings take and give [B,H,W,D]."""
    layout = layout_of(lowering)

    def function(x, kernel):
        y = conv(layout.arrange(x), kernel, stride=stride, padding=padding, lowering=lowering)
        return layout.restore(y)

    return function


def reference(stride, padding):
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def derivatives(function):
    """The value, and the gradients that a cotangent gives."""

    def run(x, kernel, cotangent):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(cotangent)

    return run


def quick(function):
    return jax.jit(function, compiler_options=QUICK)


@functools.cache
def exact_derivatives(stride, padding):
    return quick(derivatives(reference(stride, padding)))


def make(shape, dtype="float32", models=(), seed=0):
    """Images, a kernel and a cotangent, each for all `models`."""
    rng = np.random.default_rng(seed)
    side = (shape.side + 2 * shape.padding - shape.size) // shape.stride + 1
    shapes = (
        (BATCH, shape.side, shape.side, shape.depth),
        (shape.size, shape.size, shape.depth, shape.features),
        (BATCH, side, side, shape.features),
    )
    return tuple(jnp.asarray(rng.normal(size=(*models, *one)), dtype) for one in shapes)


def assert_near(got, wanted, tolerance=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def stacked(results):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


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


@pytest.mark.parametrize("over", ["inputs", "kernels", "both"])
@pytest.mark.parametrize("lowering, shape", CASES)
def test_vmap_equals_the_loop(lowering, shape, over):
    models = 3
    x, kernel, cotangent = make(shape, models=(models,))
    axes = {"inputs": (0, None), "kernels": (None, 0), "both": (0, 0)}[over]
    x, kernel = (a if axis == 0 else a[0] for a, axis in zip((x, kernel), axes, strict=True))

    def one(k):
        return (x[k] if axes[0] == 0 else x), (kernel[k] if axes[1] == 0 else kernel), cotangent[k]

    got = quick(jax.vmap(derivatives(ours(lowering, *shape[4:])), (*axes, 0)))(x, kernel, cotangent)
    assert_near(got, stacked([exact_derivatives(*shape[4:])(*one(k)) for k in range(models)]))


@pytest.mark.parametrize("lowering, shape", CASES)
def test_vmap_of_vmap_over_any_axes(lowering, shape):
    x, kernel, cotangent = make(shape, models=(2, 3))
    run = derivatives(ours(lowering, *shape[4:]))
    inner = jax.vmap(run, (2, None, -1), (1, 0, -1))
    outer = quick(jax.vmap(inner, (0, -2, 1), (0, -1, 2)))
    y, image_gradient, kernel_gradient = outer(
        # The kernels belong to the outer models alone.
        jnp.moveaxis(x, 1, 3), jnp.moveaxis(kernel[:, 0], 0, -2), jnp.moveaxis(cotangent, (0, 1), (1, -1))
    )  # fmt: skip
    got = (
        jnp.moveaxis(y, 2, 1),
        jnp.moveaxis(image_gradient, (-1, 0), (0, 1)),
        jnp.moveaxis(kernel_gradient, (2, -1), (0, 1)),
    )
    exact = exact_derivatives(*shape[4:])
    rows = [[exact(x[k, i], kernel[k, 0], cotangent[k, i]) for i in range(3)] for k in range(2)]
    assert_near(got, stacked([stacked(row) for row in rows]))


def products(program):
    """Of every matrix product in a lowered program, the sizes of its batch dimensions and of its result's."""
    found = []
    for line in program.splitlines():
        if "stablehlo.dot_general" in line:
            dims = re.search(r"batching_dims = \[([\d, ]*)\]", line)
            left, result = re.search(r": \(tensor<([\dx]+)xf32>.*-> tensor<([\dx]+)xf32>", line).groups()
            left, result = (tuple(map(int, sizes.split("x"))) for sizes in (left, result))
            found.append(([left[int(d)] for d in dims[1].split(",")] if dims else [], result))
    return found


@pytest.mark.parametrize("lowering, shape", MATRIX_CASES)
def test_kernels_that_share_an_input_are_one_larger_product(lowering, shape):
    models = 11
    x, kernels, _ = make(shape, models=(models,))
    function = ours(lowering, *shape[4:])
    run = jax.value_and_grad(lambda kernel, x: jnp.sum(jnp.sin(function(x, kernel))))
    alone = products(jax.jit(run).lower(kernels[0], x[0]).as_text())
    together = products(jax.jit(jax.vmap(run, (0, None))).lower(kernels, x[0]).as_text())
    assert len(alone) == len(together) > 0
    for (batch, result), (batch_of_all, result_of_all) in zip(alone, together, strict=True):
        assert batch_of_all == batch
        assert np.prod(result_of_all) == models * np.prod(result)


@pytest.mark.parametrize("lowering, shape", MATRIX_CASES)
def test_matrix_products_leave_no_convolution_in_the_program(lowering, shape):
    run = derivatives(ours(lowering, *shape[4:]))
    for function, models in ((run, ()), (jax.vmap(run), (2,))):
        text = jax.jit(function).lower(*make(shape, models=models)).as_text()
        assert "stablehlo.convolution" not in text
        assert "stablehlo.dot_general" in text


@pytest.mark.parametrize("lowering, shape", CASES)
def test_inside_loops_equals_outside(lowering, shape):
    x, kernels, cotangents = make(shape, models=(3,))
    run = derivatives(ours(lowering, *shape[4:]))

    def loops(x, kernels, cotangents):
        _, scanned = lax.scan(lambda _, pair: (None, run(x, *pair)), None, (kernels, cotangents))
        total = lax.fori_loop(
            0, 3, lambda i, total: total + run(x, kernels[i], cotangents[i])[2], jnp.zeros_like(kernels[0])
        )
        return scanned, total

    exact = exact_derivatives(*shape[4:])
    wanted = stacked([exact(x[0], kernels[k], cotangents[k]) for k in range(3)])
    assert_near(quick(loops)(x[0], kernels, cotangents), (wanted, wanted[2].sum(0)))


@pytest.mark.parametrize(
    "lowering, shape", [("winograd", F4), ("winograd", F2), ("patches", F4), ("patches", ENTRY), ("xla", F4)]
)
def test_over_devices_equals_the_loop(lowering, shape):
    devices = jax.local_device_count()
    x, kernel, cotangent = make(shape, models=(devices, 2))
    run = derivatives(ours(lowering, *shape[4:]))
    exact = exact_derivatives(*shape[4:])
    wanted = [
        stacked([exact(x[k, i], kernel[k, i], cotangent[k, i]) for i in range(2)]) for k in range(devices)
    ]
    assert_near(jax.pmap(jax.vmap(run))(x, kernel, cotangent), stacked(wanted))

    mesh = jax.make_mesh((devices,), ("models",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.P("models"), jax.P()
    flat = tuple(a.reshape(-1, *a.shape[2:]) for a in (x, kernel, cotangent))
    sharded = jax.shard_map(jax.vmap(run), mesh=mesh, in_specs=split, out_specs=split)
    assert_near(quick(sharded)(*flat), jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *wanted))
    # What all devices share has the sum of their gradients: the value and the kernel's alone are each model's own.
    own = jax.vmap(lambda *arguments: run(*arguments)[::2], (None, 0, 0))
    shared = jax.shard_map(own, mesh=mesh, in_specs=(whole, split, split), out_specs=split)
    wanted = stacked([exact(flat[0][0], flat[1][k], flat[2][k])[::2] for k in range(2 * devices)])
    assert_near(quick(shared)(flat[0][0], *flat[1:]), wanted)


def directional(function):
    """Forward mode, and every mode of the second order, along one direction of images and kernels."""

    def loss(point):
        return jnp.sum(jnp.sin(function(*point)))

    def inner(a, b):
        return sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True))

    def slope(point, direction):
        return jax.jvp(loss, (point,), (direction,))[1]

    def run(x, kernel, x_direction, kernel_direction):
        point, direction = (x, kernel), (x_direction, kernel_direction)
        return {
            "forward": jax.jvp(function, point, direction),
            "forward over forward": jax.jvp(lambda p: slope(p, direction), (point,), (direction,))[1],
            "forward over reverse": jax.jvp(jax.grad(loss), (point,), (direction,))[1],
            "reverse over reverse": jax.grad(lambda p: inner(jax.grad(loss)(p), direction))(point),
            "reverse over forward": jax.grad(lambda p: slope(p, direction))(point),
        }

    return run


@functools.cache
def exact_directional(stride, padding):
    return quick(directional(reference(stride, padding)))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    "lowering, shape",
    [("winograd", F4), ("winograd", F2), ("patches", F2), ("patches", ENTRY), ("xla", ENTRY)],
)
def test_derivatives_of_both_orders_in_every_mode(lowering, shape, mapped):
    arguments = (*make(shape, models=(2,))[:2], *make(shape, models=(2,), seed=1)[:2])
    wanted = [exact_directional(*shape[4:])(*(a[k] for a in arguments)) for k in range(2)]
    run = directional(ours(lowering, *shape[4:]))
    if mapped:
        assert_near(quick(jax.vmap(run))(*arguments), stacked(wanted))
    else:
        assert_near(quick(run)(*(a[0] for a in arguments)), wanted[0])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("lowering, shape", CASES)
def test_exports_for_every_backend(lowering, shape, platform):
    function = jax.jit(derivatives(ours(lowering, *shape[4:])))
    exported = jax.export.export(function, platforms=[platform])(*make(shape))
    assert exported.platforms == (platform,)


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
