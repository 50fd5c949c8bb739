"""Means and spreads of φ over a pool's models, IN and OUT, a block of examples at a time.

The statistics are those of single (example, augmentation) columns, so blocks of examples go to threads (NumPy works
without the interpreter's lock), each small enough to stay in cache: float32 is read once, and no float64 copy of the
whole is ever made. A column's sums run over the models in their order, so bits depend neither on the block's size nor
on the number of threads.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from mu_jax.config import InputError
from mu_jax.training.cpu_threads import usable_cores

BLOCK_ELEMENTS = 2**19
"""Float64 numbers of a block (4 MiB); more where there are very many models or augmentations. With twice as many, the
allocator gave each block's memory back and the page faults doubled the time (128 models, 18 augmentations)."""
BLOCK_COLUMNS = 2**13
"""(Example, augmentation) columns of a block at most: what is done a model at a time then stays in a core's cache."""
GROUP_EXAMPLES = 64
"""Sums over examples are taken over groups of so many first, whatever the block; a block is some whole groups."""
LARGEST = float(np.finfo(np.float32).max)
"""φ is finite in float32 by contract; no square or ratio of what follows then overflows float64."""

_Result = TypeVar("_Result")


class Side(NamedTuple):
    """What the models on one side of each example say: those that hold it (IN), or those that do not (OUT)."""

    count: Int[np.ndarray, "N"]
    """Models on this side."""
    mean: Float64[np.ndarray, "N A"]
    squares: Float64[np.ndarray, "N A"]
    """Σ (φ − mean)² over the side's models: centred on the example's own mean."""


def map_blocks(
    function: Callable[[slice], _Result], models: int, examples: int, augmentations: int
) -> Iterator[_Result]:
    """What `function` returns for each block of examples, in order, computed on all usable cores."""
    columns = min(BLOCK_ELEMENTS // models, BLOCK_COLUMNS)
    size = GROUP_EXAMPLES * max(1, columns // (augmentations * GROUP_EXAMPLES))
    blocks = [slice(first, min(first + size, examples)) for first in range(0, examples, size)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(function, blocks)


def block_values(phi: Float[np.ndarray, "K N A"], block: slice) -> Float64[np.ndarray, "K J"]:
    """A block of φ in float64, its examples and augmentations as J columns."""
    part = phi[:, block]
    values = np.empty(part.shape, np.float64)
    np.copyto(values, part)
    return values.reshape(len(phi), -1)


def side_statistics(
    name: str, phi: Float[np.ndarray, "K N A"], sides: tuple[Bool[np.ndarray, "K N"], ...]
) -> tuple[Side, ...]:
    """The statistics of each side, in two passes over a block in cache, so that no digits cancel.

    InputError, calling φ by `name`, where they are not finite.
    """
    shape = phi.shape[1:]
    found = tuple(Side(side.sum(axis=0), np.empty(shape), np.empty(shape)) for side in sides)

    def fill(block: slice) -> bool:
        values = block_values(phi, block)
        # What is infinite or no number shows in the results; NumPy's own warning would say less than our error.
        with np.errstate(over="ignore", invalid="ignore"):
            for side, (count, mean, squares) in zip(sides, found, strict=True):
                weight = np.repeat(side[:, block].astype(np.float64), shape[1], axis=1)
                centre = np.einsum("kj,kj->j", weight, values) / np.repeat(count[block], shape[1])
                deviation = values - centre
                mean[block] = centre.reshape(-1, shape[1])
                squares[block] = np.einsum("kj,kj,kj->j", weight, deviation, deviation).reshape(-1, shape[1])
        # A weight of zero times a φ that is not finite is NaN, so each side sees the φ of all models.
        return all(np.isfinite(squares[block]).all() for *_, squares in found)

    if not all(list(map_blocks(fill, *phi.shape))) or phi.dtype.itemsize > 4:
        require_finite(name, phi)
    return found


def side_medians(
    phi: Float[np.ndarray, "K N A"], side: Bool[np.ndarray, "K N"]
) -> Float64[np.ndarray, "N A"]:
    """The median over the models of a side that is equally large for all examples."""
    found = np.empty(phi.shape[1:])
    count = int(side[:, 0].sum())
    middle = sorted({(count - 1) // 2, count // 2})

    def fill(block: slice) -> None:
        values = block_values(phi, block)
        values[~np.repeat(side[:, block], phi.shape[2], axis=1)] = np.inf
        ordered = np.partition(values, middle, axis=0)
        found[block] = ordered[middle].mean(axis=0).reshape(-1, phi.shape[2])

    list(map_blocks(fill, *phi.shape))
    return found


def require_finite(name: str, phi: Float[np.ndarray, "*shape"]) -> None:
    """InputError for NaN, infinities, and what would be one in float32."""
    bad = sum(int(np.sum(~(np.abs(part.astype(np.float64)) <= LARGEST))) for part in phi)
    if bad:
        raise InputError(
            f"{bad} of {phi.size} values of {name} are not finite in float32, but expected the logit margins "
            "of models that did not diverge; leave diverged models out, and compute φ with "
            "mu_jax.attacks.signals.logit_margin."
        )


def group_sums(values: Float64[np.ndarray, "J"], augmentations: int) -> Float64[np.ndarray, "G A"]:
    """Sums over each group of the block's examples; the last group may be smaller."""
    rows = values.reshape(-1, augmentations)
    whole = len(rows) // GROUP_EXAMPLES * GROUP_EXAMPLES
    sums = rows[:whole].reshape(-1, GROUP_EXAMPLES, augmentations).sum(axis=1)
    return np.concatenate([sums, rows[whole:].sum(axis=0, keepdims=True)]) if whole < len(rows) else sums
