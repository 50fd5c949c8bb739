"""Which class that stays is nearest to a forgotten one: what models that never saw it take its inputs for."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int64
from scipy.special import softmax

from mu_jax.attacks.svc import checked_rows
from mu_jax.config import InputError


class NearestClass(NamedTuple):
    """What retrained models take the inputs of the class that they never saw for."""

    label: int
    """n(f), the class with the largest mean posterior; the first one where they tie."""
    posterior: Float64[np.ndarray, "C"]
    """The mean posterior over k ≠ f, which sums to one; 0 at f."""


def nearest_class(
    retrained_logits: Float[Array | np.ndarray, "R N C"],
    labels: Int[Array | np.ndarray, "N"],
    forget_class: int,
    rows: Int[np.ndarray, "n"],
) -> NearestClass:
    """n(f) = argmax over k ≠ f of the mean posterior, over models and over the inputs of class f among `rows`.

    A retrained model keeps f's column, in which training left what it liked; so its posterior is taken over k ≠ f and
    sums to one there. Every model and input weighs the same. InputError for an unknown class, one without inputs
    among the rows, fewer than three classes, logits that are not finite, and shapes that do not fit.

    >>> z = np.log([[[0.2, 0.6, 0.2], [0.5, 0.25, 0.25]]])
    >>> nearest_class(z, np.array([0, 1]), 0, np.array([0, 1])).posterior
    array([0.  , 0.75, 0.25])
    """
    z, y = checked_logits("retrained_logits", retrained_logits, labels)
    check_class(forget_class, y, z.shape[2])
    rows = checked_rows(y.size, rows=rows)["rows"]
    asked = rows_of(forget_class, y, rows, "rows", forget_class)
    require_finite("retrained_logits", z, asked)
    posterior = np.mean([without_class(model[asked], forget_class, "posteriors") for model in z], axis=(0, 1))
    posterior = np.insert(posterior, forget_class, 0.0)
    rest = np.delete(np.arange(posterior.size), forget_class)
    return NearestClass(int(rest[np.argmax(posterior[rest])]), posterior)


def rows_of(
    label: int, y: Int[np.ndarray, "N"], rows: Int[np.ndarray, "n"], name: str, forget_class: int
) -> Int64[np.ndarray, "m"]:
    """Those of the rows that are of a class; InputError, calling them by `name`, where none is."""
    found = np.asarray(rows[y[rows] == label], np.int64)
    if not found.size:
        role = "the one to forget" if label == forget_class else "which it is told from"
        raise InputError(
            f"{name} has no images of class {label}, {role}, but expected one at least; give rows that hold some."
        )
    return found


def without_class(z: Float[np.ndarray, "n C"], forget_class: int, kind: str) -> Float64[np.ndarray, "n F"]:
    """What is said of the other classes: `kind` logits as they are, or posteriors that sum to one over them."""
    rest = np.delete(np.asarray(z, np.float64), forget_class, axis=1)
    return rest if kind == "logits" else softmax(rest, axis=1)


def checked_logits(
    name: str, logits: Array | np.ndarray, labels: Array | np.ndarray
) -> tuple[Float[np.ndarray, "M N C"], Int[np.ndarray, "N"]]:
    """Both as NumPy arrays, not copied, if they fit and there are three classes; else InputError."""
    z, y = np.asarray(logits), np.asarray(labels)
    if z.ndim != 3 or not z.size or y.shape != z.shape[1:2] or not np.issubdtype(y.dtype, np.integer):
        raise InputError(
            f"{name} have shape {z.shape} and labels {y.shape} of {y.dtype}, but expected [models, N, C], none of them "
            "0, and N integers; give a single model's logits as `logits[None]`."
        )
    if z.shape[2] < 3:
        raise InputError(
            f"{name} have {z.shape[2]} classes, but expected 3 at least; with two, forgetting one leaves a single "
            "class, and nothing to be near to."
        )
    return z, y


def check_class(forget_class: int, y: Int[np.ndarray, "N"], classes: int) -> None:
    """InputError unless the class is a column of the logits and some input has it."""
    if not 0 <= forget_class < classes:
        raise InputError(
            f"forget_class is {forget_class}, but expected 0 to {classes - 1}, the columns of the logits; give the "
            "number of the class to forget."
        )
    if not np.any(y == forget_class):
        raise InputError(
            f"forget_class is {forget_class}, but expected one of the labels, {', '.join(map(str, np.unique(y)))}; "
            "give a class that has images."
        )


def require_finite(name: str, z: Float[np.ndarray, "M N C"], rows: Int[np.ndarray, "n"]) -> None:
    """InputError, calling the logits by `name`, where a model has others in these rows."""
    for number, model in enumerate(z):
        finite = np.isfinite(np.asarray(model[rows], np.float64)).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{np.sum(~finite)} of {rows.size} rows of {name}[{number}] that the attack reads, "
                f"{rows[np.argmin(finite)]} the first, are not finite, but expected all to be; leave out the model "
                "that diverged."
            )
