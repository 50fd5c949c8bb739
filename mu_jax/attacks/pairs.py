"""How many of a population each example exceeds: pairs (x, z) counted without ever holding them all."""

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int

from mu_jax.config import InputError

_NAME = "mu_jax_pairs"
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
        ordered = np.sort(np.ascontiguousarray(bar.T), axis=1)
        above = np.zeros(examples, np.int64)

        def count(part: slice) -> None:
            for a in range(views):
                ratios = ratio[part, a]
                order = np.argsort(ratios)
                above[part.start + order] += _number_below(ratios[order], ordered[a])

        each(count, even_parts(examples, 2**14, workers), workers)
        own_above, units = own.sum(axis=1), views
    met = np.bincount(index[itself], minlength=examples)
    if np.any(met == len(bar)):
        raise InputError(
            f"example {np.argmax(met)} is all of the population, but expected others to compare it with; give a larger "
            "population."
        )
    above = above - np.bincount(index[itself], weights=own_above, minlength=examples)
    return above / (units * (len(bar) - met))


def _number_below(ratios: Float[np.ndarray, "n"], bars: Float[np.ndarray, "Z"]) -> Int[np.ndarray, "n"]:
    """How many bars lie strictly below each ratio, both ascending: the shorter list is looked up in the longer one."""
    if len(ratios) <= len(bars):
        return np.searchsorted(bars, ratios)
    not_above = np.searchsorted(ratios, bars, side="right")
    return np.cumsum(np.bincount(not_above, minlength=len(ratios) + 1)[:-1])


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


def even_parts(total: int, most: int, workers: int) -> list[slice]:
    """Slices of at most `most` each that cover `total`, as even as can be, and as many for every worker."""
    count = max(1, -(-total // most))
    count = min(-(-count // workers) * workers, total)
    ends = np.linspace(0, total, count + 1).astype(int).tolist()
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def each(work: Callable, items: Sequence, workers: int) -> list:
    """The work done for every item, by threads: NumPy leaves the interpreter free while it counts."""
    if workers < 2 or len(items) < 2:
        return [work(item) for item in items]
    if threading.current_thread().name.startswith(_NAME):
        # A task of a pool may not wait for the pool's others: they may all be waiting.
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(work, items))
    return list(_threads(workers).map(work, items))


@functools.cache
def _threads(workers: int) -> ThreadPoolExecutor:
    """Kept: starting threads takes longer than many an attack."""
    return ThreadPoolExecutor(workers, thread_name_prefix=_NAME)
