"""How a group of models lies on the devices, and how many of them fit there."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax

from mu_jax.config import InputError

if TYPE_CHECKING:
    from mu_jax.training.parallel import ParallelTrainer

MAPPINGS = ("one", "map", "vmap")
# The compiler's figure leaves out what the allocator loses and what the host holds beside it.
_SHARE_OF_FREE_MEMORY = 0.8


@dataclasses.dataclass(frozen=True)
class Placement:
    """A constant shape for all groups of a sweep: models that train in the same shape get the same bits."""

    mapping: str
    """one of MAPPINGS: how the models of one device advance"""
    devices: int
    """of this process, the first so many"""
    models_per_device: int

    def __post_init__(self) -> None:
        if self.mapping not in MAPPINGS:
            raise InputError(f"The mapping is {self.mapping!r}, but expected one of {', '.join(MAPPINGS)}.")
        available = jax.local_device_count()
        if not 1 <= self.devices <= available:
            raise InputError(
                f"A group is to take {self.devices} devices, but this process has {available}; ask for 1 to "
                f"{available} (on a CPU, the environment variable JAX_NUM_CPU_DEVICES makes more)."
            )
        if self.models_per_device < 1 or (self.mapping == "one" and self.models_per_device > 1):
            most = "exactly 1" if self.mapping == "one" else "at least 1"
            raise InputError(
                f"A device is to take {self.models_per_device} models under the mapping {self.mapping!r}, but "
                f"expected {most}; change one of the two."
            )

    @property
    def width(self) -> int:
        """Slots of a group."""
        return self.devices * self.models_per_device


def free_bytes(placement: Placement) -> int | None:
    """What one device of the placement may use; None where the backend does not tell.

    On CPU the devices share the machine's memory (or the control group's, where that is less).
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        found = device.memory_stats() or {}
        if "bytes_limit" not in found:
            return None
        free = found["bytes_limit"] - found.get("bytes_in_use", 0)
        return int(_SHARE_OF_FREE_MEMORY * free)
    free = _free_host_bytes()
    return None if free is None else int(_SHARE_OF_FREE_MEMORY * free) // placement.devices


def fit_to_memory(
    make_trainer: Callable[[Placement], "ParallelTrainer"],
    placement: Placement,
    budget: Callable[[Placement], int | None] = free_bytes,
) -> "ParallelTrainer":
    """A compiled trainer that fits: the placement given, or one with fewer models, then devices, each halved.

    `budget(placement)` is in bytes a device. InputError where not even one model fits.
    """
    while True:
        allowed = budget(placement)
        try:
            trainer = make_trainer(placement)
            needed = trainer.bytes_per_device()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needed = None  # nobody knows how much, only that it is not there
        if needed is not None and (allowed is None or needed <= allowed):
            return trainer
        trainer = None  # the next one needs its memory
        if placement.models_per_device > 1:
            placement = dataclasses.replace(placement, models_per_device=placement.models_per_device // 2)
        elif placement.devices > 1 and jax.default_backend() == "cpu":
            placement = dataclasses.replace(placement, devices=placement.devices // 2)
        else:
            told = "ran out of memory"
            if needed is not None:
                told = f"takes {_size(needed)} of memory, but there are {_size(allowed)}"
            raise InputError(
                f"Training one model {told}; use a smaller batch_size, model.width or data set, or a device with more "
                "memory."
            )


def _size(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if number >= size / 4:
            return f"{number / size:.2f} {unit}"
    return f"{number / 2**10:.1f} KiB"


def _free_host_bytes(root: pathlib.Path = pathlib.Path("/")) -> int | None:
    limits = []
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min([*limits, *_control_group_bytes(root)], default=None)


def _control_group_bytes(root: pathlib.Path) -> list[int]:
    """What the control groups of this process, of either version, and those above them, still allow."""
    membership = root / "proc/self/cgroup"
    found = []
    for line in membership.read_text().splitlines() if membership.exists() else ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.strip("/")
        # A container sees its own group at the top, under another name than the host's.
        above = [group, *group.parents] if group.exists() else [top]
        for folder in above[: above.index(top) + 1]:
            found.extend(_group_bytes(folder, *names))
    return found


def _group_bytes(folder: pathlib.Path, limit: str, usage: str, cache: str) -> list[int]:
    try:
        allowed, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if allowed == "max":
            return []
        # File pages that nobody uses are given back before anything is refused.
        lines = (folder / "memory.stat").read_text().splitlines() if (folder / "memory.stat").exists() else []
        idle = next((int(line.split()[1]) for line in lines if line.split()[0] == cache), 0)
        return [int(allowed) - max(used - idle, 0)]
    except (OSError, ValueError):
        return []
