"""3×3 convolutions of stride 1 by Winograd's minimal filtering: fewer products, and fewer bytes than patches.

F(m×m, 3×3) computes m×m outputs from a tile of n×n inputs, n = m + 2, as y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (Lavin & Gray
2016, eq. 9). Summed over channels, ⊙ becomes n² products of matrices [E,D]·[D, tiles]. Patches copy each pixel nine
times, F(4×4) 2¼ times, and it multiplies four times less.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mu_jax.ops.linear_map import LinearMap
from mu_jax.ops.windows import pad, shift, take

TAPS = 3

# Reciprocal pairs keep the transforms well scaled: in float32 their error is half that of the usual 0, ±1, ±2
# (relative to float64, over layers of 16 to 256 channels: at most 1.1e-6 against 2.5e-6; patches have 4e-7).
POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2)),
}
"""Of each tile side m, the finite points of its Toom–Cook scheme; the last point is infinity."""


@functools.cache
def matrices(tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Bᵀ[n,n], G[n,3], Aᵀ[m,n]) of F(m, 3), float64 but computed exactly.

    Evaluating polynomials at the points p_j and interpolating them (Toom–Cook), transposed: Aᵀ[i,j] = p_jⁱ,
    G[j,k] = p_jᵏ / Π_{l≠j}(p_j − p_l), and row j of Bᵀ holds the coefficients of Π_{l≠j}(x − p_l); the point
    at infinity takes the leading coefficient, and the product over all l in Bᵀ.
    """
    points = POINTS[tile]
    size = len(points) + 1

    def monic(roots: Sequence[Fraction]) -> list[Fraction]:
        coefficients = [Fraction(1)]
        for root in roots:
            higher = [Fraction(0), *coefficients]
            coefficients = [a - root * b for a, b in zip(higher, [*coefficients, Fraction(0)], strict=True)]
        return coefficients + [Fraction(0)] * (size - len(coefficients))

    others = [[q for q in points if q != p] for p in points]
    b_transposed = [*map(monic, others), monic(points)]
    g = [
        [p**k / math.prod(p - q for q in rest) for k in range(TAPS)]
        for p, rest in zip(points, others, strict=True)
    ]
    g.append([Fraction(k == TAPS - 1) for k in range(TAPS)])
    a_transposed = [[*(p**i for p in points), Fraction(i == tile - 1)] for i in range(tile)]
    return tuple(
        np.array(matrix, dtype=object).astype(np.float64) for matrix in (b_transposed, g, a_transposed)
    )


