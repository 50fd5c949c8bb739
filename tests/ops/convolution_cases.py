"""The shapes that convolutions are compared on, and the exact convolution that judges them."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mu_jax.ops import conv, layout_of

QUICK = {"xla_backend_optimization_level": 0}
"""What is compiled runs once, so halve the compilation instead; the random shapes below are fully optimised."""

BATCH = 2
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}
"""Relative, in norm."""


class Shape(NamedTuple):
    side: int
    depth: int
    features: int
    size: int
    stride: int
    padding: int


# What ResNet-18 and the CNN of width 4 ask for, RGB at 32×32 and gray at 8×8.
SHAPES_32 = (
    Shape(32, 3, 4, 3, 1, 1), Shape(32, 4, 4, 3, 1, 1), Shape(32, 4, 8, 3, 1, 1),
    Shape(32, 4, 8, 3, 2, 1), Shape(32, 4, 8, 1, 2, 0), Shape(16, 8, 8, 3, 1, 1),
    Shape(16, 8, 16, 3, 2, 1), Shape(16, 8, 16, 1, 2, 0), Shape(8, 16, 16, 3, 1, 1),
    Shape(8, 16, 32, 3, 2, 1), Shape(8, 16, 32, 1, 2, 0), Shape(4, 32, 32, 3, 1, 1),
)  # fmt: skip
SHAPES_8 = (
    Shape(8, 1, 4, 3, 1, 1), Shape(8, 4, 4, 3, 1, 1), Shape(8, 4, 8, 3, 1, 1),
    Shape(8, 4, 8, 3, 2, 1), Shape(8, 4, 8, 1, 2, 0), Shape(4, 8, 8, 3, 1, 1),
    Shape(4, 8, 16, 3, 2, 1), Shape(4, 8, 16, 1, 2, 0), Shape(2, 16, 16, 3, 1, 1),
    Shape(2, 16, 32, 3, 2, 1), Shape(2, 16, 32, 1, 2, 0), Shape(1, 32, 32, 3, 1, 1),
)  # fmt: skip
MODEL_SHAPES = (*SHAPES_32, *SHAPES_8)
# Odd sides, no padding and two, and strides that leave a rest.
ODD_SHAPES = (
    Shape(7, 2, 3, 1, 1, 0), Shape(7, 4, 5, 3, 1, 1), Shape(7, 4, 5, 3, 2, 1), Shape(9, 3, 4, 1, 2, 0),
    Shape(6, 2, 3, 3, 1, 0), Shape(11, 3, 2, 3, 1, 2), Shape(5, 2, 3, 3, 2, 2), Shape(3, 5, 7, 3, 1, 0),
)  # fmt: skip

F4, F2 = Shape(8, 3, 5, 3, 1, 1), Shape(4, 3, 6, 3, 1, 1)
ENTRY, SHORTCUT, PIXEL = Shape(8, 4, 6, 3, 2, 1), Shape(8, 4, 6, 1, 2, 0), Shape(1, 3, 4, 3, 1, 1)
MATRIX_LOWERINGS = ("patches", "winograd")
CASES = [
    *itertools.product(MATRIX_LOWERINGS, (F4, F2)),
    *itertools.product(["patches"], (ENTRY, SHORTCUT, PIXEL)),
    *itertools.product(["xla"], (F4, ENTRY)),
]
MATRIX_CASES = [case for case in CASES if case[0] != "xla"]


def uses_winograd(shape):
    return shape.size == 3 and shape.stride == 1 and shape.side > 1


def ours(lowering, stride, padding):
    """`conv` with its layout at the edges, so that all lowerings take and give [B,H,W,D]."""
    layout = layout_of(lowering)

    def function(x, kernel):
        y = conv(layout.arrange(x), kernel, stride=stride, padding=padding, lowering=lowering)
        return layout.restore(y)

    return function


def reference(stride, padding):
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def derivatives(function):
    """The value, and the gradients that a cotangent gives."""

    def run(x, kernel, cotangent):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(cotangent)

    return run


def quick(function):
    return jax.jit(function, compiler_options=QUICK)


@functools.cache
def exact_derivatives(stride, padding):
    return quick(derivatives(reference(stride, padding)))


def make(shape, dtype="float32", models=(), seed=0):
    """Images, a kernel and a cotangent, each for all `models`."""
    rng = np.random.default_rng(seed)
    side = (shape.side + 2 * shape.padding - shape.size) // shape.stride + 1
    shapes = (
        (BATCH, shape.side, shape.side, shape.depth),
        (shape.size, shape.size, shape.depth, shape.features),
        (BATCH, side, side, shape.features),
    )
    return tuple(jnp.asarray(rng.normal(size=(*models, *one)), dtype) for one in shapes)


def assert_near(got, wanted, tolerance=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def stacked(results):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
