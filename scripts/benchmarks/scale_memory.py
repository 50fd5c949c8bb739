"""How much memory models side by side take, and how many of them a device holds."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

BUDGETS = {"24 GB": 24e9, "141 GB": 141e9}
SHARE = 0.8
"""Of a device's memory that the sweep lets its programs have (`mu_jax/training/placement.py`)."""


@dataclasses.dataclass(frozen=True)
class MemoryLine:
    """Bytes of one device = `fixed` + `model` · models on it."""

    fixed: float
    model: float

    def bytes(self, models: int) -> float:
        """With so many models on the device."""
        return self.fixed + self.model * models


def fit_memory(measured: Sequence[tuple[int, float]]) -> MemoryLine | None:
    """The line of least squares through (models on the device, bytes); None below two numbers of models."""
    if len({models for models, _ in measured}) < 2:
        return None
    models, found = np.array(measured, np.float64).T
    model, fixed = np.polyfit(models, found, 1)
    return MemoryLine(float(fixed), float(model))


def largest_models(line: MemoryLine, budget: float, share: float = SHARE) -> int:
    """The most models that one device of `budget` bytes holds side by side, when programs may have `share` of it.

    0 where not even one fits. ValueError where models take no memory, which is a line through noise.
    """
    if not line.model > 0:
        raise ValueError(f"A model takes {line.model:g} bytes, but expected more than 0.")
    return max(math.floor((share * budget - line.fixed) / line.model), 0)
