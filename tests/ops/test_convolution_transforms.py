"""Every lowering keeps its values and derivatives under every transformation of JAX."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convolution_cases import (
    CASES,
    ENTRY,
    F2,
    F4,
    MATRIX_CASES,
    assert_near,
    derivatives,
    exact_derivatives,
    make,
    ours,
    quick,
    reference,
    stacked,
)


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
