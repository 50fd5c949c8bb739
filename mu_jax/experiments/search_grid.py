"""The settings that a search tries: which they are, what they are called, and how a config takes them over."""

import dataclasses
import itertools
import types
from collections.abc import Mapping
from typing import Any

from mu_jax.config import (
    InputError,
    MethodsConfig,
    OptimizationConfig,
    SearchConfig,
    UnlearningSearch,
    to_dict,
)
from mu_jax.config.errors import one_of
from mu_jax.unlearning.methods import EXAMPLE_METHODS, METHODS

_SET_BY_CONFIGS = ("batch_size", "crop_padding", "flip", "retain")


@dataclasses.dataclass(frozen=True)
class Knob:
    """What, besides learning rate, schedule and length, is searched of a method."""

    field: str
    """of the method's settings"""
    values: str
    """of `SearchConfig`"""
    short: str
    """in the names of runs, and for people"""
    shares_examples: bool = False
    """whether its values differ neither in examples nor in the mask, so that they can train in one group"""


KNOBS: Mapping[str, Knob] = types.MappingProxyType(
    {
        # Its penalty's strength is data of each step.
        "l1_sparse": Knob("alpha", "l1_alphas", "alpha", shares_examples=True),
        "salun": Knob("share", "saliency_shares", "share"),
        "amun_salun": Knob("saliency_share", "saliency_shares", "share"),
        "negative_gradient_plus": Knob("alpha", "negative_gradient_alphas", "alpha"),
    }
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One method with one choice of settings."""

    method: str
    learning_rate: float
    step_epochs: float
    """0: the learning rate stays"""
    epochs: float
    knob: float | None = None
    """the value of the method's knob, where it has one"""

    @property
    def name(self) -> str:
        """Names the run's random streams: by what it is, never by its place in a group or a grid."""
        parts = [f"rate={self.learning_rate!r}", f"step={self.step_epochs!r}", f"epochs={self.epochs!r}"]
        if self.knob is not None:
            parts.append(f"{KNOBS[self.method].short}={self.knob!r}")
        return f"{self.method}@{','.join(parts)}"

    def optimization(self, own: OptimizationConfig) -> OptimizationConfig:
        """The method's own optimization with this choice."""
        change: dict[str, Any] = {"learning_rate": self.learning_rate, "epochs": self.epochs}
        if self.step_epochs:
            return dataclasses.replace(own, schedule="step", step_epochs=self.step_epochs, **change)
        return dataclasses.replace(own, schedule="constant", **change)

    def settings(self, methods: MethodsConfig) -> Any:
        """The method's settings with this choice; InputError where the method refuses it."""
        own = METHODS[self.method].settings_of(methods)
        if isinstance(own, OptimizationConfig):
            return self.optimization(own)
        knob = {} if self.knob is None else {KNOBS[self.method].field: self.knob}
        try:
            return dataclasses.replace(own, optimization=self.optimization(own.optimization), **knob)
        except InputError as error:
            raise InputError(
                f"The search has a setting that {self.method} refuses ({self.name}): {error}"
            ) from None

    def overrides(self, methods: MethodsConfig) -> list[str]:
        """The flags that give an `unlearning_methods` run this choice: what was searched, and what is no default.

        And what config files set for themselves, so that theirs does not stay where the default was searched with.
        """
        where = METHODS[self.method].settings
        chosen = _leaves(self.settings(methods))
        default = _leaves(METHODS[self.method].settings_of(MethodsConfig()))
        searched = {"learning_rate", "schedule", "epochs", *_SET_BY_CONFIGS} | (
            {"step_epochs"} if self.step_epochs else set()
        )
        if self.knob is not None:
            searched.add(KNOBS[self.method].field)
        return [
            f"--config.methods.{where}.{key}={value}"
            for key, value in chosen.items()
            # What a variant of a method has otherwise is the variant's own, and no setting of a config.
            if (key.rpartition(".")[2] in searched or value != default[key])
            and key not in METHODS[self.method].change
        ]


def own_optimization(method: str, methods: MethodsConfig) -> OptimizationConfig:
    """How a method's run goes where nothing of it is searched."""
    own = METHODS[method].settings_of(methods)
    return own if isinstance(own, OptimizationConfig) else own.optimization


def grid(config: UnlearningSearch) -> dict[str, list[Candidate]]:
    """All candidates of each method; choices that come to the same run stand once. InputError for bad names."""
    for name in config.names:
        one_of("names", name, EXAMPLE_METHODS)
    found = {name: _candidates(name, config.search, config.methods) for name in config.names}
    for candidate in itertools.chain.from_iterable(found.values()):
        candidate.settings(config.methods)  # fails now rather than after training
    return found


def _candidates(method: str, search: SearchConfig, methods: MethodsConfig) -> list[Candidate]:
    own = own_optimization(method, methods).epochs
    knobs = getattr(search, KNOBS[method].values) if method in KNOBS else (None,)
    # The longest first: in a group all wait for the longest.
    lengths = sorted({epochs or own for epochs in search.epochs}, reverse=True)
    chosen = (
        # A step at the end of a run, or later, is none.
        Candidate(method, rate, step if step < epochs else 0.0, epochs, knob)
        for knob, epochs, rate, step in itertools.product(
            knobs, lengths, search.learning_rates, search.step_epochs
        )
    )
    return list(dict.fromkeys(chosen))


def _leaves(settings: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    walk(to_dict(settings), "")
    return flat
