"""Arrays that somebody hands over in Python, in the form that everything here takes."""

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.dataset import Dataset


def as_dataset(images: np.ndarray, labels: np.ndarray, num_classes: int | None) -> Dataset:
    """The arrays as training examples (and as test examples, because a Dataset has both); InputError where they are
    none.
    """
    images, labels = with_channels(images), np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0 or int(labels.min()) < 0:
        raise InputError(
            f"labels has dtype {labels.dtype} and shape {labels.shape}, but expected [N] whole numbers from 0, one an "
            "image; convert them."
        )
    if num_classes is None and labels.max() >= 10 * len(labels):
        raise InputError(
            f"labels holds {labels.max()} with {len(labels)} examples, but expected classes numbered from 0; renumber "
            "them."
        )
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.max() >= 2**31:
        raise InputError(
            f"labels holds {labels.max()}, but expected numbers below 2³¹; renumber the classes."
        )
    labels = labels.astype(np.int32)
    names = tuple(map(str, range(classes)))
    return Dataset("arrays", images, labels, images, labels, names)


def with_channels(images: np.ndarray) -> np.ndarray:
    """Images [N,H,W,D] as they are, and gray ones [N,H,W] with an axis for their channel."""
    images = np.asarray(images)
    return images[..., None] if images.ndim == 3 else images


def as_positions(rows: np.ndarray, number: int, what: str) -> np.ndarray:
    """Sorted int64 positions; InputError unless they are distinct, in [0, number), and some."""
    rows = np.asarray(rows)
    if rows.dtype == bool or rows.dtype.kind not in "iu" or rows.ndim != 1 or len(rows) == 0:
        raise InputError(
            f"{what} has dtype {rows.dtype} and shape {rows.shape}, but expected a list of positions; give "
            "np.flatnonzero(mask), say."
        )
    if int(rows.min()) < 0 or int(rows.max()) >= number or len(np.unique(rows)) != len(rows):
        raise InputError(
            f"{what} holds positions {rows.min()}..{rows.max()}, {len(rows) - len(np.unique(rows))} of them twice, but "
            f"expected distinct ones in 0..{number - 1}; correct them."
        )
    return np.sort(rows).astype(np.int64)
