"""From a source string to the dataset that an experiment sees."""

import dataclasses
import difflib
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32, Int64

from mu_jax.config import DataConfig, InputError
from mu_jax.data import (
    cifar_binary,
    csv_table,
    digits,
    embedded_tables,
    image_folder,
    npz,
    synthetic,
    tfds_source,
)
from mu_jax.data.dataset import Dataset
from mu_jax.data.random_streams import host_stream

_FORMS = {
    "digits": "digits",
    "npz": "npz:FILE",
    "csv": "csv:FILE",
    "cifar": "cifar:FOLDER",
    "folder": "folder:PATH",
    "tfds": "tfds:NAME",
    "synthetic": "synthetic:H,W,D,CLASSES,TRAIN,TEST",
    **{name: name for name in embedded_tables.TABLES},
}
_WITHOUT_ARGUMENT = ("digits", *embedded_tables.TABLES)
_RESIZING = ("folder", "tfds")


def load_dataset(config: DataConfig, seed: int) -> Dataset:
    """The dataset of `config.source`, cut to the classes and examples asked for, with label noise where asked for.

    Subsets and noise, and the test set of a `csv`, are drawn by `seed`, from one stream a purpose, so that asking
    for fewer test examples leaves the choice of training examples as it was. Raises InputError for a source that
    is unknown, has no argument or cannot be read, and when more examples are asked for than there are.
    """
    dataset = _of_classes(_load(config, seed), config.classes)
    return _with_label_noise(_subset(dataset, config, seed), config.label_noise, seed)


def _load(config: DataConfig, seed: int) -> Dataset:
    kind, _, argument = config.source.partition(":")
    if kind not in _FORMS:
        close = difflib.get_close_matches(kind.lower(), _FORMS, n=1)
        hint = f"did you mean {_FORMS[close[0]]!r}?" if close else "set --config.data.source to one of those."
        raise InputError(
            f"data.source is {config.source!r}, but expected one of {', '.join(_FORMS.values())}; {hint}"
        )
    if kind in _WITHOUT_ARGUMENT and argument:
        raise InputError(f"data.source is {config.source!r}, but {kind} takes no argument; write {kind!r}.")
    if kind not in _WITHOUT_ARGUMENT and not argument:
        raise InputError(
            f"data.source is {config.source!r}, but expected an argument after the colon; write it as "
            f"{_FORMS[kind]!r}."
        )
    if config.image_size and kind not in _RESIZING:
        raise InputError(
            f"data.image_size is {config.image_size}, but {kind!r} images keep their own size; set "
            "--config.data.image_size=0."
        )
    if config.label != DataConfig.label and kind != "csv":
        raise InputError(
            f"data.label is {config.label!r}, but {kind!r} has no columns to choose from; leave --config.data.label as "
            "it is."
        )
    loaders: dict[str, Callable[[], Dataset]] = {
        "digits": digits.load,
        "npz": lambda: npz.load(argument),
        "csv": lambda: csv_table.load(argument, config.label, seed),
        "cifar": lambda: cifar_binary.load(argument),
        "folder": lambda: image_folder.load(argument, config.image_size),
        "tfds": lambda: tfds_source.load(argument, config.image_size),
        "synthetic": lambda: synthetic.load(argument, seed),
        **{name: functools.partial(embedded_tables.load, name) for name in embedded_tables.TABLES},
    }
    return loaders[kind]()


def _of_classes(dataset: Dataset, classes: tuple[int, ...]) -> Dataset:
    if not classes:
        return dataset
    if min(classes) < 0 or max(classes) >= dataset.num_classes:
        raise InputError(
            f"data.classes is {classes}, but {dataset.name} has the classes 0..{dataset.num_classes - 1}; change it "
            "with --config.data.classes=VALUE."
        )
    number = np.full(dataset.num_classes, -1, np.int32)
    number[list(classes)] = np.arange(len(classes))
    parts = {}
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"x_{part}"), number[getattr(dataset, f"y_{part}")]
        if not (labels >= 0).any():
            raise InputError(
                f"data.classes is {classes}, but {dataset.name} has no {part} example of them; name classes that are "
                "there."
            )
        parts |= {f"x_{part}": images[labels >= 0], f"y_{part}": labels[labels >= 0]}
    names = tuple(dataset.class_names[label] for label in classes)
    return dataclasses.replace(dataset, class_names=names, **parts)


def _subset(dataset: Dataset, config: DataConfig, seed: int) -> Dataset:
    train = _chosen(len(dataset.y_train), config.train_examples, "train", dataset.name, seed)
    test = _chosen(len(dataset.y_test), config.test_examples, "test", dataset.name, seed)
    changes: dict[str, np.ndarray] = {}
    if train is not None:
        changes.update(x_train=dataset.x_train[train], y_train=dataset.y_train[train])
    if test is not None:
        changes.update(x_test=dataset.x_test[test], y_test=dataset.y_test[test])
    return dataclasses.replace(dataset, **changes)


def _chosen(available: int, wanted: int, split: str, name: str, seed: int) -> Int64[np.ndarray, "n"] | None:
    if wanted > available:
        raise InputError(
            f"data.{split}_examples is {wanted}, but {name} has {available} {split} examples; ask for at "
            f"most {available}, or 0 for all."
        )
    if wanted in (0, available):
        return None
    chosen = host_stream(seed, f"{split} subset").choice(available, wanted, replace=False)
    return np.sort(chosen).astype(np.int64)


def _with_label_noise(dataset: Dataset, probability: float, seed: int) -> Dataset:
    # Test labels get the same noise: with clean ones, members and non-members would follow two
    # distributions, and an attack could tell them apart without any memory of the training set.
    if probability == 0:
        return dataset
    if dataset.num_classes < 2:
        raise InputError(
            f"data.label_noise is {probability}, but {dataset.name} has one class, so no label can become "
            "another; set --config.data.label_noise=0."
        )
    return dataclasses.replace(
        dataset,
        y_train=_noisy(dataset.y_train, probability, dataset.num_classes, host_stream(seed, "train noise")),
        y_test=_noisy(dataset.y_test, probability, dataset.num_classes, host_stream(seed, "test noise")),
    )


def _noisy(
    labels: Int32[np.ndarray, "N"], probability: float, classes: int, stream: np.random.Generator
) -> Int32[np.ndarray, "N"]:
    replaced = stream.random(len(labels)) < probability
    # A shift by 1..C-1 reaches every other class equally often, and never the class itself.
    shift = stream.integers(1, classes, len(labels))
    return np.where(replaced, (labels + shift) % classes, labels).astype(np.int32)
