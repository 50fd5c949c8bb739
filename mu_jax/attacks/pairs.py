"""How many of a population each example exceeds: pairs (x, z) counted without ever holding them all."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int

from mu_jax.config import InputError

VOTE_BLOCK = (32, 8192)
"""Examples and population examples whose votes are held at a time; a byte a pair fits in a core's cache."""


def share_above(
    ratio: Float[np.ndarray, "N A"],
    bar: Float[np.ndarray, "Z A"],
    index: Int[np.ndarray, "Z"],
    vote: str,
    workers: int,
) -> Float[np.ndarray, "N"]:
    """The share of z whose bar γ·ratio(z) each ratio exceeds, pairs of an example with itself left out."""
    examples, views = ratio.shape
    itself = np.flatnonzero(index >= 0)
    own = ratio[index[itself]] > bar[itself]
    if vote == "majority" and views > 1:
        if views > 255:
            raise InputError(f"there are {views} augmentations, but expected at most 255; use vote='mean'.")
        above, own_above, units = _majorities(ratio, bar, workers), 2 * own.sum(axis=1) > views, 1
    else:
        ordered, step = np.sort(np.ascontiguousarray(bar.T), axis=1), 2**14
        above = np.zeros(examples, np.int64)

        def count(start: int) -> None:
            for a in range(views):
                # How many bars lie strictly below; found in ascending order, which is kinder to caches.
                order = start + np.argsort(ratio[start : start + step, a])
                above[order] += np.searchsorted(ordered[a], ratio[order, a])

        each(count, range(0, examples, step), workers)
        own_above, units = own.sum(axis=1), views
    met = np.bincount(index[itself], minlength=examples)
    if np.any(met == len(bar)):
        raise InputError(
            f"example {np.argmax(met)} is all of the population, but expected others to compare it with; give a larger "
            "population."
        )
    above = above - np.bincount(index[itself], weights=own_above, minlength=examples)
    return above / (units * (len(bar) - met))


def _majorities(
    ratio: Float[np.ndarray, "N A"], bar: Float[np.ndarray, "Z A"], workers: int
) -> Int[np.ndarray, "N"]:
    """For each x the number of z whose bar it exceeds in more than half of the augmentations.

    Majorities do not separate into x and z, but each comparison does: x exceeds a bar exactly where more bars lie below
    x than below that bar. So 16-bit ranks are compared instead of float64, four times as many at once.
    """
    examples, views = ratio.shape
    rows, columns = VOTE_BLOCK
    above = np.zeros(examples, np.int64)
    for start in range(0, len(bar), columns):
        block = np.ascontiguousarray(bar[start : start + columns].T)
        ordered = np.sort(block, axis=1)
        z_rank = np.stack([np.searchsorted(o, b) for o, b in zip(ordered, block, strict=True)]).astype(
            np.uint16
        )
        x_rank = np.stack(
            each(lambda a, o=ordered: np.searchsorted(o[a], ratio[:, a]), range(views), workers)
        )
        x_rank = x_rank.astype(np.uint16)[:, :, None]

        def count(first: int, x_rank=x_rank, z_rank=z_rank) -> None:
            part = x_rank[:, first : first + rows]
            one = np.empty((part.shape[1], z_rank.shape[1]), bool)
            votes = np.zeros(one.shape, np.uint8)
            for a in range(views):
                np.greater(part[a], z_rank[a], out=one)
                np.add(votes, one.view(np.uint8), out=votes)
            np.greater(votes, views // 2, out=one)
            above[first : first + rows] += [np.count_nonzero(row) for row in one]

        each(count, range(0, examples, rows), workers)
    return above


def each(work: Callable, items: Sequence, workers: int) -> list:
    """The work done for every item, by threads: NumPy leaves the interpreter free while it counts."""
    if workers < 2 or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=workers) as threads:
        return list(threads.map(work, items))
