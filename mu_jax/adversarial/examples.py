"""What an attack found, example by example."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

from mu_jax.adversarial.attack import FLIPPED
from mu_jax.config import InputError

NAMED = 10
"""Rows that a message names at most."""


class NothingFlipsError(InputError):
    """An attack found no example that a set could hold: whoever has other work may go on without the set."""


@dataclasses.dataclass(frozen=True)
class AdversarialExamples:
    """N images under attack, in the order they were given, all on the host."""

    norm: str
    """`l2` or `linf`"""
    max_epsilon: float
    """of the attack; in units of a pixel's range [0, 1]"""
    targeted: bool
    images: Float32[np.ndarray, "N H W D"]
    """the first iterate that flips, or where none does the last one; the image itself where it needed no step"""
    labels: Int32[np.ndarray, "N"]
    """as given: the true classes, or the targets of a targeted attack"""
    predicted: Int32[np.ndarray, "N"]
    """the model's class of each of these images"""
    epsilon: Float32[np.ndarray, "N"]
    """at which it flipped; 0 where it needed no step; the last one tried where it did not flip"""
    distance: Float32[np.ndarray, "N"]
    """‖x_adv − x‖ in the attack's norm"""
    steps: Int32[np.ndarray, "N"]
    """gradient steps taken"""
    status: Int32[np.ndarray, "N"]
    """FLIPPED or KEPT, of `mu_jax.adversarial.attack`"""

    @property
    def flipped(self) -> Bool[np.ndarray, "N"]:
        """Whether the attack reached its aim: the label is left, or the target reached."""
        return self.status == FLIPPED

    @property
    def already(self) -> Bool[np.ndarray, "N"]:
        """Whether the image needed no step, being misclassified (or given its target) as it was."""
        return self.flipped & (self.steps == 0)

    @property
    def left_out(self) -> Int64[np.ndarray, "M"]:
        """Rows that did not flip within `max_epsilon`; the rule is that no adversarial set holds them."""
        return np.flatnonzero(~self.flipped)

    def describe_left_out(self, index: Int[np.ndarray, "N"] | None = None) -> str:
        """One sentence that counts and names the rows left out, or their `index`; empty where there are none."""
        rows = self.left_out if index is None else index[self.left_out]
        if len(rows) == 0:
            return ""
        named = ", ".join(map(str, rows[:NAMED])) + (", …" if len(rows) > NAMED else "")
        return (
            f"{len(rows)} of {len(self.status)} examples did not flip within ε = {self.max_epsilon:g} ({self.norm}) "
            f"and are left out: {named}."
        )
