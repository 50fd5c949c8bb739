"""Everything that the page of the comparison of unlearning methods shows, gathered before any of it is drawn."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class NeighbourPair:
    """A forgotten image beside its adversarial neighbour, as both are stored."""

    image: UInt8[np.ndarray, "H W D"]
    """Gray (D = 1) or RGB (D = 3)."""
    neighbour: UInt8[np.ndarray, "_ _ _"]
    """Of the same shape."""
    label: str
    """Name of the true class."""
    adversarial_label: str
    """Name of the class that the original model gives the neighbour."""
    distance: float
    """Between the two, in the attack's norm; pixels in [0, 1]."""

    def __post_init__(self) -> None:
        shapes = self.image.shape, self.neighbour.shape
        if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[0][-1] not in (1, 3):
            raise InputError(
                f"A gallery image has shape {shapes[0]} and its neighbour {shapes[1]}, but expected the same "
                "[H, W, 1] or [H, W, 3]; take both from the same row, channels last."
            )
        if not (math.isfinite(self.distance) and self.distance >= 0):
            raise InputError(
                f"A gallery image lies at distance {self.distance} from its neighbour, but expected a finite number, "
                "0 or more; take the stored set's `distance`."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class MethodsReportData:
    """Results, how training went, and some of the forgotten images beside their neighbours."""

    results: dict[str, Any]
    """Exactly what results.json holds."""
    config: dict[str, Any]
    """The resolved config."""
    curves: list[dict[str, Any]]
    """The lines of metrics.jsonl: `model`, `step`, `epoch`, `loss`, `accuracy` and others. A model is called after its
    method, all but the first of a method with `@` and their place behind it (`amun@0.1.2`)."""
    gallery: list[NeighbourPair]
    """Empty where no method asks for neighbours."""

    def __post_init__(self) -> None:
        if not self.results.get("models"):
            raise InputError(
                "results has no models, but expected one at least; compare before a report is written."
            )
        odd = next((pair for pair in self.gallery if not isinstance(pair, NeighbourPair)), None)
        if odd is not None:
            raise InputError(
                f"gallery holds a {type(odd).__name__}, but expected NeighbourPair; make one of each image and its "
                "neighbour."
            )
