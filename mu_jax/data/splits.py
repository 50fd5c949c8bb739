"""Which examples are retained, forgotten, set aside for validation, or test examples."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mu_jax.config import DataConfig, ForgetConfig, InputError
from mu_jax.data.array_files import open_archive, read_array
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import UNREADABLE, atomic_write, user_path
from mu_jax.data.random_streams import host_stream


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Four sets of positions in `Dataset.images`, sorted, without overlap.

    Training images are 0..n_train-1, test images n_train..n_train+n_test-1. InputError where a position
    stands twice, in one part or in two.
    """

    # All int64 [n]; plain arrays to the type checker, because __post_init__ checks them in every run.
    retain: np.ndarray
    forget: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        parts = vars(self)
        for name, part in parts.items():
            if part.dtype != np.int64 or part.ndim != 1 or np.any(np.diff(part) <= 0):
                raise InputError(
                    f"{name} has dtype {part.dtype} and shape {part.shape}, but expected sorted int64 "
                    "positions without repeats; make them with np.unique."
                )
        everything = np.concatenate(list(parts.values()))
        if len(np.unique(everything)) != len(everything):
            raise InputError(
                "Two parts of the splits share positions, but expected none; make them with make_splits."
            )

    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over which positions lie in which part."""
        digest = hashlib.sha256()
        for name, part in vars(self).items():
            digest.update(f"{name}{len(part)}".encode())
            digest.update(np.ascontiguousarray(part, "<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file at once or not at all: a kill leaves the old file or the new one."""
        with atomic_write(Path(path)) as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Splits":
        """Reads what `save` wrote; InputError where the file is missing or damaged."""
        try:
            with open_archive(path) as archive:
                return cls(**{field.name: archive[field.name] for field in dataclasses.fields(cls)})
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except UNREADABLE as error:
            raise InputError(
                f"{path} cannot be read as splits ({error}), but expected a file that Splits.save wrote; "
                "remove it to draw the splits again."
            ) from error


def make_splits(dataset: Dataset, data_config: DataConfig, forget_config: ForgetConfig, seed: int) -> Splits:
    """Draws validation, then the forget set among the other training examples; retain is the rest.

    The forget set is that of `indices` where given, else all examples of `classes` where given, else
    `fraction` of the training examples that are not validation examples, rounded to the nearest count, at
    least one. Indices have priority: validation is drawn among the others. Raises InputError where forget or
    retain would be empty, and for indices or classes that do not exist.
    """
    n_train, n_test = len(dataset.y_train), len(dataset.y_test)
    listed = read_indices(user_path(forget_config.indices), n_train) if forget_config.indices else None
    validation = draw_validation(n_train, data_config.validation_fraction, listed, seed)
    remaining = np.setdiff1d(np.arange(n_train), validation)
    if listed is not None:
        forget = listed
    elif forget_config.classes:
        forget = _of_classes(dataset, forget_config.classes, remaining)
    else:
        count = max(1, _nearest(forget_config.fraction * len(remaining)))
        forget = np.sort(
            host_stream(seed, "forget").choice(remaining, min(count, len(remaining)), replace=False)
        )
    retain = np.setdiff1d(remaining, forget)
    if len(retain) == 0:
        raise InputError(
            f"The forget set takes all {len(forget)} training examples that are not set aside for "
            "validation, but expected some to stay; lower --config.forget.fraction or "
            "--config.data.validation_fraction, or name fewer classes or indices."
        )
    return Splits(retain, forget, validation, np.arange(n_train, n_train + n_test))


def splits_of_search(scored: Splits, seed: int) -> Splits:
    """Splits to choose settings on: as many examples to forget, or as many as there are, none of the scored set."""
    stream = host_stream(seed, "forget set of the search")
    number = min(len(scored.forget), len(scored.retain))
    forget = np.sort(stream.choice(scored.retain, number, replace=False))
    retain = np.setdiff1d(np.union1d(scored.retain, scored.forget), forget)
    return Splits(retain, forget, scored.validation, scored.test)


