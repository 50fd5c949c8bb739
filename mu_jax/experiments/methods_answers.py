"""What is asked of each model of the comparison, kept in its folder, so that no model need be kept in memory."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float32

from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write


@dataclasses.dataclass(frozen=True)
class Answer:
    """Of one model, what evaluation reads."""

    logits: Float32[np.ndarray, "N C"]
    """on all images"""
    neighbour_logits: Float32[np.ndarray, "M C"]
    """on the adversarial neighbours of its forget set; none where no method asked for them"""
    robust_accuracy: float
    """NaN where it was not measured"""
    weights_distance: float
    """‖θ − θ_o‖², of the parameters, from what it was made of: the original, or the last request's model"""
    seconds: float
    preparation_seconds: float
    compile_seconds: float
    trained_samples: int


def save_answer(path: pathlib.Path, answer: Answer) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, **{name: np.asarray(value) for name, value in vars(answer).items()})


def load_answer(path: pathlib.Path) -> Answer | None:
    """What was saved, or None where there is none; InputError where it cannot be read."""
    if not path.exists():
        return None
    try:
        with open_archive(path) as archive:
            values: dict[str, Any] = {field.name: archive[field.name] for field in dataclasses.fields(Answer)}
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove it, and the model is asked again."
        ) from None
    scalars = {name: value.item() for name, value in values.items() if value.ndim == 0}
    return Answer(**(values | scalars))
