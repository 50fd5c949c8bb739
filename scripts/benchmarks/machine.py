"""What the benchmarks run on."""

import os
import pathlib
import platform
from collections.abc import Sequence


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU's model name."""
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_amx_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 tiles in hardware."""
    return "amx_bf16" in _cpuinfo()


def busy_cpu_seconds() -> float:
    """What all programs together, and the machine's host, have used of the cores so far; 0 where unknown."""
    path = pathlib.Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _, _, interrupt, soft_interrupt, stolen = map(int, path.read_text().split()[1:9])
    ticks = user + nice + system + interrupt + soft_interrupt + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def process_cpu_seconds(process: int) -> float:
    """What a process has used of the cores so far, by its number; 0 where unknown."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0
    # The program's name, in parentheses, may hold spaces.
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def environment(names: Sequence[str]) -> dict[str, str]:
    """Those of these environment variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def _cpuinfo() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.exists() else ""