def choose_tile(outputs: tuple[int, int], batch: int, channels: int, dtype: jnp.dtype) -> int:
    """m of F(m×m, 3×3): 4 where there are at least as many tiles as channels, else 2.

    F(4×4) makes four times the kernel's numbers and 2¼ times the image's, F(2×2) less than two and four times: few
    tiles on many channels are mostly kernel. In 16 bits the sums and differences of F(4×4) would lose too much.
    """
    tiles = -(-outputs[0] // 4) * -(-outputs[1] // 4) * batch
    return 4 if tiles >= channels and jnp.finfo(dtype).bits >= 32 else 2


def conv_by_winograd(
    x: Float[Array, "D H W B"], kernel: Float[Array, "3 3 D E"], padding: int, tile: int | None = None
) -> Float[Array, "E Ho Wo B"]:
    """The convolution of stride 1; `tile` is m, chosen by size unless given."""
    depth, height, width, batch = x.shape
    features = kernel.shape[-1]
    outputs = (height + 2 * padding - TAPS + 1, width + 2 * padding - TAPS + 1)
    tile = tile or choose_tile(outputs, batch, max(depth, features), x.dtype)
    n = tile + TAPS - 1

    tiles = input_map(tile, height, width, padding)(x)
    image = tiles.reshape(n * n, depth, -1)
    weights = _kernel_transform(tile, kernel)
    # One product a position in the tile. Its operands are in the order that XLA's CPU products are fastest in.
    products = jnp.matmul(weights, image).reshape(n, n, features, *tiles.shape[3:])
    return output_map(tile, *outputs)(products)


def _kernel_transform(tile: int, kernel: jax.Array) -> jax.Array:
    """G g Gᵀ for every pair of channels, [n²,E,D]."""
    _, g, _ = matrices(tile)
    both = np.einsum("iu,jv->ijuv", g, g).reshape(-1, TAPS * TAPS)
    depth, features = kernel.shape[-2:]
    # At full precision everywhere, like the images' transforms; it is nine numbers wide and costs nothing.
    flat = jnp.matmul(
        jnp.asarray(both, kernel.dtype),
        kernel.reshape(TAPS * TAPS, depth * features),
        precision=lax.Precision.HIGHEST,
    )
    return flat.reshape(-1, depth, features).swapaxes(1, 2)


def _combine(matrix: np.ndarray, terms: Sequence[jax.Array]) -> list[jax.Array]:
    """Σ_j matrix[i,j]·terms[j] for every i, without the zeros and ones."""
    results = []
    for row in matrix:
        total = None
        for factor, term in zip(row, terms, strict=True):
            if factor != 0:
                part = term if factor == 1 else float(factor) * term
                total = part if total is None else total + part
        results.append(total)
    return results


def _planes(x: jax.Array, axis: int) -> list[jax.Array]:
    """x cut along `axis`, which goes."""
    return [lax.index_in_dim(x, i, x.ndim + axis, keepdims=False) for i in range(x.shape[axis])]


def _interleave(parts: Sequence[jax.Array], axis: int, size: int) -> jax.Array:
    """y[m·t + b] = parts[b][t] along `axis`, cut to `size`."""
    dimension = parts[0].ndim + axis
    y = jnp.stack(parts, axis=dimension + 1)
    y = y.reshape(*y.shape[:dimension], -1, *y.shape[dimension + 2 :])
    return y if y.shape[dimension] == size else take(y, axis, 0, size)


# All four transforms work on one axis at a time, with a barrier between. Fused into one, XLA computes the first pass
# anew for each use in the second: up to 1.6 times slower (16 channels, 32×32, batch 64; no difference on 8×8).


@functools.cache
def input_map(tile: int, height: int, width: int, padding: int) -> LinearMap:
    """Bᵀ d B of all tiles: x[..., D,H,W,B] ↦ [..., n,n,D,rows,columns,B], and its transpose, which adds overlaps."""
    b_transposed, _, _ = matrices(tile)
    n = tile + TAPS - 1
    rows, columns = (-(-(size + 2 * padding - TAPS + 1) // tile) for size in (height, width))

    def tiles_along(x: jax.Array, axis: int, size: int, count: int) -> jax.Array:
        x = pad(x, x.ndim + axis, padding, tile * count + TAPS - 1 - padding - size)
        parts = [take(x, axis, i, count, tile) for i in range(n)]
        return jnp.stack(_combine(b_transposed, parts), axis=-5)

    def forward(x: jax.Array) -> jax.Array:
        partial = lax.optimization_barrier(tiles_along(x, -3, height, rows))
        return tiles_along(partial, -2, width, columns)

    def overlaps_along(tiles: jax.Array, axis: int, size: int) -> jax.Array:
        parts = _combine(b_transposed.T, _planes(tiles, -5))
        groups = -(-size // tile)
        classes = []
        for b in range(tile):
            # Pixel m·t + b lies in tile t + s as its entry i wherever m·s + i = b + padding.
            total = None
            for i in range((b + padding) % tile, n, tile):
                by = (b + padding - i) // tile
                part = shift(parts[i], parts[i].ndim + axis, by, groups)
                total = part if total is None else total + part
            classes.append(total)
        return _interleave(classes, axis, size)

    def transposed(tiles: jax.Array) -> jax.Array:
        partial = lax.optimization_barrier(overlaps_along(tiles, -2, width))
        return overlaps_along(partial, -3, height)

    return LinearMap(forward, transposed)


@functools.cache
def output_map(tile: int, height: int, width: int) -> LinearMap:
    """Aᵀ M A: products[..., n,n,E,rows,columns,B] ↦ y[..., E,height,width,B]."""
    _, _, a_transposed = matrices(tile)
    rows, columns = -(-height // tile), -(-width // tile)

    def forward(products: jax.Array) -> jax.Array:
        partial = _interleave(_combine(a_transposed, _planes(products, -5)), -2, width)
        partial = lax.optimization_barrier(partial)
        return _interleave(_combine(a_transposed, _planes(partial, -5)), -3, height)

    def transposed(y: jax.Array) -> jax.Array:
        y = pad(y, y.ndim - 3, 0, tile * rows - height)
        y = pad(y, y.ndim - 2, 0, tile * columns - width)
        parts = [take(y, -3, b, rows, tile) for b in range(tile)]
        partial = lax.optimization_barrier(jnp.stack(_combine(a_transposed.T, parts), axis=-5))
        parts = [take(partial, -2, b, columns, tile) for b in range(tile)]
        return jnp.stack(_combine(a_transposed.T, parts), axis=-5)

    return LinearMap(forward, transposed)
