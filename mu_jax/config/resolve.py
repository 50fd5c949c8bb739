"""Between config files, flags and JSON on one side and the frozen dataclasses on the other."""

import ast
import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from typing import Any

import ml_collections

from mu_jax.config.class_unlearning import ClassUnlearning
from mu_jax.config.comparison import UnlearningComparison
from mu_jax.config.errors import InputError, one_of, require
from mu_jax.config.importing import ImportCheckpoint
from mu_jax.config.leaks import UnlearningLeaks
from mu_jax.config.saved import UnlearnSaved
from mu_jax.config.search import UnlearningSearch
from mu_jax.config.sisa import SisaDelete, SisaPosterior
from mu_jax.config.smooth import SmoothAmun
from mu_jax.config.spectra import Spectra
from mu_jax.config.sweep import ShadowSweep
from mu_jax.config.transfer import TransferUnlearning
from mu_jax.config.unlearning import UnlearningMethods

EXPERIMENTS: Mapping[str, type] = types.MappingProxyType(
    {
        "unlearning_comparison": UnlearningComparison,
        "shadow_sweep": ShadowSweep,
        "sisa_posterior": SisaPosterior,
        "sisa_delete": SisaDelete,
        "unlearning_methods": UnlearningMethods,
        "unlearning_search": UnlearningSearch,
        "unlearn_saved": UnlearnSaved,
        "smooth_amun": SmoothAmun,
        "spectra": Spectra,
        "class_unlearning": ClassUnlearning,
        "unlearning_leaks": UnlearningLeaks,
        "transfer_unlearning": TransferUnlearning,
        "import_checkpoint": ImportCheckpoint,
    }
)


_END = 2**63


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain dicts, lists and scalars, ready for JSON."""
    return {
        key: to_dict(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in vars(config).items()
    }


def default_config(experiment: str) -> ml_collections.ConfigDict:
    """All settings of an experiment at their defaults, for a config file to change and flags to override."""
    one_of("experiment", experiment, tuple(EXPERIMENTS))

    def build(dataclass: Any) -> ml_collections.ConfigDict:
        fields = vars(dataclass).items()
        return ml_collections.ConfigDict(
            {k: build(v) if dataclasses.is_dataclass(v) else v for k, v in fields}
        )

    return build(EXPERIMENTS[experiment]()).lock()


def from_config_dict(values: Mapping[Any, Any]) -> Any:
    """The experiment's frozen dataclass; an unknown key or a value of the wrong type is an InputError."""
    experiment = values.get("experiment")
    one_of("experiment", experiment, tuple(EXPERIMENTS))
    return _build(EXPERIMENTS[experiment], values, prefix="")


def with_settings(settings: Any, changes: str, where: str) -> Any:
    """A group of settings with some changed, as `epochs=5,optimization.learning_rate=0.1` has them.

    InputError, which begins with `where`, for keys that are none and for values of another type.
    """
    values = to_dict(settings)
    for change in changes.split(","):
        key, equals, text = (part.strip() for part in change.partition("="))
        group, parts = values, key.split(".")
        for part in parts[:-1]:
            group = group.get(part) if isinstance(group, dict) else None
        if not equals or not isinstance(group, dict) or parts[-1] not in group:
            raise InputError(
                f"{where} changes {change!r}, but expected KEY=VALUE with a key of its settings "
                f"({', '.join(sorted(values))}); correct it."
            )
        try:
            group[parts[-1]] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            group[parts[-1]] = text  # a word
    try:
        return _build(type(settings), values, prefix="")
    except InputError as error:
        # What it advises is a flag, which does not reach into a text.
        wrong, _, _ = str(error).partition("; change it")
        raise InputError(f"{where}: {wrong}; correct it there.") from None


def with_values(settings: Any, values: Mapping[str, Any]) -> Any:
    """A group of settings with some changed, by keyword; InputError for unknown keys and values of another type."""
    try:
        return _build(type(settings), {**to_dict(settings), **values}, prefix="")
    except InputError as error:
        # Here nobody has flags.
        wrong, flag, _ = str(error).partition("; change it with --config.")
        raise InputError(f"{wrong}; correct it." if flag else wrong) from None


def _build(cls: type, values: Mapping[Any, Any], prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            key = str(key)
            close = difflib.get_close_matches(key, fields, n=1)
            hint = (
                f"did you mean {prefix + close[0]!r}?"
                if close
                else "known here: " + ", ".join(sorted(fields)) + "."
            )
            raise InputError(f"{prefix + key!r} is not a setting; {hint}")
    built = {key: _convert(fields[key], value, prefix + key) for key, value in values.items()}
    try:
        return cls(**built)
    except InputError as error:
        # Checks of a dataclass that stands in several places name their key without the place.
        message = str(error)
        raise InputError(message if message.startswith(prefix) else _with_prefix(message, prefix)) from None


def _with_prefix(message: str, prefix: str) -> str:
    return prefix + message.replace("--config.", "--config." + prefix, 1)


def _convert(field: dataclasses.Field, value: Any, key: str) -> Any:
    default = field.default
    if dataclasses.is_dataclass(default):
        if not isinstance(value, Mapping):
            raise InputError(
                f"{key} is {value!r}, but expected a group of settings; change one of its keys instead."
            )
        return _build(type(default), value, key + ".")
    if isinstance(default, tuple):
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
            value = (value,)
        # Of an empty default the elements' type cannot be seen: those are lists of classes.
        kind = type(default[0]) if default else int
        return tuple(_scalar(item, kind, key) for item in value)
    return _scalar(value, type(default), key)


def _scalar(value: Any, kind: type, key: str) -> Any:
    integral = isinstance(value, int) and not isinstance(value, bool)
    if (kind is float and (integral or isinstance(value, float))) or (kind is int and integral):
        # Python's integers have no end, but arrays' do, and so have floats.
        require(not integral or abs(value) < _END, key, value, "a number of less than 2⁶³ either side of 0")
        require(math.isfinite(value), key, value, "a finite number")
        return kind(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise InputError(
        f"{key} is {value!r}, but expected a value of type {kind.__name__}; change it with --config.{key}=VALUE."
    )


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str | None:
    """One sentence naming the first key in which two resolved configs differ, or None where none does."""
    for key in list(new) + [key for key in old if key not in new]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            inner = first_difference(a, b, f"{prefix}{key}.")
            if inner:
                return inner
        elif a != b:
            return f"{prefix}{key} was {a!r} and is now {b!r}"
    return None


def unknown_variant(variant: str, known: tuple[str, ...]) -> None:
    """Refuse the part after the colon of `--config=FILE.py:VARIANT`; config files call it last."""
    close = difflib.get_close_matches(variant, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(known)}, or none."
    raise InputError(f"The config has no variant {variant!r}; {hint}")
