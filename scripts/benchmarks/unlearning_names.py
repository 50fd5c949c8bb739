"""From the words of `--cases` to methods, and from a method to what both sides are told of it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from benchmarks.named_cases import unknown_case
from benchmarks.unlearning_case import RETRAIN, UnlearningCase
from mu_jax.config import InputError, OptimizationConfig
from mu_jax.config.methods import MethodsConfig, NeighboursConfig
from mu_jax.unlearning.methods import EXAMPLE_METHODS, METHODS, neighbours_config

TABLE = (
    "finetune",
    "gradient_ascent",
    "random_labels",
    "boundary_shrink",
    "l1_sparse",
    "salun",
    "scrub",
    "negative_gradient_plus",
    "amun",
    "amun_salun",
)
"""The cases that the project's table shows."""
# A transferred set is made on another trained model, which no case has.
ALL = tuple(name for name in EXAMPLE_METHODS if METHODS[name].neighbours != "transferred")


def parse_methods(names: Sequence[str]) -> list[str]:
    """The methods of `--cases`: names, or `all`; without any, those of the project's table."""
    names = list(ALL if list(names) == ["all"] else names or TABLE)
    for i, name in enumerate(names):
        if name not in ALL:
            raise unknown_case(name, ALL, f"one of {', '.join(ALL)}")
        if name in names[:i]:
            raise InputError(f"The case {name!r} stands twice in --cases; expected each once, drop one.")
    return names


def method_settings(method: str, share: float) -> Any:
    """The published settings of a method, for a share of their epochs."""
    settings = METHODS[method].settings_of(MethodsConfig())
    if isinstance(settings, OptimizationConfig):
        return dataclasses.replace(settings, epochs=share * settings.epochs)
    shorter = dataclasses.replace(settings.optimization, epochs=share * settings.optimization.epochs)
    changed: dict[str, Any] = {"optimization": shorter}
    if hasattr(settings, "ascent_epochs"):
        changed["ascent_epochs"] = min(settings.ascent_epochs, math.ceil(shorter.epochs))
    return dataclasses.replace(settings, **changed)


def method_case(method: str, width: int, share: float) -> UnlearningCase:
    """The case of a method, as yet without its files."""
    settings = method_settings(method, share)
    optimization = settings if isinstance(settings, OptimizationConfig) else settings.optimization
    neighbours = neighbours_config(method, NeighboursConfig())
    return UnlearningCase(
        method, width, dataclasses.asdict(optimization), dataclasses.asdict(neighbours), share=share
    )


def retrain_case(width: int, epochs: float) -> UnlearningCase:
    """Retraining by AMUN's recipe of the original model: SGD 0.1, a tenth of it every 40 epochs, batch 128."""
    optimization = OptimizationConfig(
        epochs=epochs,
        batch_size=128,
        learning_rate=0.1,
        schedule="step",
        step_epochs=40.0,
        crop_padding=4,
        flip=True,
    )
    return UnlearningCase(
        RETRAIN, width, dataclasses.asdict(optimization), dataclasses.asdict(NeighboursConfig())
    )
