import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.ops.windows import Span, pad, shift, take, touching_taps

GEOMETRIES = [
    (size, taps, stride, padding)
    for size, taps, stride, padding in itertools.product(range(1, 9), range(1, 6), range(1, 4), range(4))
    if size + 2 * padding >= taps
]


def test_touching_taps_by_hand():
    # A 3×3 kernel on one pixel is its middle tap; of stride 2 on two pixels, its last two.
    assert touching_taps(1, 3, 1, 1) == Span(first=1, last=2, before=0, outputs=1)
    assert touching_taps(2, 3, 2, 1) == Span(first=1, last=3, before=0, outputs=1)
    assert touching_taps(8, 3, 1, 1) == Span(first=0, last=3, before=1, outputs=8)
    assert touching_taps(8, 3, 1, 1).taps == 3
    # Every second place of a pixel between three zeros each: a zero, so all taps stay.
    assert touching_taps(1, 1, 2, 3) == Span(first=0, last=1, before=3, outputs=4)


def test_touching_taps_by_brute_force():
    missed = 0
    for size, taps, stride, padding in GEOMETRIES:
        is_pixel = np.pad(np.ones(size, bool), padding)
        windows = np.lib.stride_tricks.sliding_window_view(is_pixel, taps)[::stride]
        (touching,) = np.nonzero(windows.any(axis=0))
        span = touching_taps(size, taps, stride, padding)
        assert span.outputs == len(windows)
        if len(touching):
            assert (span.first, span.last) == (touching[0], touching[-1] + 1)
        else:
            missed += 1
            assert (span.first, span.last) == (0, taps)
        # What is left of the kernel sees the same numbers at the same places.
        pixels = np.arange(1.0, size + 1)
        after = stride * (span.outputs - 1) + span.taps - span.before - size
        left = np.pad(pixels, (max(span.before, 0), max(after, 0)))[max(-span.before, 0) :]
        left = np.lib.stride_tricks.sliding_window_view(left, span.taps)[::stride][: span.outputs]
        whole = np.lib.stride_tricks.sliding_window_view(np.pad(pixels, padding), taps)[::stride]
        np.testing.assert_array_equal(left, whole[:, span.first : span.last])
    assert missed > 0


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("start, count, stride", [(0, 6, 1), (2, 3, 1), (0, 3, 2), (1, 2, 3), (5, 1, 4)])
def test_take_is_a_strided_slice(axis, start, count, stride):
    x = np.arange(36.0).reshape(6, 6)
    wanted = np.take(x, start + stride * np.arange(count), axis)
    np.testing.assert_array_equal(take(jnp.asarray(x), axis, start, count, stride), wanted)


def test_pad_adds_zeros_and_cuts():
    x = jnp.array([[1.0, 2.0, 3.0]])
    assert pad(x, 1, 0, 0) is x
    np.testing.assert_array_equal(pad(x, 1, 2, 1), [[0, 0, 1, 2, 3, 0]])
    np.testing.assert_array_equal(pad(x, 1, -1, 1), [[2, 3, 0]])
    np.testing.assert_array_equal(pad(x, 0, 1, 0), [[0, 0, 0], [1, 2, 3]])


def test_shift_by_its_definition():
    x = np.arange(1.0, 5.0)
    for by, count in itertools.product((-5, -1, 0, 2, 5), (1, 4, 6)):
        wanted = [x[t + by] if 0 <= t + by < len(x) else 0.0 for t in range(count)]
        np.testing.assert_array_equal(shift(jnp.asarray(x), 0, by, count), wanted)
