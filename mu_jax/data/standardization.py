"""Constants that bring a table's columns to one scale."""

import numpy as np
from jaxtyping import Float32

from mu_jax.config import InputError


def constants(
    rows: Float32[np.ndarray, "M 1 1 F"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std), one value a column: what `data.mean` and `data.std` of a table may be.

    The standard deviation is over M, in float64; a column that is the same in every row gets 1, and so becomes 0.

    Give rows that are in no training set, such as some of the test set that are then left alone. Constants computed
    from training rows remember rows that are deleted later: the unlearned model, and a model retrained without them,
    would both read inputs that those rows had moved. InputError where there are no rows, or values are not finite.

    >>> constants(np.array([[1.0, 7.0], [3.0, 7.0]], np.float32)[:, None, None, :])
    ((2.0, 7.0), (1.0, 1.0))
    """
    if len(rows) == 0 or not np.isfinite(rows).all():
        raise InputError(
            f"The rows have shape {rows.shape}, {np.sum(~np.isfinite(rows))} values are not finite, but expected one "
            "row at least and numbers alone; give rows that are in no training set."
        )
    values = rows[:, 0, 0, :].astype(np.float64)
    # By its extremes, because a mean that is rounded leaves a column of equal values a spread of its last digit.
    is_constant = values.max(axis=0) == values.min(axis=0)
    mean = np.where(is_constant, values[0], values.mean(axis=0))
    std = np.where(is_constant, 1.0, values.std(axis=0))
    return tuple(mean.tolist()), tuple(std.tolist())
