"""Cores, XLA's threads and CPU devices: what keeps matrix products right where several devices work at once.

Each operation that XLA's CPU backend shares out among its threads leaves the helpers it did not need in their queues.
Devices that keep every thread busy, as a long loop does, fill the queues (1,024 tasks); from then on tasks run in
place, and a parallel matrix product so run overwrites operands it has packed: wrong for good, always the same way (JAX
0.10 and 0.12; `tests/training/test_cpu_threads.py` has the reproduction). Where no operation is shared out, nothing
piles up, and each device has a thread to itself, which is also the fastest way.
"""

import os

import jax

_SHARING_OUT = "cpu-parallel-task-assigner"
"""XLA's pass that decides which operations its CPU threads share."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool_threads() -> int:
    """Threads among which XLA's CPU backend shares out the work of all its devices: NPROC, else the cores."""
    given = os.environ.get("NPROC", "")
    return int(given) if given.isdecimal() and int(given) > 0 else usable_cores()


def compiler_options(devices: int) -> dict[str, str]:
    """How to compile a program in which so many devices work at once: for `compile(compiler_options=...)` of JAX.

    On CPUs nothing is shared out, unless a thread more than devices empties the queues; elsewhere all is XLA's choice.
    """
    if jax.default_backend() != "cpu" or devices == 1 or pool_threads() > devices:
        return {}
    return {"xla_disable_hlo_passes": _SHARING_OUT}
