"""Programs for several CPU devices share nothing out among XLA's threads: matrix products were wrong where they did."""

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from mu_jax.training.cpu_threads import compiler_options, pool_threads, usable_cores


@pytest.mark.parametrize("operations", [100, 400])
def test_products_are_right_after_long_work_on_all_devices(operations):
    # Operations that would each be shared out among the threads, and twelve turns without a pause: more than a queue of
    # 1,024 tasks holds. On JAX 0.12 with two threads, compiled for two cores, the products of the last turns are off by
    # 90 (a hundred operations a turn: from the 11th on; 400: from the third).
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(576, 64)).astype(np.float32)
    columns = rng.normal(size=(576, 6416)).astype(np.float32)
    mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:2])

    def turn(matrix, columns, i):
        now = lax.dynamic_slice_in_dim(columns, i, 6400, axis=1)
        for _ in range(operations):
            now = lax.optimization_barrier(-now)
        return matrix.T @ now

    def on_one_device(matrix, columns):
        return lax.map(lambda i: turn(matrix, columns, i), np.arange(12))[None]

    sharded = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec("device"),
        check_vma=False,
    )
    options = compiler_options(2)
    assert usable_cores() != 2 or options  # nothing in the environment gives a spare thread
    program = jax.jit(sharded).lower(matrix, columns).compile(compiler_options=options)
    expected = np.stack([matrix.T @ columns[:, i : i + 6400] for i in range(12)])
    for _ in range(2):
        np.testing.assert_allclose(
            np.asarray(program(matrix, columns)), np.stack([expected, expected]), atol=1e-3
        )


@pytest.mark.parametrize(
    ("devices", "threads", "limited"), [(1, 1, False), (2, 2, True), (3, 2, True), (2, 3, False)]
)
def test_sharing_out_is_left_off_where_all_threads_may_be_at_work(monkeypatch, devices, threads, limited):
    monkeypatch.setenv("NPROC", str(threads))
    assert bool(compiler_options(devices)) == limited


def test_other_backends_choose_for_themselves(monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options(8) == {}


@pytest.mark.parametrize("value", ["", "0", "many"])
def test_without_a_number_the_threads_are_the_cores(monkeypatch, value):
    monkeypatch.setenv("NPROC", value)
    assert pool_threads() == usable_cores()
