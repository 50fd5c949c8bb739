"""The one form in which every source hands over its images."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Int32, UInt8

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True, eq=False)  # == on arrays has no single truth value: compare fingerprints
class Dataset:
    """Labelled images, training and test examples apart.

    Pixels are uint8 in [0, 255], channels last; labels are int32 in [0, C). Anything else is an InputError.
    """

    name: str
    """What tables print, such as "digits (scikit-learn)"."""
    # Plain arrays to the type checker, because __post_init__ checks them in every run, and says more.
    x_train: np.ndarray
    """uint8 [N, H, W, D]"""
    y_train: np.ndarray
    """int32 [N]"""
    x_test: np.ndarray
    """uint8 [M, H, W, D]"""
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

    def _check_images(self, key: str, images: np.ndarray) -> None:
        got = f"{self.name}: {key} has dtype {images.dtype} and shape {images.shape}"
        if images.dtype != np.uint8:
            raise InputError(
                f"{got}, but expected uint8 pixels in 0..255; convert before saving (see README)."
            )
        if images.ndim != 4 or 0 in images.shape:
            raise InputError(
                f"{got}, but expected a non-empty [examples, height, width, channels]; reshape before saving."
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
        """(H, W, D)."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def images(self) -> UInt8[np.ndarray, "_ H W D"]:
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
