"""What an attack reads off one prediction: margin, loss, confidence, entropy.

Every signal is a function of the margins φ_j = log p_j − log(1 − p_j), because the margin keeps what a
softmax loses: p_j = σ(φ_j), −log p_j = softplus(−φ_j) and −log(1 − p_j) = softplus(φ_j) are accurate in
float32 where p_j itself rounds to 0 or 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mu_jax.config import InputError


def logit_margin(
    logits: Float[Array | np.ndarray, "*batch C"], labels: Int[Array | np.ndarray, "*batch"]
) -> Float[Array, "*batch"]:
    """The margin φ = z_y − logsumexp_{j≠y} z_j, which is log p_y − log(1 − p_y).

    Carlini et al., "Membership Inference Attacks From First Principles", 2022, section IV-C. Float32, finite
    for any finite float32 logits; in nats. Labels lie in [0, C).

    >>> float(logit_margin(np.array([3.0, 1.0]), np.array(0)))
    2.0
    """
    z, true = _shifted(logits, labels)
    margin = _at(z, labels) - jax.nn.logsumexp(jnp.where(true, -jnp.inf, z), axis=-1)
    return _finite(margin)


def cross_entropy(
    logits: Float[Array | np.ndarray, "*batch C"], labels: Int[Array | np.ndarray, "*batch"]
) -> Float[Array, "*batch"]:
    """The loss −log p_y = softplus(−φ), in nats; it keeps its digits where p_y rounds to 1."""
    return jax.nn.softplus(-logit_margin(logits, labels))


def confidence(
    logits: Float[Array | np.ndarray, "*batch C"], labels: Int[Array | np.ndarray, "*batch"]
) -> Float[Array, "*batch"]:
    """The true class's probability p_y = σ(φ), in [0, 1]."""
    return jax.nn.sigmoid(logit_margin(logits, labels))


def entropy(logits: Float[Array | np.ndarray, "*batch C"]) -> Float[Array, "*batch"]:
    """The entropy −Σ_j p_j log p_j of the prediction, in nats; it does not look at the label."""
    margins = _margins(logits)
    return _finite(jnp.sum(jax.nn.sigmoid(margins) * jax.nn.softplus(-margins), axis=-1))


def modified_entropy(
    logits: Float[Array | np.ndarray, "*batch C"], labels: Int[Array | np.ndarray, "*batch"]
) -> Float[Array, "*batch"]:
    """The label-aware entropy −(1 − p_y) log p_y − Σ_{j≠y} p_j log(1 − p_j), in nats.

    Song & Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", 2021, equation 6: zero
    for a sure and right prediction, large for a sure and wrong one. Widely copied code for it overwrites the
    true class's column for the whole batch and takes log p_j where log(1 − p_j) belongs; this is the
    equation.
    """
    _, true = _shifted(logits, labels)
    margins = _margins(logits)
    # Both kinds of term are σ(x)·softplus(x): with x = −φ_y for the true class, and x = φ_j for the others.
    x = jnp.where(true, -margins, margins)
    return _finite(jnp.sum(jax.nn.sigmoid(x) * jax.nn.softplus(x), axis=-1))


def _margins(logits: Float[Array | np.ndarray, "*batch C"]) -> Float[Array, "*batch C"]:
    """The margin of every class as if it were the true one, in O(C).

    With the largest logit shifted to 0, every class but the largest may take its own term out of the sum of
    exponentials: what remains is at least half of it, so no digits cancel. The largest sums the others
    itself.
    """
    z = _shift(logits)
    top = jnp.arange(z.shape[-1]) == jnp.argmax(z, axis=-1, keepdims=True)
    exp = jnp.exp(z)
    others = jnp.sum(exp, axis=-1, keepdims=True) - jnp.where(top, 0.0, exp)
    log_others = jnp.where(
        top, jax.nn.logsumexp(jnp.where(top, -jnp.inf, z), axis=-1, keepdims=True), jnp.log(others)
    )
    return _finite(z - log_others)


def _shifted(
    logits: Float[Array | np.ndarray, "*batch C"], labels: Int[Array | np.ndarray, "*batch"]
) -> tuple[Array, Array]:
    """The shifted logits, and a mask of each example's true class."""
    if np.ndim(logits) == 0 or np.shape(logits)[:-1] != np.shape(labels):
        raise InputError(
            f"labels have shape {np.shape(labels)} and logits {np.shape(logits)}, but expected one label for "
            "each row of logits; give labels the logits' shape without its last axis."
        )
    z = _shift(logits)
    return z, jnp.arange(z.shape[-1]) == jnp.asarray(labels)[..., None]


def _shift(logits: Float[Array | np.ndarray, "*batch C"]) -> Float[Array, "*batch C"]:
    """Float32 logits less their maximum, so that large logits with small differences keep their digits."""
    if np.shape(logits)[-1] < 2:
        raise InputError(
            f"logits have shape {np.shape(logits)}, but expected at least two classes in the last axis; for "
            "a binary classifier with one logit z, pass the two columns 0 and z."
        )
    z = jnp.asarray(logits, jnp.float32)
    return _finite(z - jnp.max(z, axis=-1, keepdims=True))


def _at(z: Float[Array, "*batch C"], labels: Int[Array | np.ndarray, "*batch"]) -> Float[Array, "*batch"]:
    return jnp.take_along_axis(z, jnp.asarray(labels)[..., None], axis=-1)[..., 0]


def _finite(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Differences of finite float32 numbers may overflow; they saturate at the largest instead."""
    largest = jnp.finfo(jnp.float32).max
    return jnp.clip(x, -largest, largest)
