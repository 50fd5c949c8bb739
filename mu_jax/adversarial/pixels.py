"""A classifier as an attack sees it: a function of pixels in [0, 1], with the normalisation inside."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32, Shaped, UInt8

from mu_jax.config import InputError
from mu_jax.data.augmentation import normalize
from mu_jax.models import Model

PyTree = Any

LEVELS = 255
"""Steps between black and white of an 8-bit image."""


@dataclasses.dataclass(frozen=True)
class PixelModel:
    """A model with the constants of its normalisation; equal ones share their compiled programs.

    Build `model` to compute in float32: an attack ends on the decision boundary, where bfloat16 moves labels.
    """

    model: Model
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model: Model, data: Any) -> "PixelModel":
        """From a config of data, which has `mean` and `std`."""
        return cls(model, tuple(data.mean), tuple(data.std))

    def logits(self, variables: PyTree, pixels: Float32[Array, "B H W D"]) -> Float32[Array, "B C"]:
        """z((x − mean) / std), batch-norm in eval mode, matrix products at the highest precision."""
        normalized = (pixels - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        with jax.default_matmul_precision("highest"):
            return self.model.apply(variables, normalized, train=False)[0]


def to_pixels(images: Shaped[np.ndarray, "N H W D"]) -> Float32[np.ndarray, "N H W D"]:
    """Pixels in [0, 1]: bytes divided by 255, floats as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(LEVELS)
    return images.astype(np.float32)


def to_bytes(pixels: Shaped[np.ndarray, "N H W D"]) -> UInt8[np.ndarray, "N H W D"]:
    """The nearest 8-bit images."""
    return np.round(pixels * np.float32(LEVELS)).astype(np.uint8)


def predict(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[Array | np.ndarray, "N H W D"],
    *,
    batch_size: int = 128,
) -> Int32[np.ndarray, "N"]:
    """The class that the model gives each image (uint8, or floats in [0, 1]); one program whatever N."""
    images = check_images(images)
    program = _make_predict(attacked)
    found = np.empty(len(images), np.int32)
    for first in range(0, len(images), batch_size):
        block = images[first : first + batch_size]
        rows = np.minimum(np.arange(batch_size), len(block) - 1)
        found[first : first + batch_size] = program(variables, block[rows])[: len(block)]
    return found


@functools.cache
def _make_predict(attacked: PixelModel) -> Callable[..., Array]:
    @jax.jit
    def program(variables: PyTree, images: Shaped[Array | np.ndarray, "B H W D"]) -> Int32[Array, "B"]:
        if images.dtype == jnp.uint8:
            # What training and queries do with bytes, to the bit.
            with jax.default_matmul_precision("highest"):
                normalized = normalize(jnp.asarray(images), attacked.mean, attacked.std)
                logits = attacked.model.apply(variables, normalized, train=False)[0]
        else:
            logits = attacked.logits(variables, jnp.asarray(images))
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return program


def check_images(images: Shaped[Array | np.ndarray, "..."]) -> Shaped[np.ndarray, "N H W D"]:
    """The images on the host; InputError unless they are [N≥1,H,W,D], uint8 or finite floats in [0, 1]."""
    images = np.asarray(images)
    if images.ndim != 4 or len(images) == 0:
        raise InputError(
            f"The images have shape {images.shape}, but expected (N, height, width, channels) with N at least 1; "
            "reshape them or choose some."
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"The images are {images.dtype}, but expected uint8, or floats in [0, 1]; convert them first."
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"The images lie in [{images.min():g}, {images.max():g}], but an attack works on pixels in [0, 1]; pass "
            "them as they are before normalisation."
        )
    return images.astype(np.float32)


def check_labels(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[np.ndarray, "N H W D"],
    labels: Int[Array | np.ndarray, "..."],
) -> Int32[np.ndarray, "N"]:
    """The labels as int32; InputError unless there is one for each image, among the model's classes."""
    labels = np.asarray(labels)
    if labels.shape != (len(images),):
        raise InputError(
            f"The labels have shape {labels.shape}, but there are {len(images)} images; give one label for each."
        )
    one_image = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    classes = jax.eval_shape(attacked.logits, variables, one_image).shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"The labels go from {labels.min()} to {labels.max()}, but the model has the classes 0 to {classes - 1}; "
            "use labels of the same data."
        )
    return labels.astype(np.int32)
