"""The largest singular values of affine maps, and their clipping: FastClip's numerics, for any layer.

Ebrahimpour-Boroojeny, Telgarsky and Sundaram, "Spectrum Extraction and Clipping for Implicitly Linear Layers", AISTATS
2024. A map is given as a function; `singular_values.py` finds its largest singular values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mu_jax.config import InputError
from mu_jax.smoothness.singular_values import (
    SPARE,
    LinearFn,
    Spectrum,
    flat,
    iterate,
    leading_singular_values,
    random_block,
)

KernelFn = Callable[[Array, Array], Array]
"""(kernel, one array of `input_shape`) to an array; linear in the kernel and in the array."""


def spectral_norm(
    linear_fn: LinearFn,
    input_shape: tuple[int, ...],
    *,
    tolerance: float = 1e-6,
    max_rounds: int = 60,
    key: PRNGKeyArray | None = None,
    name: str = "The layer",
) -> Float[Array, ""]:
    """‖M‖₂ of x ↦ f(x) = Mx + b, to a relative `tolerance`: the layer's Lipschitz constant in ℓ2.

    InputError, which names the layer, for a function that is not affine. Under `jit` or `vmap` that cannot be tested.

    >>> spectral_norm(lambda x: jnp.array([3.0, 4.0]) * x, (2,))
    4.0
    """
    check_affine(linear_fn, input_shape, name=name)
    found = leading_singular_values(
        linear_fn, input_shape, tolerance=tolerance, max_rounds=max_rounds, key=key
    )
    return found.values[0]


def check_affine(
    linear_fn: LinearFn, input_shape: tuple[int, ...], *, name: str = "The layer", tolerance: float = 1e-3
) -> None:
    """InputError unless f(x + y) + f(0) = f(x) + f(y) and f(−3x) − f(0) = −3(f(x) − f(0)) for random x and y."""
    keys = jax.random.split(jax.random.key(1), 2)
    x, y = (jax.random.normal(key, input_shape, jnp.float32) for key in keys)
    with jax.default_matmul_precision("highest"):
        zero, of_x, of_y = linear_fn(jnp.zeros(input_shape, jnp.float32)), linear_fn(x), linear_fn(y)
        sums = linear_fn(x + y) + zero - of_x - of_y
        multiples = linear_fn(-3 * x) + 3 * of_x - 4 * zero
    if isinstance(sums, jax.core.Tracer):
        return
    scale = max(float(jnp.abs(value).max()) for value in (of_x, of_y, zero))
    largest = max(float(jnp.abs(value).max()) for value in (sums, multiples))
    if not largest <= tolerance * scale + 1e-30:
        raise InputError(
            f"{name} is not affine: f(x + y) + f(0) differs from f(x) + f(y), or f(−3x) + 3f(x) from 4f(0), by up to "
            f"{largest:.3g} where values reach {scale:.3g}; pass a convolution or dense layer without its activation, "
            "with batch-norm in eval mode."
        )


def power_step(
    linear_fn: LinearFn, vector: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """One step of power iteration on MᵀM: (the next vector, of norm one; ‖Mv‖/‖v‖, which is at most ‖M‖).

    PowerQR with one vector, where QR is division by the norm. Its shift, (I + MᵀM)v, is left out: it slows convergence
    where σ < 1 and serves only to keep QR from zero columns. A vector that M maps to zero stays as it is.
    """
    shape = vector.shape
    apply, transpose = flat(jax.vmap(linear_fn), shape, 1)
    with jax.default_matmul_precision("highest"):
        row = _unit(vector.reshape(1, -1).astype(jnp.float32))
        image = apply(row)
        sigma = jnp.linalg.norm(image)
        moved = transpose(image)
    length = jnp.linalg.norm(moved)
    return jnp.where(length > 0, moved / jnp.where(length > 0, length, 1.0), row).reshape(shape), sigma


def clip_step(
    kernel_fn: KernelFn,
    kernel: Float[Array, "..."],
    vectors: Float[Array, "k ..."],
    values: Float[Array, "k"],
    c: Float[Array, ""] | float,
    *,
    steps: int = 1,
    step_size: float | None = None,
) -> Float[Array, "..."]:
    """A kernel W whose responses to singular vectors v_i with σ_i > c have come nearer to norm c, as published.

    Gradient descent on L(W) = Σ_i ‖M_W v_i − (c/σ_i) M_old v_i‖² over `steps` steps. `step_size` None takes, each time,
    the step at which L is least along the gradient; a number is the public code's, whose L is a mean over the
    output's width: 0.35 there, for a layer by itself. A response of three axes is [channels, rows, columns].
    """
    with jax.default_matmul_precision("highest"):
        over = values > c
        # Vectors that are to be left as they are take no part: their factor would be one, their gradient zero.
        weight = over.astype(jnp.float32)
        factor = jnp.where(over, c / jnp.where(over, values, 1.0), 1.0)
        targets = jax.vmap(lambda v, f: f * kernel_fn(kernel, v))(vectors, factor)

        def respond(kernel: Array) -> Array:
            return jax.vmap(lambda v, w: w * kernel_fn(kernel, v))(vectors, weight)

        goal = jax.vmap(jnp.multiply)(weight, targets)

        def one(_: Array, kernel: Array) -> Array:
            response, back = jax.vjp(respond, kernel)
            (gradient,) = back(response - goal)
            if step_size is None:
                length = jnp.sum(jnp.square(gradient)) / jnp.maximum(
                    jnp.sum(jnp.square(respond(gradient))), 1e-30
                )
            else:
                # The public code's image is [B,C,H,W]: a sum over channels and rows, a mean over columns.
                columns = targets.shape[-1] if targets.ndim == 4 else 1
                length = 2 * step_size / columns
            return kernel - length * gradient

        return lax.fori_loop(0, steps, one, kernel)


class ClippedKernel(NamedTuple):
    """What became of a kernel."""

    kernel: Float[Array, "..."]
    before: Float[Array, ""]
    """the measured norm of the map as it came"""
    norm: Float[Array, ""]
    """and as it is now; at most (1 + slack)·c"""
    error: Float[Array, ""]
    """estimated relative error of `norm`"""
    rounds: Int[Array, ""]
    """of measuring and clipping"""
    scaled: Bool[Array, ""]
    """whether `max_rounds` did not do, and the kernel was divided by what was left over"""


def clip_kernel(
    kernel_fn: KernelFn,
    kernel: Float[Array | np.ndarray, "..."],
    input_shape: tuple[int, ...],
    c: Float[Array | np.ndarray, ""] | float,
    *,
    block_fn: KernelFn | None = None,
    k: int = 8,
    steps: int = 2,
    step_size: float | None = None,
    slack: float = 0.02,
    tolerance: float = 1e-4,
    max_rounds: int = 300,
    key: PRNGKeyArray | None = None,
) -> ClippedKernel:
    """Clip the map of a kernel until its *measured* norm is at most (1 + slack)·c; a smaller one stays as it is.

    A round measures the k largest singular values, from the last round's vectors on, and takes a `clip_step` towards c
    on all of them: with one vector, as published, the many values just below the largest are clipped one after another.
    A zero kernel has norm 0 and stays zero. InputError for c ≤ 0. Pure, for `jit` and `vmap` (a traced c is not
    tested).
    """
    check_clip(c)
    size = int(np.prod(input_shape))
    k = min(k, size)
    block = min(k + SPARE, size)
    key = jax.random.key(0) if key is None else key
    kernel = jnp.asarray(kernel, jnp.float32)
    limit = jnp.asarray((1 + slack) * c, jnp.float32)

    def block_map(kernel: Array) -> LinearFn:
        if block_fn is None:
            return jax.vmap(lambda x: kernel_fn(kernel, x))
        return lambda rows: block_fn(kernel, rows)

    def measure(kernel: Array, start: Array) -> Spectrum:
        return iterate(block_map(kernel), input_shape, start, 1, tolerance, 40)

    def within(found: Spectrum) -> Array:
        return found.values[0] * (1 + found.error[0]) <= limit

    def goes_on(carry: tuple) -> Array:
        round_, _, found, sure, _ = carry
        return ~(sure & (within(found) | (round_ >= max_rounds)))

    def one(carry: tuple) -> tuple:
        round_, kernel, found, _, before = carry
        done = within(found) | (round_ >= max_rounds)
        clipped = clip_step(
            kernel_fn, kernel, found.vectors[:k], found.values[:k], c, steps=steps, step_size=step_size
        )
        kernel = jnp.where(done, kernel, clipped)
        # The clipped vectors may be an invariant subspace that hides a larger value: random ones have the last word.
        fresh = random_block(jax.random.fold_in(key, round_ + 1), block, input_shape)
        found = measure(kernel, jnp.where(done, fresh, found.vectors))
        return round_ + 1, kernel, found, done, jnp.where(round_ < 0, found.values[0], before)

    # The first round only measures, from nothing found and no clipping: one place to compile, where apart it is three.
    nothing = Spectrum(
        jnp.zeros(block), jnp.zeros((block, *input_shape)), jnp.zeros(block), jnp.zeros((), jnp.int32)
    )
    start = (jnp.int32(-1), kernel, nothing, jnp.bool_(False), jnp.zeros(()))
    rounds, kernel, last, _, before = lax.while_loop(goes_on, one, start)
    over = ~within(last)
    factor = jnp.where(over, c / jnp.where(over, last.values[0], 1.0), 1.0)
    return ClippedKernel(
        kernel=kernel * factor,
        before=before,
        norm=last.values[0] * factor,
        error=last.error[0],
        rounds=jnp.minimum(rounds, max_rounds),
        scaled=over,
    )


def check_clip(c: Any) -> None:
    """InputError for a norm to clip at that is not positive (nothing is said of a traced one)."""
    if not isinstance(c, jax.core.Tracer) and not np.all(np.asarray(c) > 0):
        raise InputError(
            f"The norm to clip at is {c}, but expected a positive number; give one, or inf, which clips nothing."
        )


def _unit(row: Array) -> Array:
    length = jnp.linalg.norm(row)
    return row / jnp.where(length > 0, length, 1.0)
