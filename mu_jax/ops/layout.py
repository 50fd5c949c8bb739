"""The two orders of an image batch's axes, and all that a network must know of them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Layout(NamedTuple):
    """Where a batch of images keeps its batch and its channels; the two axes between are height and width."""

    batch: int
    channels: int

    def arrange(self, images: Float[Array, "B H W D"]) -> Float[Array, "_ H W _"]:
        """Images into this layout."""
        return images if self == CHANNELS_LAST else jnp.transpose(images, (3, 1, 2, 0))

    def restore(self, x: Float[Array, "_ H W _"]) -> Float[Array, "B H W D"]:
        """Back to [B,H,W,D]."""
        return x if self == CHANNELS_LAST else jnp.transpose(x, (3, 1, 2, 0))

    def spread(self, channels: Float[Array, "D"]) -> Float[Array, "D ..."]:
        """One number a channel, in a shape that broadcasts against a batch."""
        return channels if self == CHANNELS_LAST else channels[:, None, None, None]

    def mean_over_pixels(self, x: Float[Array, "_ H W _"]) -> Float[Array, "B D"]:
        """The mean over height and width, in float32."""
        mean = jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
        return mean if self == CHANNELS_LAST else mean.T


CHANNELS_LAST = Layout(batch=0, channels=3)
"""[B,H,W,D], which XLA's convolutions like on GPU and TPU."""

BATCH_LAST = Layout(batch=3, channels=0)
"""[D,H,W,B]: windows are copied in long runs, and a product over channels has all pixels of a batch as columns."""
