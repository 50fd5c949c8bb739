"""The primitive by a map small enough to write down: differences of neighbours along the last axis, x[1:] − x[:-1]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.ops.linear_map import LinearMap

SIZE = 5
MATRIX = np.eye(SIZE)[1:] - np.eye(SIZE)[:-1]


def forward(x):
    return x[..., 1:] - x[..., :-1]


def transposed(y):
    zeros = [(0, 0)] * (y.ndim - 1)
    return jnp.pad(y, [*zeros, (1, 0)]) - jnp.pad(y, [*zeros, (0, 1)])


DIFFERENCE = LinearMap(forward, transposed)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def near(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_hand_value():
    x = jnp.array([1.0, 4.0, 9.0, 16.0, 25.0])
    np.testing.assert_array_equal(DIFFERENCE(x), [3.0, 5.0, 7.0, 9.0])
    y = jnp.array([1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(jax.vjp(DIFFERENCE, x)[1](y)[0], [-1.0, -9.0, -90.0, -900.0, 1000.0])


def test_the_transpose_is_the_adjoint_and_twice_is_the_map():
    x, y = normal(SIZE), normal(SIZE - 1, seed=1)
    back = jax.linear_transpose(DIFFERENCE, x)
    near(jnp.vdot(DIFFERENCE(x), y), jnp.vdot(x, back(y)[0]))
    near(back(y)[0], MATRIX.T @ y)
    (again,) = jax.linear_transpose(lambda y: back(y)[0], y)(x)
    np.testing.assert_array_equal(again, DIFFERENCE(x))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_jit_equals_eager_and_keeps_the_dtype(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = normal(2, 3, SIZE).astype(dtype)
        for function in (DIFFERENCE, jax.jit(DIFFERENCE), jax.grad(lambda x: DIFFERENCE(x).sum())):
            assert function(x).dtype == dtype
        np.testing.assert_array_equal(DIFFERENCE(x), jax.jit(DIFFERENCE)(x))
        if dtype != "bfloat16":
            near(DIFFERENCE(x), x @ MATRIX.T)


def test_a_second_call_compiles_nothing():
    function = jax.jit(lambda x: DIFFERENCE(x))
    for seed in range(2):
        function(normal(SIZE, seed=seed))
    assert function._cache_size() == 1


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_vmap_over_any_axis(axis):
    x, y = normal(3, 4, SIZE), normal(3, 4, SIZE - 1, seed=1)
    # The two axes before the map's own are batches: one is its own, the other vmap's, and it may stand anywhere.
    moved = jnp.moveaxis(x, 0, axis)
    near(jax.vmap(DIFFERENCE, axis)(moved), x @ MATRIX.T)
    near(jax.vmap(DIFFERENCE, axis, axis)(moved), jnp.moveaxis(x @ MATRIX.T, 0, axis))
    pull = jax.vmap(lambda x, y: jax.vjp(DIFFERENCE, x)[1](y)[0], (axis, axis))
    near(pull(moved, jnp.moveaxis(y, 0, axis)), y @ MATRIX)


def test_vmap_of_vmap_and_of_what_is_shared():
    x = normal(2, 3, SIZE)
    near(jax.vmap(jax.vmap(DIFFERENCE, 0, 1), 1, 0)(jnp.swapaxes(x, 0, 1)), jnp.swapaxes(x @ MATRIX.T, 1, 2))
    near(jax.vmap(lambda s: s * DIFFERENCE(x), 0)(jnp.arange(2.0))[1], x @ MATRIX.T)


def loss(x):
    return jnp.sum(jnp.sin(DIFFERENCE(x)))


def hessian(x):
    """Aᵀ diag(−sin Ax) A."""
    return MATRIX.T @ np.diag(-np.sin(MATRIX @ np.asarray(x))) @ MATRIX


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
def test_derivatives_of_every_order_and_mode(inner, outer):
    x = normal(SIZE)
    near(inner(DIFFERENCE)(x), MATRIX)
    near(jax.jit(inner(loss))(x), MATRIX.T @ np.cos(MATRIX @ x))
    near(outer(inner(loss))(x), hessian(x))
    points = normal(3, SIZE)
    near(jax.jit(jax.vmap(outer(inner(loss))))(points), np.stack([hessian(point) for point in points]))
    # A third derivative along one direction, against its own central difference.
    direction, step = normal(SIZE, seed=2), 1e-2
    got = jax.jvp(outer(inner(loss)), (x,), (direction,))[1]
    wanted = (hessian(x + step * direction) - hessian(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(got, wanted, rtol=1e-2, atol=1e-3)


def test_inside_loops_conditions_and_checkpoints():
    x = normal(3, SIZE)
    _, scanned = lax.scan(lambda _, row: (None, jax.grad(loss)(row)), None, x)
    near(scanned, jax.vmap(jax.grad(loss))(x))

    def total(x):
        return lax.fori_loop(0, 3, lambda i, sum_: sum_ + loss(x[i]), 0.0)

    near(jax.grad(total)(x), scanned)
    near(jax.grad(lambda x: lax.cond(x[0] > -9.0, loss, jnp.sum, x))(x[0]), scanned[0])
    near(jax.grad(jax.checkpoint(loss))(x[0]), scanned[0])


def test_over_devices():
    devices = jax.local_device_count()
    x = normal(devices, SIZE)
    wanted = jax.vmap(jax.grad(loss))(x)
    near(jax.pmap(jax.grad(loss))(x), wanted)
    mesh = jax.make_mesh((devices,), ("k",), axis_types=(jax.sharding.AxisType.Auto,))
    over_mesh = jax.shard_map(jax.vmap(jax.grad(loss)), mesh=mesh, in_specs=jax.P("k"), out_specs=jax.P("k"))
    near(over_mesh(x), wanted)

    # What all devices share: its gradient is the sum of theirs, which shard_map knows from what varies.
    def mean_loss(shift, x):
        return lax.pmean(loss(x + shift), "k")

    gradient = jax.shard_map(
        jax.grad(mean_loss), mesh=mesh, in_specs=(jax.P(), jax.P("k")), out_specs=jax.P()
    )
    near(jax.jit(gradient)(jnp.zeros(SIZE), x), jax.grad(lambda s: loss(x + s) / devices)(jnp.zeros(SIZE)))


def test_one_operation_in_the_program_and_none_for_one_backend():
    program = jax.make_jaxpr(jax.vmap(jax.grad(loss)))(normal(2, SIZE))
    assert str(program).count("linear_map[") == 2
    for platform in ("cpu", "cuda", "tpu"):
        exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(normal(SIZE))
        assert exported.platforms == (platform,)
