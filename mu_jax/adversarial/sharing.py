"""How the examples under attack are shared out: over this process's devices, and on each into blocks.

A device takes gradients of one block at a time, and of no more blocks than its examples at work fill. So whoever has
finished costs nothing from the next step on, and a block can be as small as suits the device. On CPUs its size depends
on the threads alone, and not on the batch size or the number of examples, so that neither moves an example's bits. An
accelerator takes all of its examples at once.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mu_jax.training.cpu_threads import pool_threads

PyTree = Any

AXIS = "devices"
"""Of the mesh."""

IMAGES_ALONE, IMAGES_SHARED, MOST_IMAGES = 8, 32, 128
"""Of a block on a CPU: where a device has one thread; for each thread where it has several, which share out every
operation and so want larger ones; and at most (`docs/performance.md` has the measurements)."""


class Shares(NamedTuple):
    """Slots for examples: each of `devices` has `blocks` blocks of `block`."""

    devices: int
    block: int
    blocks: int

    @property
    def slots(self) -> int:
        """In all."""
        return self.devices * self.block * self.blocks


def in_small_blocks() -> bool:
    """Whether a device takes its examples a small block at a time: on CPUs."""
    return jax.default_backend() == "cpu"


def share_out(examples: int) -> Shares:
    """The fewest slots that hold so many examples: on CPUs in blocks of constant size, else in one block a device."""
    devices = all_devices().size
    if not in_small_blocks():
        return Shares(devices, -(-examples // devices), 1)
    threads = -(-pool_threads() // devices)
    block = IMAGES_ALONE if threads == 1 else min(IMAGES_SHARED * threads, MOST_IMAGES)
    return Shares(devices, block, -(-examples // (devices * block)))


def slots_for(batch_size: int) -> int:
    """How many examples are under attack at once: on CPUs `batch_size` in all, else so many on each device.

    On CPUs it is rounded up to whole blocks on every device.
    """
    return share_out(batch_size if in_small_blocks() else batch_size * all_devices().size).slots


def dealt(slots: int) -> np.ndarray:
    """All slots, int64[slots], in the order in which examples get them: from each device in turn."""
    shares = share_out(slots)
    return np.argsort(np.arange(slots) % (shares.block * shares.blocks), kind="stable")


def device_of(slot: np.ndarray, slots: int) -> np.ndarray:
    """On which device each slot lies, of so many."""
    shares = share_out(slots)
    return slot // (shares.block * shares.blocks)


@functools.cache
def all_devices() -> Mesh:
    """This process's devices, along AXIS."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def on_all_devices(tree: PyTree) -> PyTree:
    """A copy of the arrays on each of this process's devices."""
    return jax.device_put(tree, NamedSharding(all_devices(), PartitionSpec()))
