"""What is kept of each model of the study of smooth models, once it is trained."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float, Float32

from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write


@dataclasses.dataclass(frozen=True)
class SmoothAnswer:
    """Of one model, what evaluation reads; of one that diverged, as it was before it did."""

    logits: Float32[np.ndarray, "N C"]
    """on all images, after the last clipping"""
    logits_before: Float32[np.ndarray, "N C"]
    """before it; the same where there was none"""
    norms: Float[np.ndarray, "L"]
    """measured, of the layers by themselves"""
    norms_before: Float[np.ndarray, "L"]
    """the same before the last clipping"""
    composed: Float[np.ndarray, "L"]
    """with the batch-norm behind them; NaN where there is none"""
    history: Float[np.ndarray, "R T"]
    """tracked norms over training; rows that were not reached are zero"""
    moved: float
    """by the last clipping: ‖new − old‖ / ‖old‖ of the parameters"""
    divided: int
    """layers that it could not clip, and divided"""
    diverged_step: int
    """−1: it did not"""
    seconds: float
    """of training, the group's divided by its models"""
    trained_samples: int


def save_answer(path: pathlib.Path, answer: SmoothAnswer) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, **{name: np.asarray(value) for name, value in vars(answer).items()})


def load_answer(path: pathlib.Path) -> SmoothAnswer | None:
    """What was saved, or None where there is none; InputError where it cannot be read."""
    if not path.exists():
        return None
    try:
        with open_archive(path) as archive:
            values = {field.name: archive[field.name] for field in dataclasses.fields(SmoothAnswer)}
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove it, and its group is trained again."
        ) from None
    scalars = {name: value.item() for name, value in values.items() if value.ndim == 0}
    return SmoothAnswer(**(values | scalars))
