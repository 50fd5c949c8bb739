"""What is kept of each group of models of the experiment on leaks: their logits on their side's data."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float32, Int64

from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write


@dataclasses.dataclass(frozen=True, eq=False)
class GroupAnswer:
    """Of G models."""

    names: tuple[str, ...]
    """of their lessons"""
    logits: Float32[np.ndarray, "G N C"]
    """of scikit-learn's models the logarithms of posteriors, of which none is below that of 1e-12"""
    diverged_step: Int64[np.ndarray, "G"]
    """−1: it did not"""
    seconds: float
    """of training, of all of them"""
    trained_samples: Int64[np.ndarray, "G"]


def save_answer(path: pathlib.Path, answer: GroupAnswer) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    values = vars(answer) | {"names": np.array(answer.names)}
    with atomic_write(path) as file:
        np.savez(file, **values)


def load_answer(path: pathlib.Path, names: tuple[str, ...]) -> GroupAnswer | None:
    """What was saved, None where there is none; InputError where it cannot be read, or is of other models."""
    if not path.exists():
        return None
    try:
        with open_archive(path) as archive:
            values = {field.name: archive[field.name] for field in dataclasses.fields(GroupAnswer)}
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove it, and its group is made again."
        ) from None
    found = tuple(str(name) for name in values["names"])
    if found != names:
        raise InputError(f"{path} holds other models than this run has; choose another --workdir.")
    return GroupAnswer(**(values | {"names": found, "seconds": float(values["seconds"])}))
