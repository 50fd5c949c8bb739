"""Everything that a report shows, gathered before any of it is drawn."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True)
class ReportData:
    """F forgotten and T test examples, and G of the forgotten ones as images."""

    results: dict[str, Any]
    """Exactly what results.json holds."""
    config: dict[str, Any]
    """The resolved config."""
    curves: list[dict[str, Any]]
    """The lines of metrics.jsonl: `model`, `step`, `epoch`, `loss`, `accuracy` and others."""
    member_scores: dict[str, Float[np.ndarray, "F"]]
    """For each model, minus the loss of the forgotten examples, in nats."""
    nonmember_scores: dict[str, Float[np.ndarray, "T"]]
    """For each model, minus the loss of the test examples they are compared with, in nats."""
    gallery_images: UInt8[np.ndarray, "G H W D"]
    """Gray (D = 1) or RGB (D = 3)."""
    gallery_labels: list[str]
    gallery_confidence: dict[str, Float[np.ndarray, "_"]]
    """For each model, G probabilities in [0, 1]: what it gives to the images' labels."""

    def __post_init__(self) -> None:
        shape, labels = self.gallery_images.shape, len(self.gallery_labels)
        if len(shape) != 4 or shape[-1] not in (1, 3):
            raise InputError(
                f"gallery_images have shape {shape}, but expected [G, H, W, 1] or [G, H, W, 3]; move the "
                "channels last."
            )
        if labels != shape[0]:
            raise InputError(
                f"gallery_labels has {labels} entries for {shape[0]} images, but expected one an image; take "
                "both from the same rows."
            )
        for name, confidence in self.gallery_confidence.items():
            if confidence.shape != (shape[0],):
                raise InputError(
                    f"gallery_confidence of {name!r} has shape {confidence.shape} for {shape[0]} images, but "
                    "expected one probability an image; take both from the same rows."
                )
        if self.member_scores.keys() != self.nonmember_scores.keys():
            raise InputError(
                f"member_scores are of {sorted(self.member_scores)} and nonmember_scores of "
                f"{sorted(self.nonmember_scores)}, but expected the same models; score both with each."
            )
        for scores in (self.member_scores, self.nonmember_scores):
            for name, values in scores.items():
                if values.size == 0 or np.isnan(values).any():
                    raise InputError(
                        f"The scores of model {name!r} are empty or hold NaN, but expected a number for each "
                        "example; check whether the model diverged."
                    )
