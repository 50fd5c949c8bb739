"""Linear filtration: a class is deleted by one matrix on the logits, folded into the classifier's head.

Baumhauer et al., "Machine Unlearning: Linear Filtration for Logit-based Classifiers", 2020. Nothing is retrained, so
this hides a class rather than forgets it: the features below the head are the same as before.

Matrices are laid out as in the paper: logits down, classes across. `class_means[j, i]` is the mean of logit j over
samples of class i, and a filter F maps one sample's logits z to F·z. All of it is float64 on the host, C being small.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Array, Float, Int, Num

from mu_jax.config import InputError

Mode = Literal["naive", "normalization", "randomization", "zeroing"]

MAX_CONDITION = 1e6
"""Largest condition number of the class means: float32 logits carry seven digits, of which it would leave one."""


def class_means_of(
    logits: Num[Array | np.ndarray, "N C"], labels: Int[Array | np.ndarray, "N"], classes: int
) -> Float[np.ndarray, "C C"]:
    """The mean logits of every class, a column each: what `filtration_matrix` takes.

    The authors' code takes them over test examples, all of a class or only 100 or 10; a deleted class needs some too.
    Only the logits of one class are copied at a time. InputError for a class without samples, labels outside 0 to
    C − 1, or logits that are not finite.
    """
    values, label = np.asarray(logits), np.asarray(labels)
    _check_logits(values, label, classes)
    if label.size and not 0 <= label.min() <= label.max() < classes:
        raise InputError(
            f"labels run from {label.min()} to {label.max()}, but expected 0 to {classes - 1}; drop samples "
            "of other classes."
        )
    missing = np.flatnonzero(np.bincount(label, minlength=classes) == 0)
    if missing.size:
        raise InputError(
            f"{_named(missing)} no samples among the {label.size}, but expected some of every class, deleted ones "
            "included; give more examples."
        )
    means = np.stack([values[label == i].mean(axis=0, dtype=np.float64) for i in range(classes)], axis=1)
    _check_finite(means)
    return means


def filtration_matrix(
    class_means: Num[Array | np.ndarray, "C C"],
    deleted: int | Sequence[int],
    mode: Mode,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "retained C"]:
    """The filter F = B·A⁻¹ from C logits to those of the C − |D| classes that stay, in their order.

    A is `class_means`, B is A without the rows of the deleted classes D and with another column in place of each x
    that belongs to a deleted class:

        naive           x itself, so that F just drops the deleted logits
        normalization   x + (mean of all retained columns' entries) − (mean of x)
        randomization   N(0, 1), drawn by the seed
        zeroing         0

    So F·z answers a mean sample of a retained class as before, and one of a deleted class by the new column.
    Normalization adds one number to all logits of a sample, which softmax does not see: its probabilities, and so
    any attack on them, are those of `naive`; only raw logits differ. (Checked; the two others change probabilities.)

    A must be invertible, whatever the mode: InputError where its condition number is above `MAX_CONDITION`. A softmax
    classifier is free to have logits that sum to 0, as scikit-learn's logistic regression does, and then A is
    singular: one constant on the head's bias, which changes no probability, cures it. Also for means that are not
    finite, an unknown mode, and deleted classes that repeat, are out of range or are all there are.

    >>> means = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 2.0], [0.0, 2.0, 4.0]])
    >>> filtration_matrix(means, 2, "zeroing").round(3)
    array([[ 1.   ,  0.   ,  0.   ],
           [ 0.   ,  1.333, -0.667]])
    """
    means = np.asarray(class_means, np.float64)
    if means.ndim != 2 or means.shape[0] != means.shape[1]:
        raise InputError(
            f"class_means has shape {means.shape}, but expected [C, C], logits by classes; compute it with "
            "class_means_of."
        )
    if mode not in get_args(Mode):
        raise InputError(
            f"mode is {mode!r}, but expected one of {', '.join(get_args(Mode))}; choose one of them."
        )
    gone = _checked_classes(deleted, means.shape[0])
    _check_finite(means)
    _check_condition(means)
    retained = np.delete(np.arange(means.shape[0]), gone)
    before = means[np.ix_(retained, gone)]
    if mode == "naive":
        change = np.zeros_like(before)
    elif mode == "normalization":
        change = np.broadcast_to(means[np.ix_(retained, retained)].mean() - before.mean(axis=0), before.shape)
    elif mode == "randomization":
        change = np.random.default_rng(seed).standard_normal(before.shape) - before
    else:
        change = -before
    # B·A⁻¹ as selection plus what the new columns change: this way naive is a selection to the last bit.
    return np.eye(means.shape[0])[retained] + change @ np.linalg.inv(means)[gone]


def with_deleted_outputs(
    filter_matrix: Float[np.ndarray, "retained C"], deleted: int | Sequence[int], *, margin: float = 30.0
) -> tuple[Float[np.ndarray, "C C"], Float[np.ndarray, "C"]]:
    """The filter with C outputs again, as z ↦ F'·z + b': a deleted class lies `margin` below the retained ones' mean.

    Retrained models keep the column of a class they never saw, and attacks compare models of one shape. The largest
    logit is never below the mean, so a deleted class's probability is at most exp(−margin) for any sample at all:
    1e-13 at 30, still above 0 in float32, and no logit is infinite. A constant was rejected: a sample whose logits are
    all low would get the deleted class back, and normalization would no longer equal naive after softmax.
    """
    matrix = _checked_filter(filter_matrix)
    classes = matrix.shape[1]
    gone = _checked_classes(deleted, classes)
    if classes - gone.size != matrix.shape[0]:
        raise InputError(
            f"The filter has shape {matrix.shape} and {gone.size} deleted classes are named, but expected as many rows "
            f"as classes stay, {classes - gone.size}; name the classes it was made for."
        )
    if not 0 < margin < np.inf:
        raise InputError(f"margin is {margin}, but expected a positive finite number of nats; 30 is usual.")
    whole = np.empty((classes, classes))
    whole[np.delete(np.arange(classes), gone)] = matrix
    whole[gone] = matrix.mean(axis=0)
    shift = np.zeros(classes)
    shift[gone] = -margin
    return whole, shift


def filter_logits(
    logits: Num[Array | np.ndarray, "N C"],
    filter_matrix: Float[np.ndarray, "retained C"],
    *,
    deleted: int | Sequence[int] | None = None,
    margin: float = 30.0,
) -> Float[np.ndarray, "N outputs"]:
    """Logits as the filtered model gives them: of the classes that stay, or of all C where `deleted` names the others.

    The same as folding the filter into the head, for models of which only the logits are at hand; with C outputs as
    `with_deleted_outputs` says. Float64.
    """
    matrix, shift = _affine(filter_matrix, deleted, margin)
    values = np.asarray(logits)
    if values.ndim != 2 or values.shape[1] != matrix.shape[1]:
        raise InputError(
            f"logits have shape {values.shape}, but expected [N, {matrix.shape[1]}] for this filter; give the logits "
            "of the model whose class means made it."
        )
    return values @ matrix.T + shift


def fold_into_head(
    kernel: Float[Array | np.ndarray, "D C"],
    bias: Float[Array | np.ndarray, "C"],
    filter_matrix: Float[np.ndarray, "retained C"],
    *,
    deleted: int | Sequence[int] | None = None,
    margin: float = 30.0,
) -> tuple[Float[np.ndarray, "D outputs"], Float[np.ndarray, "outputs"]]:
    """The head x ↦ x·W + b with the filter inside it: W' = W·Fᵀ and b' = b·Fᵀ, in the head's own precision.

    Without `deleted` the model has C − |D| outputs, those of the classes that stay. Where it names the classes that
    the filter removes, the model keeps C, as `with_deleted_outputs` says. A head without bias has one of zeros.
    """
    matrix, shift = _affine(filter_matrix, deleted, margin)
    weights, offset = np.asarray(kernel), np.asarray(bias)
    if weights.ndim != 2 or offset.shape != weights.shape[1:] or weights.shape[1] != matrix.shape[1]:
        raise InputError(
            f"The kernel has shape {weights.shape}, the bias {offset.shape} and the filter takes {matrix.shape[1]} "
            f"logits, but expected [D, C], [C] and C of them; give the last layer, and the filter made for its classes."
        )
    folded = weights.astype(np.float64) @ matrix.T
    return folded.astype(weights.dtype), (offset.astype(np.float64) @ matrix.T + shift).astype(offset.dtype)


def _affine(
    filter_matrix: Float[np.ndarray, "retained C"], deleted: int | Sequence[int] | None, margin: float
) -> tuple[Float[np.ndarray, "outputs C"], Float[np.ndarray, "outputs"]]:
    if deleted is not None:
        return with_deleted_outputs(filter_matrix, deleted, margin=margin)
    matrix = _checked_filter(filter_matrix)
    return matrix, np.zeros(matrix.shape[0])


def _checked_filter(filter_matrix: np.ndarray) -> Float[np.ndarray, "retained C"]:
    matrix = np.asarray(filter_matrix, np.float64)
    if matrix.ndim != 2 or not 0 < matrix.shape[0] < matrix.shape[1]:
        raise InputError(
            f"The filter has shape {matrix.shape}, but expected [C − |D|, C]; make it with filtration_matrix."
        )
    return matrix


def _checked_classes(deleted: int | Sequence[int] | np.ndarray, classes: int) -> Int[np.ndarray, "gone"]:
    gone = np.atleast_1d(np.asarray(deleted))
    if (
        gone.ndim != 1
        or gone.dtype.kind not in "iu"
        or not gone.size
        or gone.min() < 0
        or gone.max() >= classes
    ):
        raise InputError(
            f"deleted is {deleted!r}, but expected one or more classes from 0 to {classes - 1}; name those to delete."
        )
    if np.unique(gone).size != gone.size:
        raise InputError(f"deleted is {deleted!r}, but expected each class once; drop the repeats.")
    if gone.size == classes:
        raise InputError(f"All {classes} classes are deleted, but expected at least one to stay; name fewer.")
    return gone


def _check_logits(values: np.ndarray, label: np.ndarray, classes: int) -> None:
    if values.ndim != 2 or values.shape[1] != classes or label.shape != values.shape[:1]:
        raise InputError(
            f"logits have shape {values.shape} and labels {label.shape} for {classes} classes, but expected "
            f"[N, {classes}] and [N]; give one label a row and one logit a class."
        )


def _check_finite(means: Float[np.ndarray, "C C"]) -> None:
    bad = np.flatnonzero(~np.isfinite(means).all(axis=0))
    if bad.size:
        raise InputError(
            f"{_named(bad)} mean logits that are not finite, but expected finite ones; leave out samples with "
            "infinite logits, and give every class some samples."
        )


def _check_condition(means: Float[np.ndarray, "C C"]) -> None:
    """Says what is wrong by the singular vectors of the smallest singular value.

    The right one combines class means to almost nothing, the left one logits.
    """
    left, values, right = np.linalg.svd(means)
    if values[-1] * MAX_CONDITION >= values[0] > 0:
        return
    condition = values[0] / values[-1] if values[-1] > 0 else np.inf
    start = f"The class means have condition number {condition:.1e}, but expected at most {MAX_CONDITION:.0e}"
    if abs(left[:, -1].sum()) > 0.999 * np.sqrt(means.shape[0]) and values[0] > 0:
        raise InputError(
            f"{start}, because every class's mean logits sum to about 0; add one constant, such as 1, to all logits "
            "(to the head's bias), which changes no probability."
        )
    weight = np.abs(right[-1])
    blamed = np.flatnonzero(weight > 0.1 * weight.max()) if values[0] > 0 else np.arange(means.shape[0])
    if blamed.size == 1:
        what = f"the mean logits of class {blamed[0]} are all about 0"
    else:
        what = f"the mean logits of classes {_listed(blamed)} are the same or follow from one another"
    raise InputError(
        f"{start}: {what}; give more samples of {'it' if blamed.size == 1 else 'them'}, or train longer."
    )


def _named(classes: Int[np.ndarray, "some"]) -> str:
    if classes.size == 1:
        return f"Class {classes[0]} has"
    return f"Classes {_listed(classes)} have"


def _listed(classes: Int[np.ndarray, "some"]) -> str:
    first = [str(i) for i in classes[:10]]
    return ", ".join(first) + (f" and {classes.size - 10} more" if classes.size > 10 else "")
