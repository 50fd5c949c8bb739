"""What a pair of models, from before and after a deletion, gives away of an example: features of both posteriors.

Chen et al., "When Machine Unlearning Jeopardizes Privacy", 2021: whoever can query the model before the deletion and
the one after it has two posteriors of an example, p and q, and builds of them

    direct_concat      (p, q)                      2C numbers
    sorted_concat      (p_π, q_π)                  2C; π sorts p ascending, and the SAME π is used for q
    direct_difference  p − q                       C
    sorted_difference  p_π − q_π                   C
    l2                 ‖p − q‖₂                    1

A classifier (`mu_jax.attacks.pair_attack`) then learns on shadow pairs, whose truth the attacker knows, which of them
belong to a deleted member and which to an example that neither model has learned. Both posteriors of an example that
is far from all that was deleted may be equal to the bit, above all where the models are trees: `exact_ties`.
"""

import difflib

import numpy as np
from jaxtyping import Array, Bool, Float64, Num

from mu_jax.config import InputError
from mu_jax.config.leaks import FEATURES

SUM_TOLERANCE = 1e-3
"""How far the sum of a posterior may lie from one: that of half-precision numbers over a few hundred classes."""

__all__ = ["FEATURES", "SUM_TOLERANCE", "checked_posteriors", "construct_features", "exact_ties"]


def construct_features(
    before: Num[Array | np.ndarray, "N C"], after: Num[Array | np.ndarray, "N C"], kind: str
) -> Float64[np.ndarray, "N F"]:
    """What the attacker's classifier reads of N pairs of posteriors, by one of `FEATURES` (see above); float64.

    Row n of both is what the models before and after a deletion say of the same example. Equal posteriors of one row
    keep their order in π. InputError where shapes differ, `kind` is unknown, or a row is no posterior.

    >>> construct_features(np.array([[0.7, 0.1, 0.2]]), np.array([[0.5, 0.4, 0.1]]), "sorted_concat")
    array([[0.1, 0.2, 0.7, 0.4, 0.1, 0.5]])
    """
    if kind not in FEATURES:
        close = difflib.get_close_matches(str(kind), FEATURES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "'direct_concat' is the plainest."
        raise InputError(f"the feature is {kind!r}, but expected one of {', '.join(FEATURES)}; {hint}")
    _check_shapes(before, after)
    p, q = checked_posteriors(before, "before"), checked_posteriors(after, "after")
    if kind.startswith("sorted"):
        order = np.argsort(p, axis=1, kind="stable")
        p, q = np.take_along_axis(p, order, axis=1), np.take_along_axis(q, order, axis=1)
    if kind.endswith("concat"):
        return np.concatenate([p, q], axis=1)
    difference = p - q
    return np.sqrt(np.sum(difference**2, axis=1, keepdims=True)) if kind == "l2" else difference


def exact_ties(
    before: Num[Array | np.ndarray, "N C"], after: Num[Array | np.ndarray, "N C"]
) -> Bool[np.ndarray, "N"]:
    """Which examples have posteriors before and after that are equal in all C numbers, to the bit.

    A tree's posteriors move only where a leaf changes. If most never-members tie and deleted members do not, attacks by
    differences look strong for that reason alone, so the share of ties belongs beside their figures.
    """
    _check_shapes(before, after)
    return np.all(np.asarray(before) == np.asarray(after), axis=1)


def checked_posteriors(posteriors: Num[Array | np.ndarray, "N C"], name: str) -> Float64[np.ndarray, "N C"]:
    """The posteriors in float64, or an InputError that names them and the first row that is none."""
    p = np.asarray(posteriors, np.float64)
    if p.ndim != 2 or p.shape[1] < 2:
        raise InputError(
            f"{name} has shape {list(p.shape)}, but expected [examples, classes] with 2 classes at least; give the "
            "posteriors of all classes."
        )
    fix = "expected posteriors: finite, none negative, with a sum of one; give the softmax of the logits."
    for bad, of in ((~np.isfinite(p), "are not finite"), (p < 0, "have negative numbers")):
        rows = np.flatnonzero(bad.any(axis=1))
        if rows.size:
            raise InputError(
                f"{rows.size} of {len(p)} rows of {name}, row {rows[0]} the first, {of}, but {fix}"
            )
    sums = p.sum(axis=1)
    rows = np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)
    if rows.size:
        raise InputError(
            f"{rows.size} of {len(p)} rows of {name} do not sum to one, row {rows[0]} the first, whose sum is "
            f"{sums[rows[0]]:.6g}, but {fix}"
        )
    return p


def _check_shapes(before: Num[Array | np.ndarray, "..."], after: Num[Array | np.ndarray, "..."]) -> None:
    if np.shape(before) != np.shape(after):
        raise InputError(
            f"before has shape {list(np.shape(before))} and after {list(np.shape(after))}, but expected the same "
            "[examples, classes]; ask both models about the same examples."
        )
