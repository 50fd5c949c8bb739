"""Devices and processes: set up before JAX looks for its backends."""

import contextlib
import os
import time

import jax

from mu_jax.training.cpu_threads import usable_cores

_joined: list[float] = []


def one_cpu_device_a_core() -> None:
    """Let JAX's CPU backend show as many devices as there are cores, as sweeps over models want it.

    JAX_NUM_CPU_DEVICES goes before it. Where a backend is at work already all stays as it is; on an accelerator nothing
    changes.
    """
    given = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", int(given) if given.isdecimal() else usable_cores())


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this one of several processes of a run, before any device is touched.

    Without a coordinator's `HOST:PORT`, JAX asks the cluster that started the process (Slurm, Kubernetes, TPU pods,
    MPI) for all three. Raises what JAX raises where nobody knows.
    """
    jax.distributed.initialize(coordinator, processes, process)
    _joined.append(time.time())


def joined_at() -> float:
    """When the processes of this run had all found each other, in seconds since the epoch; now, where there is one."""
    return _joined[-1] if _joined else time.time()
