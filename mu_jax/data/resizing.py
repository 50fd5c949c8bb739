"""Images of any size brought to one."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from mu_jax.config import InputError


def resize(image: UInt8[np.ndarray, "H W D"], side: int) -> UInt8[np.ndarray, "_ _ D"]:
    """The image stretched to `side` × `side` pixels, bilinear with a support that widens when it shrinks (so
    no aliasing); unchanged where it has that size already or `side` is 0."""
    if side == 0 or image.shape[:2] == (side, side):
        return image
    from PIL import Image

    gray = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if gray else image)
    resized = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    return resized[..., None] if gray else resized


def stack(images: Iterable[np.ndarray], names: list[str]) -> UInt8[np.ndarray, "N H W D"]:
    """The images in one array; InputError, naming the first that differs, where they have several shapes.

    Filled one by one, so that the images never stand in memory twice.
    """
    out = np.empty((0, 0, 0, 0), np.uint8)
    for i, image in enumerate(images):
        if i == 0:
            out = np.empty((len(names), *image.shape), np.uint8)
        if image.shape != out.shape[1:]:
            raise InputError(
                f"{names[i]} has shape {image.shape} and {names[0]} has {out.shape[1:]}, but expected one "
                "shape; set --config.data.image_size to the side in pixels that all are resized to."
            )
        out[i] = image
    return out
