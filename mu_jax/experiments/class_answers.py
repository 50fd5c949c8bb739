"""What is kept of each model of class unlearning, once it is made."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float32

from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write


@dataclasses.dataclass(frozen=True)
class ClassAnswer:
    """Of one model, what evaluation reads; of one that diverged, as it was before it did."""

    logits: Float32[np.ndarray, "N C"]
    """on all images, training images first"""
    diverged_step: int
    """−1: it did not"""
    seconds: float
    """of training, the group's divided by its models; of a method without any, of its work"""
    preparation_seconds: float
    """of a method's work before training, masks and targets; not of asking the original about all images, which is done
    once for all methods"""
    trained_samples: int
    read_samples: int
    """examples that a method without training asked the original about"""


def save_answer(path: pathlib.Path, answer: ClassAnswer) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, **{name: np.asarray(value) for name, value in vars(answer).items()})


def load_answer(path: pathlib.Path) -> ClassAnswer | None:
    """What was saved, or None where there is none; InputError where it cannot be read."""
    if not path.exists():
        return None
    try:
        with open_archive(path) as archive:
            values = {field.name: archive[field.name] for field in dataclasses.fields(ClassAnswer)}
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove it, and its group is made again."
        ) from None
    scalars = {name: value.item() for name, value in values.items() if value.ndim == 0}
    return ClassAnswer(**(values | scalars))
