"""How many models a group has, where models train side by side."""

import math

import jax

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
