"""Convolution as one matrix product: the kernel times every window that it sees."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mu_jax.ops.linear_map import LinearMap
from mu_jax.ops.windows import Span, take


@functools.cache
def window_map(height: int, width: int, rows: Span, columns: Span, stride: int) -> LinearMap:
    """x[..., D,H,W,B] ↦ windows[..., taps·D, Ho,Wo,B], those of a tap together, taps in the kernel's order."""
    taps = [(u, v) for u in range(rows.taps) for v in range(columns.taps)]

    def edges(span: Span, size: int) -> tuple[int, int]:
        return span.before, stride * (span.outputs - 1) + span.taps - span.before - size

    def forward(x: jax.Array) -> jax.Array:
        widths = [(0, 0, 0)] * (x.ndim - 3) + [
            (*edges(rows, height), 0),
            (*edges(columns, width), 0),
            (0, 0, 0),
        ]
        x = lax.pad(x, jnp.zeros((), x.dtype), widths)
        windows = [
            take(take(x, -3, u, rows.outputs, stride), -2, v, columns.outputs, stride) for u, v in taps
        ]
        return jnp.concatenate(windows, axis=-4)

    def back(span: Span, size: int, tap: int) -> tuple[int, int, int]:
        before = tap - span.before
        return before, size - before - stride * (span.outputs - 1) - 1, stride - 1

    def transposed(windows: jax.Array) -> jax.Array:
        depth = windows.shape[-4] // len(taps)
        total = None
        for i, (u, v) in enumerate(taps):
            part = take(windows, -4, i * depth, depth)
            widths = [(0, 0, 0)] * (part.ndim - 3) + [
                back(rows, height, u),
                back(columns, width, v),
                (0, 0, 0),
            ]
            part = lax.pad(part, jnp.zeros((), part.dtype), widths)
            total = part if total is None else total + part
        return total

    return LinearMap(forward, transposed)


def conv_by_patches(
    x: Float[Array, "D H W B"], kernel: Float[Array, "h w D E"], rows: Span, columns: Span, stride: int
) -> Float[Array, "E Ho Wo B"]:
    """The convolution of the taps that `rows` and `columns` leave of the kernel."""
    depth, height, width, batch = x.shape
    kernel = kernel[rows.first : rows.last, columns.first : columns.last]
    if (rows.taps, rows.outputs, columns.taps, columns.outputs, stride) != (1, height, 1, width, 1):
        x = window_map(height, width, rows, columns, stride)(x)
    matrix = kernel.reshape(rows.taps * columns.taps * depth, kernel.shape[-1])
    y = matrix.T @ x.reshape(matrix.shape[0], -1)
    return y.reshape(kernel.shape[-1], rows.outputs, columns.outputs, batch)
