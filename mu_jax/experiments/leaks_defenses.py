"""The defences of an experiment by name: what is done to posteriors before release, or to training."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64

from mu_jax.config import InputError, OptimizationConfig
from mu_jax.config.errors import one_of, require
from mu_jax.config.resolve import with_settings
from mu_jax.defenses.accounting import epsilon
from mu_jax.defenses.dp_sgd import PrivateGradient
from mu_jax.defenses.extra import dp_package
from mu_jax.defenses.poisson import PoissonRun, capacity, with_filler
from mu_jax.defenses.posteriors import label_only, temperature, top_k
from mu_jax.training.chunk import Examples
from mu_jax.training.loop import TrainingRun
from mu_jax.training.schedules import total_steps
from mu_jax.training.step import Recipe

Release = Callable[[Float64[np.ndarray, "N C"]], Float64[np.ndarray, "N C"]]

_LEAST = 1e-300
"""A posterior of 0 has no logarithm; the sharpest that float64 can say."""


@dataclasses.dataclass(frozen=True)
class TopK:
    """The k largest posteriors stay, the rest of the mass is spread evenly."""

    k: int = 3


@dataclasses.dataclass(frozen=True)
class LabelOnly:
    """The label alone."""


@dataclasses.dataclass(frozen=True)
class Temperature:
    """softmax(log p / t), which for a single network is softmax(logits / t)."""

    t: float = 2.0


@dataclasses.dataclass(frozen=True)
class Defense:
    """What a model owner does about the attack; this one releases other posteriors, or none at all."""

    name: str
    """as the config has it"""
    release: Release | None
    """None where it acts in training"""

    def private_recipe(self, recipe: Recipe, train: OptimizationConfig) -> Recipe:
        """The recipe of training under the defence."""
        del train
        return recipe

    def examples(self, examples: Examples) -> Examples:
        """What training draws from."""
        return examples

    def batch_size(self, train: OptimizationConfig, rows: int) -> int:
        """Rows of a batch, for runs of at most so many rows."""
        del rows
        return train.batch_size

    def run(self, run: TrainingRun, filler: int, batch_size: int) -> TrainingRun:
        """The run under the defence, in batches of so many rows; `filler` is the row behind the data's own."""
        del filler, batch_size
        return run

    def facts(self, train: OptimizationConfig, rows: int) -> dict[str, Any]:
        """What the defence promises of a training on so many rows."""
        del train, rows
        return {}


@dataclasses.dataclass(frozen=True)
class DpSgd:
    """Gradients of single examples clipped, noise on their sum, batches by Poisson sampling."""

    noise_multiplier: float = 1.2
    clip_norm: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        require(0 < self.delta < 1, "delta", self.delta, "a value in (0, 1)")


@dataclasses.dataclass(frozen=True)
class PrivateTraining(Defense):
    """DP-SGD: what is released is what the private model says."""

    settings: DpSgd = DpSgd()

    def private_recipe(self, recipe: Recipe, train: OptimizationConfig) -> Recipe:
        # What would stop the first step, or the table after the last one, stops the run before it begins.
        for package in ("jax_privacy", "dp_accounting"):
            dp_package(package)
        if jax.eval_shape(recipe.model.init, jax.random.key(0))["batch_stats"]:
            raise InputError(
                f"leaks.defenses has {self.name!r}, but a network among leaks.targets has batch-norm, which mixes "
                "examples; give it group-norm (resnet18:model.norm=group), or take it out."
            )
        settings = self.settings
        gradient = PrivateGradient(settings.clip_norm, settings.noise_multiplier, train.batch_size)
        return dataclasses.replace(recipe, gradient=gradient)

    def examples(self, examples: Examples) -> Examples:
        return with_filler(examples)

    def batch_size(self, train: OptimizationConfig, rows: int) -> int:
        return capacity(rows, train.batch_size, total_steps(train, rows))

    def run(self, run: TrainingRun, filler: int, batch_size: int) -> TrainingRun:
        values = {field.name: getattr(run, field.name) for field in dataclasses.fields(TrainingRun)}
        return PoissonRun(**values, filler=filler, slots=batch_size)

    def facts(self, train: OptimizationConfig, rows: int) -> dict[str, Any]:
        settings = self.settings
        spent = epsilon(
            settings.noise_multiplier, train.batch_size / rows, total_steps(train, rows), settings.delta
        )
        return {"epsilon": spent if math.isfinite(spent) else None, "delta": settings.delta}


def parse_defense(name: str) -> Defense:
    """The defence that a name spells. InputError where there is none such."""
    kind, _, changes = name.partition(":")
    one_of("leaks.defenses", kind, tuple(_KINDS))
    settings, make = _KINDS[kind]
    if changes:
        if not dataclasses.fields(settings):
            raise InputError(f"leaks.defenses has {name!r}, but {kind} has no settings; write {kind!r}.")
        settings = with_settings(settings, changes, f"leaks.defenses: {name!r}")
    return make(name, settings)


@dataclasses.dataclass(frozen=True)
class _None:
    """No defence."""


def _top_k(name: str, settings: TopK) -> Defense:
    return Defense(name, lambda posteriors: top_k(posteriors, settings.k))


def _temperature(name: str, settings: Temperature) -> Defense:
    return Defense(name, lambda posteriors: temperature(np.log(np.maximum(posteriors, _LEAST)), settings.t))


_KINDS: dict[str, tuple[Any, Callable[[str, Any], Defense]]] = {
    "none": (_None(), lambda name, settings: Defense(name, lambda posteriors: posteriors)),
    "top_k": (TopK(), _top_k),
    "label_only": (LabelOnly(), lambda name, settings: Defense(name, label_only)),
    "temperature": (Temperature(), _temperature),
    "dp_sgd": (DpSgd(), lambda name, settings: PrivateTraining(name, None, settings)),
}
