"""What a row of `--json=FILE` says that it was measured on."""

from collections.abc import Mapping
from typing import Any

from benchmarks import machine


def device_line(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """The device, a CPU's cores, and the versions of JAX and PyTorch, by the facts of each side's worker."""
    versions = {name: version for one in facts.values() for name, version in one["versions"].items()}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name in ("jax", "torch"))
    where = f", {machine.usable_cores()} cores" if facts["JAX"]["backend"] == "cpu" else ""
    return f"{facts['JAX']['device']}{where}, {named}"
