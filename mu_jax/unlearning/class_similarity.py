"""How alike a forgotten class and each class that stays are, as a classifier's own head has it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from mu_jax.config import InputError

ClassNumber = int | np.integer | Int[Array | np.ndarray, ""]
"""A class; one in an array may be traced."""


def class_similarity(
    head_kernel: Float[Array | np.ndarray, "D C"],
    forget_class: ClassNumber,
    *,
    temperature: float = 0.1,
    directions: int = 0,
    also_forgotten: Sequence[int] = (),
) -> Float32[Array, "C"]:
    """s = softmax over the classes k that stay of cos(P·w_f, P·w_k)/τ; 0 for f and all else that is forgotten.

    w are the head's columns, all C of them, less their mean: a vector added to every column changes no posterior, and
    so must not change a similarity. P projects on their `directions` leading principal directions, 0 taking all; there
    are min(D, C − 1) at most. A column that P leaves nothing of has cosine 0. Source: Ebrahimpour-Boroojeny et al.
    2025, arXiv 2506.20893, in words only (cosine of the logit layer's weights after PCA, by a sharp softmax); τ = 0.1
    and all directions are our choice.

    InputError for a temperature that is not positive, directions or classes that there are none of, and where no class
    stays.

    >>> kernel = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    >>> np.asarray(class_similarity(kernel, 0, temperature=0.5)).round(3)
    array([0.   , 0.804, 0.196], dtype=float32)
    """
    depth, classes = head_kernel.shape
    if not 0 < temperature < float("inf"):
        raise InputError(
            f"temperature is {temperature}, but expected a positive finite number; 0.1 is usual."
        )
    if not 0 <= directions <= min(depth, classes - 1):
        raise InputError(
            f"directions is {directions}, but {classes} centred columns of {depth} numbers have "
            f"{min(depth, classes - 1)} at most; give a number from 0 (all) to that."
        )
    gone = forgotten_classes(classes, forget_class, also_forgotten)
    columns = jnp.asarray(head_kernel, jnp.float32)
    columns = columns - columns.mean(axis=1, keepdims=True)
    # A cosine knows no length, and squares of very small or large weights would leave float32's range.
    columns = columns / jnp.maximum(jnp.max(jnp.abs(columns)), jnp.finfo(jnp.float32).tiny)
    gram = jnp.matmul(columns.T, columns, precision="highest")
    if directions:
        # Cosines need no direction by itself, only the products within them, and C is far below D.
        values, vectors = jnp.linalg.eigh(gram)
        leading = vectors[:, -directions:] * jnp.sqrt(jnp.maximum(values[-directions:], 0))
        gram = jnp.matmul(leading, leading.T, precision="highest")
    length = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
    # Below this a length is rounding: a column that P leaves nothing of.
    something = length > 1e-6 * jnp.max(length)
    defined = something & something[forget_class]
    cosine = jnp.where(defined, gram[forget_class] / jnp.where(defined, length[forget_class] * length, 1), 0)
    return jax.nn.softmax(jnp.where(gone, -jnp.inf, cosine / temperature))


def forgotten_classes(
    classes: int, forget_class: ClassNumber, also_forgotten: Sequence[int] = ()
) -> Bool[Array, "C"]:
    """Which of the classes are forgotten; InputError for one that there is not, and where none stays."""
    known = [] if isinstance(forget_class, jax.Array) else [int(forget_class)]
    for label in (*known, *also_forgotten):
        if not 0 <= label < classes:
            raise InputError(
                f"The class to forget is {label}, but expected one from 0 to {classes - 1}; name one."
            )
    if len({*known, *also_forgotten}) >= classes:
        raise InputError(
            f"All {classes} classes are to be forgotten, but expected one or more to stay; name fewer."
        )
    gone = jnp.arange(classes) == forget_class
    return gone.at[jnp.asarray(tuple(also_forgotten), jnp.int32)].set(True) if also_forgotten else gone
