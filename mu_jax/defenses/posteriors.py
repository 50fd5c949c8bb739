"""What an owner may release in place of the posteriors: the k largest, the label alone, or softened ones.

Mitigations of Chen et al., "When Machine Unlearning Jeopardizes Privacy", CCS 2021, as in their public code: what is
released stays a distribution over all C classes. An attacker who knows of the defence sees shadow models through it
too. All is NumPy, float64.
"""

import math

import numpy as np
from jaxtyping import Array, Float, Float64

from mu_jax.config import InputError

TOLERANCE = 1e-3
"""How far from one a row of posteriors may sum, as half precision leaves it; it is divided by its sum."""


def top_k(posteriors: Float[Array | np.ndarray, "*batch C"], k: int) -> Float64[np.ndarray, "*batch C"]:
    """The k largest of each row as they are, and the rest of its mass spread evenly over the other C − k classes.

    Of equal posteriors the first are kept. The label and the order of the k stay, what tells the others apart goes.
    InputError unless each row is a distribution and k is in 1, …, C.

    >>> top_k(np.array([0.5, 0.125, 0.375, 0.0]), 2)
    array([0.5   , 0.0625, 0.375 , 0.0625])
    """
    p = _distributions(posteriors)
    classes = p.shape[-1]
    if not 1 <= k <= classes:
        raise InputError(
            f"k is {k}, but expected 1 to {classes}, the number of classes; choose how many posteriors to release."
        )
    if k == classes:
        return p
    order = np.argsort(-p, axis=-1, kind="stable")
    others = order[..., k:]
    # Summed themselves, not as one minus the kept: a small rest keeps its digits.
    rest = np.take_along_axis(p, others, axis=-1).mean(axis=-1, keepdims=True)
    released = p.copy()
    np.put_along_axis(released, others, rest, axis=-1)
    return released


def label_only(posteriors: Float[Array | np.ndarray, "*batch C"]) -> Float64[np.ndarray, "*batch C"]:
    """One at the largest of each row, the first of equal ones, and zero elsewhere.

    InputError unless each row is a distribution.

    >>> label_only(np.array([[0.2, 0.8], [0.5, 0.5]]))
    array([[0., 1.],
           [1., 0.]])
    """
    p = _distributions(posteriors)
    return np.eye(p.shape[-1])[np.argmax(p, axis=-1)]


def temperature(logits: Float[Array | np.ndarray, "*batch C"], t: float) -> Float64[np.ndarray, "*batch C"]:
    """softmax(z / t): t = 1 releases the model's own posteriors, a larger t softer ones; the label stays.

    InputError for logits that are not finite, and unless t is a positive number.

    >>> temperature(np.array([0.0, 2 * np.log(3.0)]), 2.0).round(12)
    array([0.25, 0.75])
    """
    z = np.asarray(logits, np.float64)
    _check_classes("logits", z)
    if not (math.isfinite(t) and t > 0):
        raise InputError(
            f"The temperature is {t}, but expected a positive number; 1 releases the posteriors as they are."
        )
    if not np.isfinite(z).all():
        raise InputError(
            f"{int((~np.isfinite(z)).sum())} logits are not finite, but expected finite ones; leave out the models "
            "that diverged."
        )
    # At a tiny t the quotient may overflow, to −∞, whose exponential is right.
    with np.errstate(over="ignore"):
        scaled = (z - z.max(axis=-1, keepdims=True)) / t
    p = np.exp(scaled)
    return p / p.sum(axis=-1, keepdims=True)


def _distributions(posteriors: Float[Array | np.ndarray, "*batch C"]) -> Float64[np.ndarray, "*batch C"]:
    """In float64, each row divided by its sum; InputError unless it is a distribution to `TOLERANCE`."""
    p = np.asarray(posteriors, np.float64)
    _check_classes("posteriors", p)
    # Not a number fails every comparison.
    if not (p >= 0).all():
        raise InputError(
            f"{int((~(p >= 0)).sum())} posteriors are negative or no number, but expected probabilities; give softmax "
            "outputs, not logits."
        )
    total = p.sum(axis=-1, keepdims=True)
    off = np.abs(total - 1)
    if not (off <= TOLERANCE).all():
        raise InputError(
            f"Of {off.size} rows of posteriors {int((~(off <= TOLERANCE)).sum())} do not sum to one (one sums to "
            f"{total.ravel()[np.argmax(off)]:.6g}), but expected distributions; give softmax outputs over all classes."
        )
    return p / total


def _check_classes(name: str, values: np.ndarray) -> None:
    if values.ndim < 1 or values.shape[-1] < 2:
        raise InputError(
            f"{name} have shape {values.shape}, but expected [..., C] of two classes or more; give a number a class."
        )
