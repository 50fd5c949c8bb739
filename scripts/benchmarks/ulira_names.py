"""From the words of `--cases` to cases of class unlearning, and to the settings that both sides have."""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any

from benchmarks.named_cases import unknown_case
from benchmarks.ulira_case import (
    BATCH,
    LEARNING_RATE,
    METHOD_NAMES,
    MOMENTUM,
    TRAINING_LEARNING_RATE,
    TRW_STEP,
    WEIGHT_DECAY,
    UliraCase,
)
from benchmarks.unlearning_names import parse_methods
from mu_jax.config import InputError, OptimizationConfig
from mu_jax.config.class_unlearning import ClassMethodsConfig
from mu_jax.unlearning.methods import METHODS

TABLE = ("ulira_trw_k8", TRW_STEP)
"""The cases that the project's table shows, besides those of `unlearning_names`."""
ALL = (*(f"ulira_{method}_k8" for method in METHOD_NAMES), TRW_STEP)
_NAME = re.compile(r"ulira_([a-z_]+)_k(\d{1,6})")
_FORM = f"ulira_METHOD_kK with METHOD one of {', '.join(METHOD_NAMES)}, such as ulira_trw_k8, or {TRW_STEP}"
_MOST_MODELS = 1024


def split_cases(
    names: Sequence[str], width: int, share: float, training_epochs: float
) -> tuple[list[str], list[UliraCase]]:
    """(methods on single examples, cases of class unlearning) of `--cases`: names, or `all`; without any, the tables'.

    InputError for a name of neither kind, and for one that stands twice.
    """
    if not names or list(names) == ["all"]:
        methods, mine = parse_methods(names), ALL if names else TABLE
    else:
        mine = [name for name in names if _meant(name)]
        others = [name for name in names if not _meant(name)]
        methods = parse_methods(others) if others else []
    cases = [parse_case(name, width, share, training_epochs) for name in mine]
    for i, case in enumerate(cases):
        if case in cases[:i]:
            raise InputError(f"The case {mine[i]!r} stands twice in --cases; expected each once, drop one.")
    return methods, cases


def parse_case(name: str, width: int, share: float, training_epochs: float) -> UliraCase:
    """The case that `name` spells, as yet without its files. InputError where it is none."""
    if name == TRW_STEP:
        return UliraCase(TRW_STEP, 1, width, training_epochs=training_epochs)
    match = _NAME.fullmatch(name)
    if not match or match[1] not in METHOD_NAMES:
        raise unknown_case(name, ALL, _FORM)
    method, models = match[1], int(match[2])
    if not 2 <= models <= _MOST_MODELS:
        raise InputError(
            f"The case {name!r} has {models} models, but expected 2 to {_MOST_MODELS}; change it in its name."
        )
    case = UliraCase(method, models, width, share, training_epochs=training_epochs)
    settings = method_settings(method, case.epochs)
    if isinstance(settings, OptimizationConfig):
        return case
    own = dataclasses.asdict(settings)
    del own["optimization"]
    return dataclasses.replace(case, settings=own)


def method_settings(method: str, epochs: float) -> Any:
    """Those of a method on whole classes, its optimization replaced by that of every method here."""
    settings = METHODS[method].settings_of(ClassMethodsConfig())
    optimization = OptimizationConfig(
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        schedule="constant",
    )
    if isinstance(settings, OptimizationConfig):
        return optimization
    return dataclasses.replace(settings, optimization=optimization)


def training_recipe(epochs: float) -> OptimizationConfig:
    """That of the originals."""
    return OptimizationConfig(
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=TRAINING_LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        schedule="cosine",
    )


def _meant(name: str) -> bool:
    """Whether a name, or what it is a slip of, is of class unlearning."""
    return name.startswith("ulira") or bool(difflib.get_close_matches(name, [TRW_STEP], cutoff=0.8))
