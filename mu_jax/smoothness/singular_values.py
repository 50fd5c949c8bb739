"""The largest singular values of an affine map that is given as a function, by block iteration.

Its transpose comes from the function's own vjp, so that stride, padding, dilation and a batch-norm behind it need no
case of their own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from mu_jax.config import InputError

LinearFn = Callable[[Array], Array]
"""One array of `input_shape`, without a batch axis, to an array."""

DEGREE = 8
"""Of the polynomial that a round of `leading_singular_values` applies."""
SPARE = 4
"""Vectors beyond the k asked for: the first that is not in the block sets the speed of convergence."""


class Spectrum(NamedTuple):
    """The k largest singular values of a map, in falling order."""

    values: Float[Array, "k"]
    vectors: Float[Array, "k ..."]
    """right singular vectors, [k, *input_shape], orthonormal"""
    error: Float[Array, "k"]
    """estimated relative error of each value; 0 where the value is"""
    rounds: Int[Array, ""]
    """until all errors were below the tolerance, or at the limit"""


def leading_singular_values(
    linear_fn: LinearFn,
    input_shape: tuple[int, ...],
    *,
    block_fn: LinearFn | None = None,
    k: int = 1,
    tolerance: float = 1e-6,
    max_rounds: int = 60,
    start: Float[Array, "m ..."] | None = None,
    key: PRNGKeyArray | None = None,
) -> Spectrum:
    """The k largest singular values of x ↦ f(x) − f(0), by block power iteration, pure and for `jit` and `vmap`.

    A round orthonormalises the block (QR), finds the best values and vectors within it (Rayleigh–Ritz), and applies a
    Chebyshev polynomial of MᵀM that is small below the block's smallest value (Zhou and Saad, "A Chebyshev–Davidson
    algorithm", 2007). Plain power iteration, the paper's PowerQR, is the polynomial λ^8: where the largest values lie
    within parts in a thousand, as a convolution's do, it converges slowly.

    Rounds end when all k values are within `tolerance` by their error estimate, or no longer move by a tenth of it. The
    relative error is estimated from the residual r = MᵀMv − σ²v and the distance to what is not in the block,
    ½ min(‖r‖, ‖r‖²/gap)/σ². The map is applied to float32 arrays, in the highest matmul precision. The block has k + 4
    vectors, or those of `start` (k or more, any norm; not an invariant subspace, which it would never leave), or as
    many as the map has inputs. `block_fn`, where given, is `linear_fn` of m arrays at once, [m, *input_shape] to
    [m, ...]: what computes a batch faster than `vmap` of one.
    """
    size = int(np.prod(input_shape))
    block = min(k + SPARE if start is None else len(start), size)
    if not 1 <= k <= block:
        raise InputError(
            f"k is {k}, but the map has {size} inputs and the block {block} vectors; ask for 1 to {block}."
        )
    if start is None:
        start = random_block(jax.random.key(0) if key is None else key, block, input_shape)
    found = iterate(block_fn or jax.vmap(linear_fn), input_shape, start[:block], k, tolerance, max_rounds)
    return Spectrum(found.values[:k], found.vectors[:k], found.error[:k], found.rounds)


def iterate(
    block_fn: LinearFn,
    input_shape: tuple[int, ...],
    start: Float[Array, "m ..."],
    k: int,
    tolerance: float,
    max_rounds: int,
) -> Spectrum:
    """As above for a map of blocks, with the whole block returned; the first k of it have converged."""
    block, size = len(start), int(np.prod(input_shape))
    apply, transpose = flat(block_fn, input_shape, block)

    def gram(rows: Array) -> Array:
        return transpose(apply(rows))

    def rayleigh_ritz(rows: Array) -> tuple[Array, Array, Array]:
        """(rows turned into Ritz vectors, σ² in falling order, relative error of σ)"""
        rows = _orthonormal(rows)
        images = apply(rows)
        values, turn = jnp.linalg.eigh(images @ images.T)
        values, turn = jnp.maximum(values[::-1], 0.0), turn[:, ::-1].T
        rows, images = turn @ rows, turn @ images
        residual = jnp.linalg.norm(transpose(images) - values[:, None] * rows, axis=1)
        # What lies outside the block is at most about the block's smallest value; float32 cannot tell less of a gap.
        gap = jnp.maximum(values - values[-1], 1e-7 * values[0])
        safe = jnp.where(values > 0, values, 1.0)
        error = jnp.minimum(residual, residual**2 / jnp.where(gap > 0, gap, 1.0)) / (2 * safe)
        return rows, values, jnp.where(values > 0, error, 0.0)

    def goes_on(carry: tuple) -> Array:
        round_, still, _, values, error = carry
        unsure = jnp.any(error[:k] > tolerance) & (still < 2)
        # The whole space needs no further round, whatever the residual's rounding.
        return (round_ < max_rounds) & unsure & (block < size) & (values[0] > 0)

    def one(carry: tuple) -> tuple:
        round_, still, rows, before, _ = carry
        bound = jnp.maximum(before[-1], 1e-3 * before[0])
        rows, values, error = rayleigh_ritz(_chebyshev(gram, rows, before[0], bound))
        # σ moves by half of what σ² does.
        moved = jnp.max(jnp.abs(values[:k] - before[:k])) > 0.2 * tolerance * values[0]
        return round_ + 1, jnp.where(moved, 0, still + 1), rows, values, error

    with jax.default_matmul_precision("highest"):
        first = rayleigh_ritz(start.reshape(block, size).astype(jnp.float32))
        rounds, _, rows, values, error = lax.while_loop(goes_on, one, (jnp.int32(1), jnp.int32(0), *first))
    return Spectrum(jnp.sqrt(values), rows.reshape(block, *input_shape), error, rounds)


def random_block(key: PRNGKeyArray, block: int, input_shape: tuple[int, ...]) -> Array:
    """Normal numbers, [block, *input_shape]."""
    return jax.random.normal(key, (block, int(np.prod(input_shape)))).reshape(block, *input_shape)


def flat(block_fn: LinearFn, input_shape: tuple[int, ...], block: int) -> tuple[LinearFn, LinearFn]:
    """(X[m,n] ↦ MX, Y[m,q] ↦ MᵀY) of the map's linear part, for m = `block` rows, a row a vector."""
    zero = jnp.zeros((block, *input_shape), jnp.float32)
    # The offset cancels in the vjp; only the way there needs it.
    offset, back = jax.vjp(block_fn, zero)

    def apply(rows: Shaped[Array, "m n"]) -> Shaped[Array, "m q"]:
        return (block_fn(rows.reshape(zero.shape)) - offset).reshape(block, -1)

    def transpose(rows: Shaped[Array, "m q"]) -> Shaped[Array, "m n"]:
        return back(rows.reshape(offset.shape))[0].reshape(block, -1)

    return apply, transpose


def _chebyshev(gram: LinearFn, rows: Array, largest: Array, bound: Array) -> Array:
    """p(MᵀM) of each row, with |p| ≤ small on [0, bound] and p(largest) = 1, of degree `DEGREE`."""
    centre = radius = bound / 2
    first = radius / (largest - centre)

    def one(_: Array, carry: tuple) -> tuple:
        sigma, before, now = carry
        after = 1 / (2 / first - sigma)
        new = 2 * after / radius * (gram(now) - centre * now) - sigma * after * before
        return after, now, new

    now = (gram(rows) - centre * rows) * (first / radius)
    return lax.fori_loop(1, DEGREE, one, (first, rows, now))[2]


def _orthonormal(rows: Array) -> Array:
    """Rows that span what the given ones do; scaled first, because QR squares."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    return jnp.linalg.qr((rows / jnp.where(largest > 0, largest, 1.0)).T)[0].T
