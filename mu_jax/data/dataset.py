"""The one form in which every source hands over its images, or the rows of its table."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True, eq=False)  # == on arrays has no single truth value: compare fingerprints
class Dataset:
    """Labelled images or rows of a table, training and test examples apart.

    Pixels are uint8 in [0, 255], channels last. A table's rows are float32 [N, 1, 1, F], finite: images of one pixel
    with a channel a column, so that all that takes images by index takes them too. Labels are int32 in [0, C).
    Anything else is an InputError.
    """

    name: str
    """What tables print, such as "digits (scikit-learn)"."""
    # Plain arrays to the type checker, because __post_init__ checks them in every run, and says more.
    x_train: np.ndarray
    """uint8 [N, H, W, D], or float32 [N, 1, 1, F]"""
    y_train: np.ndarray
    """int32 [N]"""
    x_test: np.ndarray
    """uint8 [M, H, W, D], or float32 [M, 1, 1, F]"""
    y_test: np.ndarray
    """int32 [M]"""
    class_names: tuple[str, ...]
    """C names, by label."""

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            self._check_images(f"x_{split}", getattr(self, f"x_{split}"))
            self._check_labels(f"y_{split}", getattr(self, f"y_{split}"), len(getattr(self, f"x_{split}")))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(
                f"{self.name}: x_train holds images of shape {self.x_train.shape[1:]} and x_test of shape "
                f"{self.x_test.shape[1:]}, but expected one shape; resize one of them."
            )
        if self.x_train.dtype != self.x_test.dtype:
            raise InputError(
                f"{self.name}: x_train has dtype {self.x_train.dtype} and x_test {self.x_test.dtype}, but expected "
                "images in both, or rows of a table; convert one of them."
            )

    def _check_images(self, key: str, images: np.ndarray) -> None:
        got = f"{self.name}: {key} has dtype {images.dtype} and shape {images.shape}"
        is_table = images.dtype == np.float32 and images.ndim == 4 and images.shape[1:3] == (1, 1)
        if images.dtype != np.uint8 and not is_table:
            raise InputError(
                f"{got}, but expected uint8 pixels in 0..255, or a table's rows, float32 [rows, 1, 1, columns]; "
                "convert before saving (see README)."
            )
        if images.ndim != 4 or 0 in images.shape:
            raise InputError(
                f"{got}, but expected a non-empty [examples, height, width, channels]; reshape before saving."
            )
        if is_table and not (finite := np.isfinite(images)).all():
            row, _, _, column = np.argwhere(~finite)[0]
            raise InputError(
                f"{self.name}: {key} has {np.sum(~finite)} values that are not finite, the first in row {row} and "
                f"column {column}, but expected numbers alone; fill in or drop what is missing."
            )

    def _check_labels(self, key: str, labels: np.ndarray, examples: int) -> None:
        got = f"{self.name}: {key} has dtype {labels.dtype} and shape {labels.shape}"
        if labels.dtype != np.int32:
            raise InputError(f"{got}, but expected int32 class numbers; convert with .astype(np.int32).")
        if labels.shape != (examples,):
            raise InputError(
                f"{got}, but expected ({examples},), one label an image; drop what has no partner."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(
                f"{self.name}: {key} holds labels {low}..{high}, but expected 0..{self.num_classes - 1} for "
                f"{self.num_classes} classes; renumber the labels or name all classes."
            )

    @property
    def num_classes(self) -> int:
        """C, counting classes that have no example left."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, D); (1, 1, F) of a table."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def is_tabular(self) -> bool:
        """Whether the examples are rows of a table, not images."""
        return self.x_train.dtype == np.float32

    @property
    def images(self) -> UInt8[np.ndarray, "_ H W D"] | Float32[np.ndarray, "_ 1 1 D"]:
        """Training images, then test images: the index space of `Splits`; a copy of both."""
        return np.concatenate([self.x_train, self.x_test])

    @property
    def labels(self) -> Int32[np.ndarray, "_"]:
        """Labels of `images`."""
        return np.concatenate([self.y_train, self.y_test])

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the contents and shapes of all arrays and the number of classes.

        Neither a file's name nor its date enters: a changed file under the same path is noticed, and the same
        images under another path are recognised.
        """
        digest = hashlib.sha256(str(self.num_classes).encode())
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
