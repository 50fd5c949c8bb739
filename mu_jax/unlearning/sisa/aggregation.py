"""One prediction out of the shards' models: majority vote, mean posterior, mean logits.

Bourtoule et al., "Machine Unlearning", 2021: the vote by default, the mean where the vote loses too much. An aggregate
may use no training data, or deleting would have to change it too; these use the outputs alone.

`votes` says which of the S shards count. Shards with a pending deletion and shards that deletions have emptied do not,
and what the arrays hold for them is not read. All arithmetic is float64 on the host, a block of examples at a time, so
that arrays larger than memory work from disk.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Bool, Float64, Int, Num

from mu_jax.config import InputError

SUM_TOLERANCE = 1e-3
"""How far a posterior may be from summing to one: rounding to float16 passes, logits do not."""

BLOCK_ELEMENTS = 2**20
"""Outputs held in float64 at a time."""


def majority_vote(
    posteriors: Num[Array | np.ndarray, "S N C"], *, votes: Bool[np.ndarray, "S"] | None = None
) -> Float64[np.ndarray, "N C"]:
    """The class that most shards predict, as a posterior: 1 for that class, 0 for the others.

    A shard predicts the class of its largest posterior, the lower number where two are equal. Among classes with as
    many votes the larger mean posterior, over the shards that vote, decides; where that is equal too, the lower number.
    InputError where no shard votes, and for what are no posteriors.
    """
    result = np.zeros(np.shape(posteriors)[1:])
    for start, block in _voting("posteriors", posteriors, votes):
        cast = np.zeros(block.shape[1:])
        rows = np.arange(len(cast))
        for shard in block:
            cast[rows, np.argmax(shard, axis=1)] += 1
        leading = cast == cast.max(axis=1, keepdims=True)
        chosen = np.argmax(np.where(leading, block.mean(axis=0), -1.0), axis=1)
        result[start + rows, chosen] = 1.0
    return result


def mean_posterior(
    posteriors: Num[Array | np.ndarray, "S N C"], *, votes: Bool[np.ndarray, "S"] | None = None
) -> Float64[np.ndarray, "N C"]:
    """The mean of the posteriors of the shards that vote. InputError as in `majority_vote`."""
    result = np.empty(np.shape(posteriors)[1:])
    for start, block in _voting("posteriors", posteriors, votes):
        result[start : start + block.shape[1]] = block.mean(axis=0)
    return result


def mean_logits(
    logits: Num[Array | np.ndarray, "S N C"], *, votes: Bool[np.ndarray, "S"] | None = None
) -> Float64[np.ndarray, "N C"]:
    """The softmax of the mean logits of the shards that vote: the geometric mean of their posteriors, normalised.

    InputError where no shard votes, and for logits that are not finite.
    """
    result = np.empty(np.shape(logits)[1:])
    for start, block in _voting("logits", logits, votes):
        mean = block.mean(axis=0)
        mean = np.exp(mean - mean.max(axis=1, keepdims=True))
        result[start : start + len(mean)] = mean / mean.sum(axis=1, keepdims=True)
    return result


def _voting(
    name: str, outputs: Num[Array | np.ndarray, "S N C"], votes: Bool[np.ndarray, "S"] | None
) -> Iterator[tuple[int, Float64[np.ndarray, "V n C"]]]:
    """Consecutive examples' outputs of the shards that vote, checked, with the place of the first example."""
    array = np.asarray(outputs)
    if array.ndim != 3 or array.shape[0] == 0 or array.shape[2] == 0:
        raise InputError(
            f"{name} has shape {array.shape}, but expected [shards, examples, classes], with at least one shard and "
            "class; stack the outputs of the shards."
        )
    chosen = np.ones(len(array), bool) if votes is None else np.asarray(votes)
    if chosen.dtype != np.bool_ or chosen.shape != array.shape[:1]:
        raise InputError(
            f"votes has dtype {chosen.dtype} and shape {chosen.shape}, but expected a bool for each of the "
            f"{len(array)} shards; pass one each."
        )
    voting = np.flatnonzero(chosen)
    if voting.size == 0:
        raise InputError(
            f"None of the {len(array)} shards votes, but expected at least one to predict; carry out the pending "
            "deletions, or fit the ensemble again if they emptied every shard."
        )
    size = max(1, BLOCK_ELEMENTS // (voting.size * array.shape[2]))
    for start in range(0, array.shape[1], size):
        block = np.stack([array[shard, start : start + size] for shard in voting]).astype(np.float64)
        _check_block(name, block, start, voting)
        yield start, block


def _check_block(
    name: str, block: Float64[np.ndarray, "V n C"], start: int, voting: Int[np.ndarray, "V"]
) -> None:
    """Refuses outputs that are not finite, and posteriors that are none."""
    good = np.isfinite(block).all(axis=2)
    expected = "finite numbers, because infinite logits make no mean; leave this shard out by votes"
    if name == "posteriors":
        # A row that is not finite has no sum worth a warning.
        total = block.sum(axis=2, where=good[:, :, None])
        good &= (block >= 0).all(axis=2) & (np.abs(total - 1) <= SUM_TOLERANCE)
        expected = (
            f"probabilities, none negative, that sum to 1 within {SUM_TOLERANCE:g}; apply a softmax to logits, or "
            "leave this shard out by votes"
        )
    if not good.all():
        shard, row = np.argwhere(~good)[0]
        values = np.array2string(block[shard, row], precision=4, threshold=4, edgeitems=2)
        raise InputError(
            f"{name} of shard {voting[shard]}, example {start + row}, are {values}, but expected {expected}."
        )
