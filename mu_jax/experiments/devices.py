"""Devices and processes: set up before JAX looks for its backends."""

import contextlib
import os

import jax


def one_cpu_device_a_core() -> None:
    """Let JAX's CPU backend show as many devices as there are cores, as sweeps over models want it.

    JAX_NUM_CPU_DEVICES goes before it. Where a backend is at work already its devices stay as they are; on an
    accelerator nothing changes.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this one of several processes of a run, before any device is touched.

    Without a coordinator's `HOST:PORT`, JAX asks the cluster that started the process (Slurm, Kubernetes, TPU pods,
    MPI) for all three. Raises what JAX raises where nobody knows.
    """
    jax.distributed.initialize(coordinator, processes, process)
