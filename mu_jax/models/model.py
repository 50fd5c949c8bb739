"""The functional face of every network: a pair of pure functions, free of flax's own conventions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from mu_jax.config import InputError
from mu_jax.models.affine import AffineLayer, affine_layers, with_layer_inputs

Variables = Mapping[str, Any]
"""`{"params": ..., "batch_stats": ...}`, nested dicts of float32 arrays; `batch_stats` is `{}` without
batch-norm."""


def _no_inputs(variables: Variables, images: Array, *, train: bool) -> tuple[Array, Any, dict[str, Array]]:
    raise ValueError("This model does not say what its layers are given; make it by from_module.")


class Model(NamedTuple):
    """A network as two pure functions, for `jit`, `grad` and `vmap` alike (`vmap(init)(keys)` stacks K
    models).

    `init(key) -> variables` draws the weights. `apply(variables, images[B,H,W,D], *, train) -> (logits[B,C],
    batch_stats)` takes normalised float images and gives float32 logits; with `train=True` batch-norm uses
    the batch's own statistics and the running ones come back updated, with `train=False` they are used and
    come back as they were. `layers()` are its convolutions and dense layers, in the order of the call.
    `inputs`, called as `apply`, gives besides what each layer was given, by its name: `{name: [B,H,W,D] or
    [B,D]}`, in the layer's own precision.
    """

    init: Callable[[PRNGKeyArray], dict[str, Any]]
    apply: Callable[..., tuple[Array, Any]]
    layers: Callable[[], tuple[AffineLayer, ...]] = tuple
    inputs: Callable[..., tuple[Array, Any, dict[str, Array]]] = _no_inputs


def check_image_shape(image_shape: tuple[int, int, int], smallest: int, architecture: str) -> None:
    """Raises InputError unless `image_shape` is (H, W, D) with both sides at least `smallest` pixels."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(
            f"image_shape is {tuple(image_shape)}, but expected three positive numbers (height, width, "
            "channels); take it from the loaded images' own shape."
        )
    if min(image_shape[:2]) < smallest:
        raise InputError(
            f"The images are {image_shape[0]}×{image_shape[1]} pixels, but {architecture} needs at least "
            f"{smallest}×{smallest}; choose another --config.model.name or a larger --config.data.image_size."
        )


def from_module(module: nn.Module, image_shape: tuple[int, int, int]) -> Model:
    """The pure pair of a flax module that is called as `module(images, train=...)`."""

    # Initialising traces a forward pass only to learn the shapes; under jit the compiler throws it away.
    @jax.jit
    def init(key: PRNGKeyArray) -> dict[str, Any]:
        variables = module.init(key, jnp.zeros((1, *image_shape)), train=False)
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def apply(
        variables: Variables, images: Float[Array | np.ndarray, "B H W D"], *, train: bool
    ) -> tuple[Float32[Array, "B C"], Any]:
        _check_images(images, image_shape)
        images = jnp.asarray(images)
        if not train:
            return module.apply(variables, images, train=False), variables["batch_stats"]
        logits, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, updated.get("batch_stats", {})

    def inputs(
        variables: Variables, images: Float[Array | np.ndarray, "B H W D"], *, train: bool
    ) -> tuple[Float32[Array, "B C"], Any, dict[str, Array]]:
        (logits, batch_stats), found = with_layer_inputs(lambda: apply(variables, images, train=train))
        return logits, batch_stats, found

    # Only those who ask for the layers pay for the abstract call.
    return Model(init, apply, functools.cache(lambda: affine_layers(module, image_shape)), inputs)


def _check_images(images: Array | np.ndarray, image_shape: tuple[int, int, int]) -> None:
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(image_shape):
        raise InputError(
            f"The images have shape {tuple(images.shape)}, but this model was built for (batch, "
            f"{', '.join(map(str, image_shape))}); build it for the images at hand."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"The images are {images.dtype}, but a model expects normalised floats; divide bytes by 255 and "
            "normalise them first."
        )
