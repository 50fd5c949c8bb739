"""Winograd's matrices exactly, his transforms as linear maps, and what F(4×4) costs in precision."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.ops.linear_map import LinearMap
from mu_jax.ops.patches import window_map
from mu_jax.ops.windows import touching_taps
from mu_jax.ops.winograd import choose_tile, conv_by_winograd, input_map, matrices, output_map

QUICK = {"xla_backend_optimization_level": 0}
TILES = (2, 4)


def test_matrices_of_f_2_3_by_hand():
    # Points 0, 1, −1, ∞: for the first row of Bᵀ (x − 1)(x + 1) = x² − 1, for the first of G 1 / (0 − 1)(0 + 1).
    b_transposed, g, a_transposed = matrices(2)
    np.testing.assert_array_equal(b_transposed, [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
    np.testing.assert_array_equal(g, [[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    np.testing.assert_array_equal(a_transposed, [[1, 1, 1, 0], [0, 1, -1, 1]])


@pytest.mark.parametrize("tile", TILES)
def test_matrices_have_the_sizes_of_their_tile(tile):
    assert [matrix.shape for matrix in matrices(tile)] == [
        (tile + 2, tile + 2),
        (tile + 2, 3),
        (tile, tile + 2),
    ]
    assert {matrix.dtype for matrix in matrices(tile)} == {np.dtype("float64")}


@pytest.mark.parametrize("tile", TILES)
def test_the_filter_identity_holds_exactly(tile):
    # y = Aᵀ[(Gg) ⊙ (Bᵀd)] is Σ_k g_k d_{i+k} for all g and d, so the coefficient of g_k·d_l in y_i is 1 iff l = i + k.
    def exactly(number):
        fraction = Fraction(number).limit_denominator(10_000)
        assert float(fraction) == number
        return fraction

    b_transposed, g, a_transposed = ([[exactly(x) for x in row] for row in m] for m in matrices(tile))
    n = tile + 2
    for i, k, l in itertools.product(range(tile), range(3), range(n)):
        coefficient = sum(a_transposed[i][j] * g[j][k] * b_transposed[j][l] for j in range(n))
        assert coefficient == (l == i + k)


def test_a_map_is_made_once():
    # Programs are compared by the identity of their functions.
    assert input_map(4, 8, 7, 1) is input_map(4, 8, 7, 1)
    assert output_map(2, 8, 7) is output_map(2, 8, 7)
    spans = [touching_taps(8, 3, 2, 1) for _ in range(4)]
    assert window_map(8, 8, *spans[:2], 2) is window_map(8, 8, *spans[2:], 2)


def test_choose_tile():
    single, double, half = (jnp.dtype(name) for name in ("float32", "float64", "bfloat16"))
    # 2·2 tiles of 4×4 an image, and 8 images: 32.
    assert choose_tile((8, 8), 8, 32, single) == choose_tile((8, 8), 8, 32, double) == 4
    assert choose_tile((8, 8), 8, 33, single) == 2
    # Incomplete tiles count.
    assert choose_tile((5, 8), 8, 32, single) == choose_tile((8, 5), 8, 32, single) == 4
    assert choose_tile((4, 8), 8, 32, single) == 2
    assert choose_tile((32, 32), 64, 3, half) == 2


def adjoint_cases():
    for tile, (height, width) in itertools.product(TILES, [(8, 5), (7, 6), (3, 9)]):
        for padding in (0, 1, 2):
            yield f"input F({tile}) {height}x{width} p{padding}", input_map(tile, height, width, padding), (
                2, height, width, 3,
            )  # fmt: skip
        rows, columns = -(-height // tile), -(-width // tile)
        shape = (tile + 2, tile + 2, 2, rows, columns, 3)
        yield f"output F({tile}) {height}x{width}", output_map(tile, height, width), shape
    for (height, width), taps, stride, padding in [
        ((8, 8), 3, 1, 1), ((7, 6), 3, 2, 1), ((8, 5), 1, 2, 0), ((6, 7), 5, 1, 0), ((2, 9), 3, 3, 2)
    ]:  # fmt: skip
        spans = (touching_taps(size, taps, stride, padding) for size in (height, width))
        name = f"windows {height}x{width} {taps}/{stride} p{padding}"
        yield name, window_map(height, width, *spans, stride), (2, height, width, 3)


@pytest.mark.parametrize(
    "linear_map, shape", [pytest.param(*case, id=name) for name, *case in adjoint_cases()]
)
def test_each_transpose_is_the_adjoint(linear_map: LinearMap, shape):
    # ⟨Ax, y⟩ = ⟨x, Aᵀy⟩ for all pairs of three x and three y at once, which also are leading axes.
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(3, *shape)))
        result = jax.eval_shape(linear_map.forward, x)
        y = jnp.asarray(rng.normal(size=result.shape))

        def both_sides(x, y):
            flat = [a.reshape(3, -1) for a in (linear_map(x), y, x, linear_map.transposed(y))]
            return flat[0] @ flat[1].T, flat[2] @ flat[3].T

        left, right = jax.jit(both_sides, compiler_options=QUICK)(x, y)
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)
    assert np.abs(left).min() > 0


def exact_conv(x, kernel, padding):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("height, width", [(8, 5), (7, 6), (3, 9)])
@pytest.mark.parametrize("tile", TILES)
def test_both_tiles_equal_xla_on_every_side_and_padding(tile, height, width, padding):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, height, width, 3)))
        kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 4)))

        def both(x, kernel):
            return conv_by_winograd(x, kernel, padding, tile), exact_conv(x, kernel, padding)

        got, wanted = jax.jit(both, compiler_options=QUICK)(x, kernel)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels, side", [(64, 16), (512, 4)])
@pytest.mark.parametrize("tile, bound", [(2, 1e-6), (4, 1.8e-6)])
def test_float32_errs_little(tile, bound, channels, side):
    # Against float64, relative in norm, of the value and both gradients: the price of few products is here.
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (
        rng.normal(size=s)
        for s in ((channels, side, side, 4), (3, 3, channels, channels), (channels, side, side, 4))
    )

    def errors_of(function, dtype):
        y, pull = jax.vjp(function, x.astype(dtype), kernel.astype(dtype))
        return y, *pull(jnp.asarray(cotangent, dtype))

    with jax.enable_x64(True):
        got = jax.jit(lambda: errors_of(lambda x, k: conv_by_winograd(x, k, 1, tile), "float32"))()
        wanted = jax.jit(lambda: errors_of(lambda x, k: exact_conv(x, k, 1), "float64"))()
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == jnp.float32
        error = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b)) / np.linalg.norm(np.asarray(b))
        assert error < bound
