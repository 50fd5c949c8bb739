"""What a sweep costs as a function of its size: a sum of three costs, by least squares."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls


@dataclasses.dataclass(frozen=True)
class Work:
    """What was done in `seconds`."""

    calls: float
    """of compiled programs for a whole group"""
    models: float
    units: float
    """of work, of all models together: steps, or images that were read"""
    seconds: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds = `call` · calls + `model` · models + `unit` · units."""

    call: float
    model: float
    unit: float

    def seconds(self, calls: float, models: float, units: float) -> float:
        """What so much work takes."""
        return self.call * calls + self.model * models + self.unit * units


def fit_cost(measured: Sequence[Work]) -> Cost | None:
    """The three costs, none below zero, with the least sum of squared *relative* errors; None below four measurements.

    Relative, because the longest measurement would else decide alone; not below zero (Lawson and Hanson, "Solving
    Least Squares Problems", 1974, chapter 23), because noise would else give a small cost the wrong sign, and an
    extrapolation magnifies it.
    """
    if len(measured) < 4:
        return None
    rows = np.array([(one.calls, one.models, one.units) for one in measured], np.float64)
    rows /= np.array([one.seconds for one in measured])[:, None]
    # Columns of one length: a unit takes microseconds, a call milliseconds, and the solver has one tolerance for both.
    lengths = np.linalg.norm(rows, axis=0)
    found, _ = nnls(rows / lengths, np.ones(len(measured)))
    return Cost(*(float(value) for value in found / lengths))


def relative_residuals(cost: Cost, measured: Sequence[Work]) -> list[float]:
    """Of each measurement, (predicted − measured) / measured."""
    return [cost.seconds(one.calls, one.models, one.units) / one.seconds - 1.0 for one in measured]
