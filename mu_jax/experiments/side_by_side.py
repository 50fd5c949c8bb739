"""Groups of models that train side by side: how many there are in one, where it lay, what metrics.jsonl says of it."""

import math
import pathlib
from typing import Any

import jax

from mu_jax.config import InputError
from mu_jax.training.group_log import GroupReport
from mu_jax.training.placement import Placement

# A group is what a kill may cost, and on one device `map` gains nothing from a longer one.
_MOST_BY_MAP, _MOST_BY_VMAP = 8, 32


def first_placement(mapping: str, runs: int, models_per_device: int = 0) -> Placement:
    """Where groups of so many runs go under a mapping of `choose_mapping`, before it is known whether they fit.

    `models_per_device` 0: as few groups as can be, all of one size.
    """
    inside = mapping.removeprefix("pmap_")
    devices = min(jax.local_device_count() if mapping != inside else 1, runs)
    most = {"one": 1, "map": _MOST_BY_MAP, "vmap": _MOST_BY_VMAP}[inside]
    groups = math.ceil(runs / (devices * most))
    return Placement(inside, devices, models_per_device or math.ceil(runs / (devices * groups)))


def recorded_placement(path: pathlib.Path, saved: Any) -> Placement:
    """The placement that `path` recorded; InputError where it cannot be made on this machine."""
    try:
        return Placement(**saved)
    except (TypeError, InputError) as error:
        raise InputError(
            f"{path} has groups that cannot be made here ({error}); choose another --workdir."
        ) from None


def group_figures(report: GroupReport) -> dict[str, Any]:
    """A chunk of a group as a part of a line of metrics.jsonl; None for what is not finite."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "step": report.step,
        "loss": number(report.loss),
        "loss_low": number(report.loss_low),
        "loss_high": number(report.loss_high),
        "accuracy": number(report.accuracy),
        "diverged": report.diverged,
        "seconds": round(report.seconds, 4),
        "images_per_second": round(report.images / max(report.seconds, 1e-9), 1),
    }
