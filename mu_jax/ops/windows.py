"""Slicing and shifting along one axis, and the taps of a kernel that can meet an image at all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Span(NamedTuple):
    """Along one axis, the taps [first, last) of a kernel that meet at least one pixel, and the geometry left."""

    first: int
    last: int
    before: int
    """Zeros that the first of these taps sees before the image"""
    outputs: int

    @property
    def taps(self) -> int:
        """How many there are."""
        return self.last - self.first


def touching_taps(size: int, taps: int, stride: int, padding: int) -> Span:
    """The taps that are not always over the padding.

    A 3×3 kernel on a 1×1 image is its middle tap, and one of stride 2 on 2×2 its last 2×2 taps: what late stages on
    small images come to.
    """
    outputs = (size + 2 * padding - taps) // stride + 1

    def touches(tap: int) -> bool:
        return any(0 <= stride * i + tap - padding < size for i in range(outputs))

    # All, where a wide padding and stride miss the image altogether.
    touching = [tap for tap in range(taps) if touches(tap)] or range(taps)
    first, last = touching[0], touching[-1] + 1
    return Span(first, last, padding - first, outputs)


def take(x: jax.Array, axis: int, start: int, count: int, stride: int = 1) -> jax.Array:
    """`count` entries from `start` on, `stride` apart, along `axis` (negative: from the end)."""
    return lax.slice_in_dim(x, start, start + stride * (count - 1) + 1, stride, axis=x.ndim + axis)


def pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Zeros before and after along `axis`; negative numbers cut."""
    if before == after == 0:
        return x
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def shift(x: jax.Array, axis: int, by: int, count: int) -> jax.Array:
    """y of length `count` with y[t] = x[t + by], zero where x has no such entry."""
    return pad(x, axis, -by, count + by - x.shape[axis])
