"""Everything that the page of a SISA experiment shows, gathered before any of it is drawn."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from mu_jax.config import InputError

PARTS = ("forget", "retain", "test")
"""Deleted, retained and test examples, as results.json names them."""

SUM_TOLERANCE = 1e-3
"""How far rounding may carry a probability out of [0, 1]."""


@dataclasses.dataclass(frozen=True, eq=False)
class SisaReportData:
    """Results, and what the models give to the class they predict."""

    results: dict[str, Any]
    """Exactly what results.json holds."""
    config: dict[str, Any]
    """The resolved config."""
    largest_posterior: dict[str, dict[str, Float[np.ndarray, "_"]]]
    """For each model and each of `PARTS`, every example's largest posterior, in [0, 1]; the same examples in the same
    order for all models. A model without them gets no histogram."""

    def __post_init__(self) -> None:
        for name, parts in self.largest_posterior.items():
            if set(parts) != set(PARTS):
                raise InputError(
                    f"largest_posterior of {name!r} has {', '.join(sorted(parts)) or 'nothing'}, but expected "
                    f"{', '.join(PARTS)}; query the model on all three."
                )
            for part, values in parts.items():
                if values.ndim != 1 or not values.size or np.isnan(values).any():
                    raise InputError(
                        f"largest_posterior of {name!r} on {part} has shape {values.shape} and "
                        f"{np.isnan(values).sum()} NaN, but expected a number for each example; check whether the "
                        "model diverged."
                    )
                if values.min() < -SUM_TOLERANCE or values.max() > 1 + SUM_TOLERANCE:
                    raise InputError(
                        f"largest_posterior of {name!r} on {part} runs from {values.min():.4g} to {values.max():.4g}, "
                        "but expected probabilities in [0, 1]; take the softmax of logits first."
                    )
