"""Which points the benchmark of scale measures, and along which axes they lie."""

import dataclasses
import difflib
from collections.abc import Sequence

from benchmarks.scale_case import ScaleCase
from mu_jax.config import InputError

MODELS, EXAMPLES, WIDTH, DEVICES = "models", "examples", "width", "devices"
AXES = (MODELS, EXAMPLES, WIDTH, DEVICES)
"""What `--cases` picks from; `devices` has processes too."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A case, the axes whose figures show it, and what is compiled for its memory alone."""

    case: ScaleCase
    axes: tuple[str, ...]
    probes: tuple[tuple[str, int], ...] = ()
    """Mappings and models a device that the compiler is asked about besides the case's own."""


def plan(axes: Sequence[str], smoke: bool, vmap: bool = False) -> list[Point]:
    """The points of some axes, or of all where none is named; the base, which lies on every axis, comes first.

    With `vmap` the compiler is also asked what the base takes under that mapping, which costs two compilations.

    InputError for an unknown axis, or one that stands twice.
    """
    axes = AXES if list(axes) == ["all"] else axes or AXES
    for i, axis in enumerate(axes):
        if axis not in AXES:
            close = difflib.get_close_matches(axis, AXES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "change it in --cases."
            raise InputError(f"The axis is {axis!r}, but expected some of {', '.join(AXES)}; {hint}")
        if axis in axes[:i]:
            raise InputError(f"The axis {axis!r} stands twice in --cases; expected each once, drop one.")
    points = _smoke_points() if smoke else _points()
    if vmap:
        base = points[0]
        points[0] = dataclasses.replace(base, probes=(("vmap", 1), ("vmap", base.case.models_per_device)))
    return [point for point in points if set(point.axes) & set(axes)]


def _points() -> list[Point]:
    base = ScaleCase()

    def at(**changes: object) -> ScaleCase:
        return dataclasses.replace(base, **changes)

    return [
        Point(base, AXES),
        Point(at(models=2), (MODELS,)),
        Point(at(models=32), (MODELS,)),
        Point(at(examples=512), (EXAMPLES,)),
        Point(at(examples=4096), (EXAMPLES,)),
        Point(at(width=16), (WIDTH,), probes=(("map", 1),)),
        Point(
            at(side=32, examples=512, models=4),
            (WIDTH,),
            probes=(("map", 1),),
        ),
        *_arrangements(base),
    ]


def _smoke_points() -> list[Point]:
    base = ScaleCase(models=4, examples=128, network="mlp", epochs=1.0)
    return [
        Point(base, AXES),
        Point(dataclasses.replace(base, models=2), (MODELS,)),
        Point(dataclasses.replace(base, models=8), (MODELS,)),
        Point(dataclasses.replace(base, examples=512), (EXAMPLES,)),
        Point(dataclasses.replace(base, width=16), (WIDTH,), probes=(("map", 1),)),
        *_arrangements(base),
    ]


def _arrangements(base: ScaleCase) -> list[Point]:
    """The base's models by one device; by two processes of a core each; and half of them by one of a core."""
    one = dataclasses.replace(base, devices=1)
    half = dataclasses.replace(one, models=base.models // 2, one_core=True)
    two = dataclasses.replace(one, processes=2, one_core=True)
    return [Point(one, (DEVICES,)), Point(two, (DEVICES,)), Point(half, (DEVICES,))]
