"""What the candidates of a group say, kept in the run folder, so that no model need be kept."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int64

from mu_jax.attacks.loss import loss_scores
from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write


@dataclasses.dataclass(frozen=True)
class GroupAnswer:
    """What the G candidates of a group say of the N images, and what they took."""

    names: tuple[str, ...]
    loss: Float32[np.ndarray, "G N"]
    """cross-entropy, in nats; of a model that diverged it means nothing"""
    correct: Bool[np.ndarray, "G N"]
    diverged_step: Int64[np.ndarray, "G"]
    """−1 for a sound model"""
    seconds: Float64[np.ndarray, "G"]
    """each an equal share of the group's"""
    trained_samples: Int64[np.ndarray, "G"]


def said(
    logits: Float32[np.ndarray, "N C"], labels: Int[np.ndarray, "N"]
) -> tuple[Float32[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """(cross-entropy in nats, whether the class was right) of each image; NaN where a logit is not finite."""
    finite = np.isfinite(logits).all(axis=1)
    loss = -np.asarray(loss_scores(np.where(finite[:, None], logits, 0), labels), np.float32)
    return np.where(finite, loss, np.float32(np.nan)), finite & (logits.argmax(axis=1) == labels)


def save_answer(path: pathlib.Path, answer: GroupAnswer) -> None:
    """Write it whole or not at all."""
    with atomic_write(path) as file:
        np.savez(file, **{name: np.asarray(value) for name, value in vars(answer).items()})


def load_answer(path: pathlib.Path) -> GroupAnswer:
    """What was saved; InputError where it cannot be read."""
    try:
        with open_archive(path) as archive:
            values = {field.name: archive[field.name] for field in dataclasses.fields(GroupAnswer)}
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove it, and its group is trained again."
        ) from None
    return GroupAnswer(**values | {"names": tuple(map(str, values["names"]))})
