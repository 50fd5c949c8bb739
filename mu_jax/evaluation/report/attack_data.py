"""Everything that a page shows of membership attacks, gathered before any of it is drawn."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class AttackScores:
    """One attack, in one of its forms, on every target."""

    row: dict[str, Any]
    """What `tables.attacks` of results.json holds of it: `attack`, `mode`, `variance` and the like (None where it has
    none), and all of `mu_jax.evaluation.many_targets.evaluate_targets`."""
    scores: Float64[np.ndarray, "T N"]
    """Higher is more likely a member; ±inf may be among them."""

    @property
    def name(self) -> str:
        """In words: `LiRA, online, global variance`."""
        return attack_name(self.row)


@dataclasses.dataclass(frozen=True, eq=False)
class AttackReportData:
    """Attacks on the same T targets and N examples, the first being the one that a page looks at more closely."""

    attacks: list[AttackScores]
    is_member: Bool[np.ndarray, "T N"]
    exposure: Float64[np.ndarray, "N"]
    """By the first attack, in [−1, 1]; NaN where an example is never in or never out of a target."""
    examples: Int[np.ndarray, "N"]
    """Position of each in the data: what a page calls it by."""
    labels: Int[np.ndarray, "N"] | None = None
    """None where nobody said: a page then shows none."""
    class_names: tuple[str, ...] = ()
    """Of each label; empty where they are numbers alone."""
    images: UInt8[np.ndarray, "N H W D"] | None = None
    """Where the data is at hand."""

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InputError("There is no attack to report, but expected at least one; name some.")
        for attack in self.attacks:
            if attack.scores.shape != self.is_member.shape:
                raise InputError(
                    f"Scores of {attack.name} have shape {attack.scores.shape} and is_member {self.is_member.shape}, "
                    "but expected the same; give one score for each target and example."
                )


_NAMES = {
    "lira": "LiRA",
    "rmia": "RMIA",
    "loss": "loss",
    "calibrated_loss": "calibrated loss",
    "per_example": "variance per example",
    "global": "global variance",
}


def attack_name(row: Mapping[str, Any]) -> str:
    """An attack's form in words."""
    parts = (row.get(key) for key in ("attack", "mode", "variance"))
    return ", ".join(_NAMES.get(part, part) for part in parts if part)


def by_strength(attacks: Sequence[AttackScores]) -> list[AttackScores]:
    """The strongest first, by `strength`; those alike stay in the order given."""
    return sorted(attacks, key=lambda attack: strength(attack.row), reverse=True)


def strength(row: Mapping[str, Any]) -> tuple[bool, float]:
    """What attacks are ordered by: whether the AUC's interval excludes ½, and then |AUC − ½|.

    Either way from ½ is leakage. The interval comes first since of many attacks a wide one strays farthest by chance.
    """
    value = row.get("auc")
    return excludes_half(row), abs(value - 0.5) if _is_number(value) else 0.0


def excludes_half(row: Mapping[str, Any]) -> bool:
    """Whether ½, a guess, lies outside the AUC's interval; False where no interval is reported."""
    bounds = auc_bounds(row)
    return bounds is not None and not bounds[0] <= 0.5 <= bounds[1]


def auc_bounds(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of the AUC; None where it or the AUC is not reported."""
    bounds = (row.get("interval") or {}).get("auc")
    if bounds is None or not all(map(_is_number, (row.get("auc"), *bounds))):
        return None
    return bounds[0], bounds[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
