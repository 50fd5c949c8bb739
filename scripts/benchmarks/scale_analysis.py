"""What follows from the measured points of scale: costs, lines of memory, and a large sweep's hours."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from benchmarks.scale_case import ScaleCase
from benchmarks.scale_fit import Cost, Work, fit_cost, relative_residuals
from benchmarks.scale_hosts import EPOCHS, HOSTS, MODELS, LargeSweep, Machine, host_seconds
from benchmarks.scale_memory import BUDGETS, MemoryLine, fit_memory, largest_models
from benchmarks.scale_plan import AXES, EXAMPLES, Point
from benchmarks.scale_plan import MODELS as MODELS_AXIS


@dataclasses.dataclass(frozen=True)
class Measured:
    """A point, and what `scale_process.combined` says of it."""

    point: Point
    found: dict[str, Any]

    @property
    def case(self) -> ScaleCase:
        """The point's."""
        return self.point.case


@dataclasses.dataclass(frozen=True)
class FittedCosts:
    """The cost model of the base's network and devices, and how far it is from each point, relative to it."""

    train: Cost
    query: Cost
    train_residuals: dict[str, float]
    query_residuals: dict[str, float]


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """Bytes of a device by the compiler, of one network and mapping."""

    label: str
    mapping: str
    line: MemoryLine
    residual: float
    """the largest, relative"""
    largest: dict[str, int]
    """budget to models side by side on one device"""


def base_of(measured: Sequence[Measured]) -> Measured:
    """The point that lies on every axis."""
    return next(one for one in measured if one.point.axes == AXES)


def fit_costs(measured: Sequence[Measured]) -> FittedCosts | None:
    """Over the points that differ in models or examples alone; None where there are too few."""
    points = [one for one in measured if {MODELS_AXIS, EXAMPLES} & set(one.point.axes)]
    found = [one.found for one in points]
    train = [Work(one["chunks"], one["models"], one["model_steps"], one["train_seconds"]) for one in found]
    query = [Work(one["groups"], one["models"], one["images_read"], one["query_seconds"]) for one in found]
    costs = fit_cost(train), fit_cost(query)
    if costs[0] is None or costs[1] is None:
        return None
    names = [one.case.name for one in points]
    residuals = (
        dict(zip(names, relative_residuals(cost, work), strict=True))
        for cost, work in zip(costs, (train, query), strict=True)
    )
    return FittedCosts(*costs, *residuals)


def large_sweeps(measured: Sequence[Measured], costs: FittedCosts) -> dict[int, dict[str, float]]:
    """Hosts to seconds of `MODELS` models of the base's network, each of `EPOCHS` epochs, by what they go into."""
    base = base_of(measured)
    case, found = base.case, base.found
    machine = Machine(found["start_seconds"], found["compile_seconds"], costs.train, costs.query)
    return {
        hosts: host_seconds(
            machine,
            LargeSweep(
                MODELS,
                hosts,
                group=found["large_group"][str(hosts)],
                steps=math.ceil(EPOCHS * case.examples / 2 / case.batch),
                chunk_steps=found["chunk_steps"],
                images=round(found["images_read"] / found["models"]),
            ),
        )
        for hosts in HOSTS
    }


def memory_rows(measured: Sequence[Measured]) -> list[MemoryRow]:
    """A line for each network, number of images and mapping that was compiled for two numbers of models or more."""
    devices = base_of(measured).case.devices
    known: dict[tuple[str, str], dict[int, float]] = {}
    for one in measured:
        if one.case.devices == devices:
            for name, size in one.found["device_bytes"].items():
                mapping, each = name.split()
                known.setdefault((network_of(one.case), mapping), {})[int(each)] = size
    rows = []
    for (label, mapping), sizes in known.items():
        line = fit_memory(list(sizes.items()))
        if line is not None and line.model > 0:
            residual = max(abs(line.bytes(each) / size - 1) for each, size in sizes.items())
            largest = {name: largest_models(line, budget) for name, budget in BUDGETS.items()}
            rows.append(MemoryRow(label, mapping, line, residual, largest))
    return rows


def network_of(case: ScaleCase) -> str:
    """The network, its images and their number, for tables."""
    return f"width {case.width}, {case.side}×{case.side}, N = {case.examples:,}"


def scaling_efficiency(measured: Sequence[Measured]) -> float | None:
    """Seconds of half the models by one process of one core, over those of all by two: 1 without any loss."""
    lone = {one.case.processes: one for one in measured if one.case.one_core}
    if not {1, 2} <= lone.keys():
        return None
    return lone[1].found["train_seconds"] / lone[2].found["train_seconds"]
