"""A network of the user's own code in a run's folder: run only where the user names it, and only if it is that code."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mu_jax.config import InputError, ModelConfig
from mu_jax.models.own_code import signature_of

SIGNATURE = "code of model.module"
"""What config.json calls its hash, among a run's inputs."""


def code_inputs(config: Mapping[str, Any]) -> dict[str, str]:
    """What a run folder notes of a network of the user's own, by the config as plain dicts; nothing for others."""
    settings = config.get("model")
    module = settings.get("module", "") if isinstance(settings, Mapping) else ""
    return {SIGNATURE: signature_of(module)} if module else {}


def with_named_code(model: ModelConfig, saved: Mapping[str, Any], module: str, where: Any) -> ModelConfig:
    """The network of a run's folder, whose config.json is `saved`, with `module` for the place of its code.

    A folder may come from anybody, so the code that it names is never run: whoever asks for the model names it, and it
    must be, but for comments and layout, what the model was made with (`signature_of`). InputError where it is not.
    """
    if not model.module:
        if module:
            raise InputError(
                f"The module is {module!r}, but {where} holds a {model.name} and needs no code of yours; leave it away."
            )
        return model
    if not module:
        raise InputError(
            f"{where} holds a model of somebody's own code, {model.module!r}, which is not run because a folder says "
            f"so; if you trust it, name it: --config.model.name=own --config.model.module={model.module} (of spectra, "
            f"--config.module={model.module}; in Python, module={model.module!r})."
        )
    theirs, mine = saved.get("inputs", {}).get(SIGNATURE), signature_of(module)
    if theirs != mine:
        raise InputError(
            f"{where} holds a model of other code than {module!r}: its signature was {theirs!r} and is now {mine!r}; "
            "name the code that it was made with."
        )
    return dataclasses.replace(model, module=module)
