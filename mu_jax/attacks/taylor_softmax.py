"""The true class's probability by a softmax whose exponential is cut after its cubic term."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mu_jax.config import InputError

FLOOR = 1e-6
"""What the cut series counts as where it falls below: smaller than any share that matters, and still positive."""

LARGEST = 1e37
"""Larger arguments of the series count as this one."""


def taylor_softmax(
    logits: Float[Array | np.ndarray, "*batch C"],
    labels: Int[Array | np.ndarray, "*batch"],
    *,
    temperature: float = 2.0,
    margin: float = 0.6,
    degree: int = 3,
) -> Float[Array, "*batch"]:
    """p_y = g(z_y/T − m) / (g(z_y/T − m) + Σ_{j≠y} g(z_j/T)), g(v) = 1 + v + v²/2 + … + vⁿ/n!; float32 in [0, 1].

    The soft-margin Taylor softmax of Banerjee et al., "Exploring Alternatives to Softmax Function", 2020, as RMIA's
    paper reads probabilities off CIFAR models (T = 2, m = 0.6, and n = 3: its code counts four terms). Its tails are
    powers where the softmax's are exponentials, so sure predictions differ in more digits. It is a function of the
    logits themselves, not of their differences: adding a constant to all of them changes it.

    An odd series rises everywhere but turns negative below a root (−1.596 for n = 3), where the quotient is no
    probability any more. It is held at `FLOOR` from there on: the nearest to the formula that is positive, it never
    falls with z_y, and a class that unlikely has no weight of its own. An even series is positive but rises again to
    the left, so that a worse logit would be likelier: refused. Finite for any finite float32 logits, whose powers are
    taken relative to the largest. InputError for labels of another shape, fewer than two classes or bad settings.

    >>> round(float(taylor_softmax(np.array([2.0, 0.0], np.float32), np.array(0))), 4)
    0.5985
    """
    if np.ndim(logits) == 0 or np.shape(logits)[:-1] != np.shape(labels):
        raise InputError(
            f"labels have shape {np.shape(labels)} and logits {np.shape(logits)}, but expected one label for "
            "each row of logits; give labels the logits' shape without its last axis."
        )
    if np.shape(logits)[-1] < 2:
        raise InputError(
            f"logits have shape {np.shape(logits)}, but expected at least two classes in the last axis; for "
            "a binary classifier with one logit z, pass the two columns 0 and z."
        )
    if not 0 < temperature < math.inf or not math.isfinite(margin):
        raise InputError(
            f"temperature is {temperature} and margin {margin}, but expected a number above 0 and a finite one; RMIA's "
            "are 2 and 0.6."
        )
    if degree < 1 or degree % 2 == 0:
        raise InputError(
            f"degree is {degree}, but expected an odd number: an even series does not rise with the logit; RMIA's is 3."
        )
    z = jnp.asarray(logits, jnp.float32)
    true = jnp.arange(z.shape[-1]) == jnp.asarray(labels)[..., None]
    # Every odd series is negative left of −n − 1, so nothing is lost by stopping there.
    # Right of LARGEST, the reciprocal below would be subnormal, which devices take for 0.
    v = jnp.clip(z / temperature - jnp.where(true, margin, 0.0), -degree - 1.0, LARGEST)
    scale = jnp.maximum(1.0, jnp.max(v, axis=-1, keepdims=True))
    # g(v) / scaleⁿ by Horner's rule in v / scale: no power exceeds 1, and the quotient does not change.
    small, u = 1.0 / scale, v / scale
    g = jnp.full_like(v, 1.0 / math.factorial(degree))
    for power in range(degree - 1, -1, -1):
        g = g * u + small ** (degree - power) / math.factorial(power)
    g = jnp.maximum(g, FLOOR * small**degree)
    own = jnp.sum(jnp.where(true, g, 0.0), axis=-1)
    return own / (own + jnp.sum(jnp.where(true, 0.0, g), axis=-1))
