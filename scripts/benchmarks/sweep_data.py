"""The data of a sweep, as both sides read it."""

import pathlib

import numpy as np

from benchmarks.sweep_case import EXAMPLES, IMAGE_SHAPES, SweepCase
from mu_jax.config import DataConfig, InputError
from mu_jax.data import Dataset, load_dataset
from mu_jax.data.membership import draw_membership

_SEED = 0


def load_images(data: str, cifar: str | None) -> tuple[Dataset, bool]:
    """The data of a case, and whether its images are synthetic; `cifar` is the source that replaces those.

    Of a source of `cifar` the first images are taken, training images before test images. InputError where they are
    too few, or of another shape.
    """
    if data == "digits":
        return load_dataset(DataConfig(source="digits"), _SEED), False
    height, width, channels = IMAGE_SHAPES[data]
    made_up = f"synthetic:{height},{width},{channels},10,{EXAMPLES},1"
    source = made_up if cifar is None else cifar
    dataset = load_dataset(DataConfig(source=source), _SEED)
    images, labels = dataset.images, dataset.labels
    if dataset.image_shape != IMAGE_SHAPES[data] or len(labels) < EXAMPLES:
        got = "×".join(map(str, dataset.image_shape))
        raise InputError(
            f"--cifar is {cifar!r}, with {len(labels)} images of {got}, but expected at least {EXAMPLES} of "
            f"{height}×{width}×{channels}; give another source."
        )
    # Where training images end means nothing to a sweep whose candidates are all of them.
    half = EXAMPLES // 2
    first = Dataset(
        dataset.name,
        images[:half],
        labels[:half],
        images[half:EXAMPLES],
        labels[half:EXAMPLES],
        dataset.class_names,
    )
    return first, source.startswith("synthetic")


def write_case(path: pathlib.Path, case: SweepCase, dataset: Dataset) -> None:
    """The file that `SweepCase.file` names: the images, and which of them each model trains on."""
    # One model alone is the first of a pair: a draw is of exact halves.
    member = draw_membership("half", [max(case.models, 2)], len(dataset.labels), _SEED)[: case.models]
    np.savez(
        path,
        x_train=dataset.x_train,
        y_train=dataset.y_train,
        x_test=dataset.x_test,
        y_test=dataset.y_test,
        class_names=np.array(dataset.class_names),
        member=member,
    )
