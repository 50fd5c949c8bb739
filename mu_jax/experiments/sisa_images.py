"""Which images an ensemble was fitted on, as hashes: of a deleted image not even its hash stays."""

import pathlib

import numpy as np
from jaxtyping import Int64, UInt8

from mu_jax.config import InputError
from mu_jax.data.array_files import read_array
from mu_jax.data.files import UNREADABLE, atomic_write

_NAME = "images.sha256.npy"


def note_images(
    folder: pathlib.Path, digests: UInt8[np.ndarray, "M 32"], kept: Int64[np.ndarray, "n"]
) -> None:
    """Write the hashes of the images that the ensemble keeps, and zeros for all others."""
    known = np.zeros_like(digests)
    known[kept] = digests[kept]
    with atomic_write(folder / _NAME) as file:
        np.save(file, known)


def check_images(
    folder: pathlib.Path, digests: UInt8[np.ndarray, "M 32"], kept: Int64[np.ndarray, "n"]
) -> None:
    """InputError where an image that is kept is not what it was; deleted ones may be anything.

    Without a file there is nothing to compare with, and it is written.
    """
    path = folder / _NAME
    if not path.exists():
        note_images(folder, digests, kept)
        return
    try:
        known = read_array(path)
        if known.dtype != np.uint8 or known.shape != digests.shape:
            raise ValueError(
                f"it holds {known.dtype}{list(known.shape)}, but expected uint8{list(digests.shape)}"
            )
        same = (known[kept] == digests[kept]).all(axis=1)
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); restore it: it says what the ensemble was fitted on."
        ) from None
    if not same.all():
        raise InputError(
            f"Training image {kept[~same][0]} or its label is not what the ensemble in {folder} was fitted on "
            f"({np.count_nonzero(~same)} of {len(kept)} differ); restore the data, or fit another --workdir."
        )
