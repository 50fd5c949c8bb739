"""The packages of the extra [dp], imported where they are first used."""

import importlib
from types import ModuleType

from mu_jax.config import InputError


def dp_package(name: str) -> ModuleType:
    """`jax_privacy` or `dp_accounting`; InputError, naming the extra, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"DP-SGD stands on {name}, which is not installed; pip install 'mu-jax[dp]'."
        ) from None
