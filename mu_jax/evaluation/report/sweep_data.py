"""Everything that the page of a sweep shows, gathered before any of it is drawn."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from mu_jax.config import InputError
from mu_jax.evaluation.report.attack_data import AttackReportData


@dataclasses.dataclass(frozen=True)
class SweepReportData:
    """Results, and signals of the models that did not diverge; all of these arrays may be empty.

    φ is the logit margin under the first query, in nats.
    """

    results: dict[str, Any]
    """Exactly what results.json holds."""
    config: dict[str, Any]
    """The resolved config."""
    curves: list[dict[str, Any]]
    """The lines of metrics.jsonl: `models`, `epoch`, `loss`, `loss_low`, `loss_high` and others; a loss may be None."""
    member_phi: Float[np.ndarray, "_"]
    """φ of models on images they trained on, pooled over models and images; of many, a random sample does."""
    nonmember_phi: Float[np.ndarray, "_"]
    """The same for images that the model did not train on."""
    example_in_mean: Float[np.ndarray, "_"]
    """For each candidate, mean φ over the models that trained on it; NaN where none did."""
    example_out_mean: Float[np.ndarray, "_"]
    """For each candidate, mean φ over the models that did not, NaN where all did; in the same order."""
    attacks: AttackReportData | None = None
    """What membership attacks on these models give; None where none was run."""

    def __post_init__(self) -> None:
        inside, outside = self.example_in_mean.shape, self.example_out_mean.shape
        if inside != outside or len(inside) != 1:
            raise InputError(
                f"example_in_mean has shape {inside} and example_out_mean {outside}, but expected one number a "
                "candidate in both; take both over the same candidates."
            )
        for name in ("member_phi", "nonmember_phi"):
            phi = getattr(self, name)
            odd = np.count_nonzero(~np.isfinite(phi))
            if phi.ndim != 1 or odd:
                raise InputError(
                    f"{name} has shape {phi.shape} and {odd} values that are not finite, but expected a vector of "
                    "numbers; leave out the models that diverged."
                )
