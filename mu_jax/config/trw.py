"""Settings of the methods that hand a forgotten class's probability to the classes that stay.

The paper on Tilted ReWeighting publishes β alone; all else that is not marked otherwise is our choice, to be searched
on a class that is not scored.
"""

import dataclasses
import math

from mu_jax.config.errors import require
from mu_jax.config.shared import OptimizationConfig

# That of fine-tuning, so that the two differ by nothing but the targets, and share a program.
_TRW = OptimizationConfig(
    epochs=10.0, batch_size=256, learning_rate=0.01, schedule="constant", crop_padding=4, flip=True
)
_DELETE = OptimizationConfig(
    epochs=20.0,
    batch_size=128,
    learning_rate=1e-4,
    weight_decay=0.0,
    schedule="constant",
    crop_padding=4,
    flip=True,
)


@dataclasses.dataclass(frozen=True)
class TrwConfig:
    """Deleted examples are learned with the original's posterior, tilted towards the classes like their own."""

    optimization: OptimizationConfig = _TRW
    """Fine-tuning's."""
    beta: float = 10.0
    """Strength β of the tilt, published; 0 is plain reweighting (RWFT)."""
    level: float = 0.0
    """Expected similarity that the targets have, in (0, 1): β is solved for it and `beta` not read; 0 turns it off."""
    level_per_example: bool = False
    """Solve β for each deleted example by itself; else one β gives their mean the level."""
    temperature: float = 0.1
    """τ of the softmax over the cosines of the head's columns."""
    directions: int = 0
    """Principal directions of the columns that the cosines are taken in; 0 takes all."""
    forget_weight: float = 1.0
    """Of a deleted example in the loss, beside a retained one's 1; |D_R|/|D_F| gives the two sets the same weight."""

    def __post_init__(self) -> None:
        _check_tilt(self.beta, self.temperature, self.directions)
        require(0 <= self.level < 1, "level", self.level, "0 (off) or a similarity in (0, 1)")
        require(
            0 < self.forget_weight < math.inf, "forget_weight", self.forget_weight, "a positive finite number"
        )


@dataclasses.dataclass(frozen=True)
class TrwHeadConfig:
    """The same tilt in the head's bias, for all inputs alike and without training."""

    beta: float = 10.0
    """As for `trw`."""
    temperature: float = 0.1
    """As for `trw`."""
    directions: int = 0
    """As for `trw`."""
    margin: float = 30.0
    """How far a deleted class's logit lies below the mean of the retained ones."""

    def __post_init__(self) -> None:
        _check_tilt(self.beta, self.temperature, self.directions)
        require(0 < self.margin < math.inf, "margin", self.margin, "a positive finite number of nats")


@dataclasses.dataclass(frozen=True)
class DeleteConfig:
    """Deleted examples are learned with the original's posterior without their own class."""

    optimization: OptimizationConfig = _DELETE
    """The authors' configuration for ResNet-18 on CIFAR-10; its CIFAR-100 and Tiny-ImageNet have a learning rate of
    5e-5, and the script that they launch CIFAR-10 with 1e-3."""
    retain: bool = False
    """Visit the retained examples too, with their labels, mixed with the deleted ones: that is `rwft`, but for the
    optimization; the authors' method needs none of them."""


def _check_tilt(beta: float, temperature: float, directions: int) -> None:
    require(math.isfinite(beta), "beta", beta, "a finite number")
    require(0 < temperature < math.inf, "temperature", temperature, "a positive finite number")
    require(directions >= 0, "directions", directions, "0 (all) or a positive number of directions")
