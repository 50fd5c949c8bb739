"""XLA's CPU threads must outnumber the devices at work: without one to spare, matrix products were wrong."""

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from mu_jax.config import InputError
from mu_jax.training.placement import Placement, pool_threads, usable_cores


def test_products_are_right_after_long_work_on_all_devices():
    # A hundred operations a turn, each shared out among the threads, and twelve turns without a pause: more than a
    # queue of 1,024 tasks holds. On JAX 0.12 with NPROC=2 the products of the last two turns are off by 90.
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(576, 64)).astype(np.float32)
    columns = rng.normal(size=(576, 6416)).astype(np.float32)
    mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:2])

    def turn(matrix, columns, i):
        now = lax.dynamic_slice_in_dim(columns, i, 6400, axis=1)
        for _ in range(100):
            now = lax.optimization_barrier(-now)
        return matrix.T @ now

    def on_one_device(matrix, columns):
        return lax.map(lambda i: turn(matrix, columns, i), np.arange(12))[None]

    program = jax.jit(
        jax.shard_map(
            on_one_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec()),
            out_specs=PartitionSpec("device"),
            check_vma=False,
        )
    )
    found = np.asarray(program(matrix, columns))
    expected = np.stack([matrix.T @ columns[:, i : i + 6400] for i in range(12)])
    np.testing.assert_allclose(found, np.stack([expected, expected]), atol=1e-3)


def test_a_placement_that_leaves_xla_no_thread_is_refused(monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    with pytest.raises(InputError, match=r"2 CPU devices.* 2 threads.*NPROC to 3"):
        Placement("map", 2, 1)
    assert Placement("map", 1, 2).devices == 1
    monkeypatch.setenv("NPROC", "3")
    assert Placement("map", 2, 1).devices == 2


@pytest.mark.parametrize("value", ["", "0", "many"])
def test_without_a_number_the_threads_are_the_cores(monkeypatch, value):
    monkeypatch.setenv("NPROC", value)
    assert pool_threads() == usable_cores()
