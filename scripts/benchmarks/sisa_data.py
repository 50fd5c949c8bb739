"""The data of a SISA benchmark, as both sides read it, and which examples are deleted."""

import pathlib

import numpy as np
from jaxtyping import Int64

from benchmarks.sisa_case import SisaCase
from mu_jax.data import Dataset
from mu_jax.unlearning.sisa.sharding import uniform_sharding

SEED = 0


def write_case(path: pathlib.Path, case: SisaCase, dataset: Dataset) -> None:
    """The file that `SisaCase.file` names: all images, dealt to the case's shards and slices."""
    images, labels = dataset.images, dataset.labels
    sharding = uniform_sharding(np.arange(len(labels)), case.shards, case.slices, SEED)
    np.savez(
        path,
        x_train=images,
        y_train=labels,
        x_test=images[:1],
        y_test=labels[:1],
        class_names=np.array(dataset.class_names),
        positions=np.concatenate([part for shard in sharding.slices for part in shard]),
        sizes=sharding.sizes,
        order=deletion_order(len(labels)),
    )


def deletion_order(examples: int) -> Int64[np.ndarray, "N"]:
    """Positions in the order in which they are deleted: every run of the benchmark deletes the same ones."""
    return np.random.default_rng(SEED).permutation(examples)