def another_forget_set(first: Splits, number: int, seed: int) -> Splits:
    """A forget set of the first one's size, drawn anew, and where enough is left outside the set of a search."""
    training = np.union1d(first.retain, first.forget)
    unsearched = np.setdiff1d(training, splits_of_search(first, seed).forget)
    drawn_from = unsearched if len(unsearched) >= 2 * len(first.forget) else training
    stream = host_stream(seed, f"forget set {number}")
    forget = np.sort(stream.choice(drawn_from, len(first.forget), replace=False))
    return Splits(np.setdiff1d(training, forget), forget, first.validation, first.test)


def _nearest(value: float) -> int:
    return int(np.floor(value + 0.5))


def draw_validation(
    n_train: int, fraction: float, listed: Int64[np.ndarray, "_"] | None, seed: int
) -> Int64[np.ndarray, "_"]:
    """Sorted positions of the training examples set aside for validation, none of them `listed`; for fraction 0, none.

    InputError where none would be left.
    """
    candidates = np.arange(n_train)
    if fraction == 0:
        return candidates[:0]
    if listed is not None:
        candidates = np.setdiff1d(candidates, listed)
    count = max(1, _nearest(fraction * n_train))
    if count >= len(candidates):
        raise InputError(
            f"data.validation_fraction is {fraction}, which is {count} of {n_train} training examples, but "
            f"expected fewer than the {len(candidates)} that may be validation examples; lower "
            "--config.data.validation_fraction."
        )
    return np.sort(host_stream(seed, "validation").choice(candidates, count, replace=False))


def _of_classes(
    dataset: Dataset, classes: tuple[int, ...], remaining: Int64[np.ndarray, "_"]
) -> Int64[np.ndarray, "_"]:
    for label in classes:
        if not 0 <= label < dataset.num_classes:
            raise InputError(
                f"forget.classes holds {label}, but {dataset.name} has the classes "
                f"0..{dataset.num_classes - 1}; change it with --config.forget.classes=VALUE."
            )
    forget = remaining[np.isin(dataset.y_train[remaining], classes)]
    if len(forget) == 0:
        raise InputError(
            f"forget.classes is {classes}, but no training example has such a label; name classes that are "
            "there, or keep more training examples."
        )
    return forget


def read_indices(path: Path, n_train: int) -> Int64[np.ndarray, "_"]:
    """The sorted positions in a `.npy` file; InputError where it holds no list of distinct training positions."""
    fix = "save it with np.save(FILE, positions), positions a list of integers"
    try:
        indices = read_array(path)
    except UNREADABLE as error:
        reason = (
            "there is no such file"
            if isinstance(error, FileNotFoundError)
            else f"it holds no plain NumPy array ({error})"
        )
        raise InputError(
            f"forget.indices is {str(path)!r}, but {reason}, and a .npy file of integers was expected; {fix}."
        ) from error
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise InputError(
            f"{path} has dtype {indices.dtype} and shape {indices.shape}, but expected a list of integers; "
            f"{fix}."
        )
    if not 0 < len(indices) < n_train:
        raise InputError(
            f"{path} holds {len(indices)} positions, but expected between 1 and {n_train - 1} of the "
            f"{n_train} training examples; delete fewer, or at least one."
        )
    if int(indices.min()) < 0 or int(indices.max()) >= n_train:
        raise InputError(
            f"{path} holds positions {indices.min()}..{indices.max()}, but expected 0..{n_train - 1}, "
            "positions in the training set; remove the others."
        )
    unique = np.unique(indices).astype(np.int64)
    if len(unique) != len(indices):
        raise InputError(
            f"{path} holds {len(indices) - len(unique)} repeats, but expected each position once; save "
            "np.unique of it."
        )
    return unique
