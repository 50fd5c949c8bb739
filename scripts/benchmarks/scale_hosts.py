"""From a measured machine to a sweep on many of its kind."""

import dataclasses
import math

from benchmarks.scale_fit import Cost

MODELS, HOSTS, EPOCHS = 10_000, (1, 10, 100), 100.0
"""The sweep that is extrapolated to."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What was measured of one host."""

    start_seconds: float
    """from the command to the first compilation"""
    compile_seconds: float
    train: Cost
    """a call is a chunk of a group, a model one in a chunk, a unit a model's step; measured in sweeps of one chunk, so
    that what a model costs once, its fresh weights, counts again in each further chunk"""
    query: Cost
    """a call is a group's query, a unit an image read by a model; the second opinion on signals is in it"""


@dataclasses.dataclass(frozen=True)
class LargeSweep:
    """K `models` in groups of `group`, shared out over hosts."""

    models: int
    hosts: int
    group: int
    steps: int
    """of a model"""
    chunk_steps: int
    images: int
    """that a model reads at its end, views counted"""

    @property
    def busiest(self) -> tuple[int, int]:
        """(groups, models) of the host that has the most: groups go to hosts by their number modulo the hosts."""
        groups = math.ceil(math.ceil(self.models / self.group) / self.hosts)
        return groups, min(groups * self.group, self.models)


def host_seconds(machine: Machine, sweep: LargeSweep) -> dict[str, float]:
    """Seconds of the busiest host, by what they go into; hosts do not wait for each other, so that is the sweep's."""
    groups, models = sweep.busiest
    chunks = math.ceil(sweep.steps / sweep.chunk_steps)
    parts = {
        "start": machine.start_seconds,
        "compilation": machine.compile_seconds,
        "training": machine.train.seconds(groups * chunks, models * chunks, models * sweep.steps),
        "queries": machine.query.seconds(groups, models, models * sweep.images),
    }
    return parts | {"whole": sum(parts.values())}
