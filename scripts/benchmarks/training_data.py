"""Images that a benchmark trains on first, as both sides read them, and where its trained model is kept."""

import hashlib
import pathlib

import numpy as np

from mu_jax.config import DataConfig, InputError
from mu_jax.data import Dataset, load_dataset

_SEED = 0
# Raised by hand when the recipe of the benchmarks' own training changes.
_RECIPE = 1


def load_training_images(source: str | None, examples: int, at_least: int) -> tuple[Dataset, bool]:
    """The first `examples` training images of a source (all where it has fewer), and whether they are synthetic.

    None is a synthetic source of as many images of 32×32×3. InputError where there are fewer than `at_least`.
    """
    made_up = f"synthetic:32,32,3,10,{examples},1"
    source = made_up if source is None else source
    dataset = load_dataset(DataConfig(source=source), _SEED)
    if len(dataset.y_train) < at_least:
        raise InputError(
            f"--data is {source!r}, with {len(dataset.y_train)} training images, but expected at least {at_least}; "
            "give another source, or ask for fewer examples."
        )
    # Where a source has its test images means nothing here: one is kept for form's sake.
    first = Dataset(
        dataset.name,
        dataset.x_train[:examples],
        dataset.y_train[:examples],
        dataset.x_test[:1],
        dataset.y_test[:1],
        dataset.class_names,
    )
    return first, source.startswith("synthetic")


def write_images(path: pathlib.Path, dataset: Dataset) -> None:
    """The file that a case names."""
    np.savez(
        path,
        x_train=dataset.x_train,
        y_train=dataset.y_train,
        x_test=dataset.x_test,
        y_test=dataset.y_test,
        class_names=np.array(dataset.class_names),
    )


def weights_path(folder: pathlib.Path, dataset: Dataset, width: int, epochs: float) -> pathlib.Path:
    """Where a folder keeps the model of this width that learned these images for so many epochs."""
    digest = hashlib.sha256(f"{_RECIPE} {width} {epochs!r} {dataset.x_train.shape}".encode())
    digest.update(np.ascontiguousarray(dataset.x_train).tobytes())
    digest.update(np.ascontiguousarray(dataset.y_train).tobytes())
    return folder / f"resnet18_w{width}_e{epochs:g}_{digest.hexdigest()[:12]}.npz"
