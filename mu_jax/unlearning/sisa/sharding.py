"""Which example lies in which slice of which shard, and how long a slice trains.

Bourtoule et al., "Machine Unlearning", 2021. Each of S shards trains its own model in R steps; step i trains on the
shard's first i slices and starts from the checkpoint of step i − 1. Everything here counts from 0.

Where an example lies is settled once. Deleting others never moves it, so shards and slices grow uneven, and in the end
empty. The layout is a function of positions, a seed and, where wanted, probabilities: never of the data itself.
"""

import dataclasses
import functools
import itertools
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write
from mu_jax.data.random_streams import host_stream
from mu_jax.unlearning.sisa.cost import even_sizes


@dataclasses.dataclass(frozen=True, eq=False)
class Sharding:
    """Positions of examples, for each shard slice by slice; `slices[s][r]` is slice r of shard s.

    Slices are sorted, so that what trains on one depends on which examples it holds and on nothing else. InputError
    for shards with different numbers of slices, or where a position stands twice.
    """

    # int64 [n] each, n may be 0; plain arrays to the type checker, because __post_init__ checks them in every run.
    slices: tuple[tuple[np.ndarray, ...], ...]

    def __post_init__(self) -> None:
        counts = {len(shard) for shard in self.slices}
        if len(counts) != 1 or counts == {0}:
            raise InputError(
                f"The shards have {sorted(counts)} slices, but expected one number of slices, at least 1, for all of "
                "at least one shard; fill up with empty slices."
            )
        for array in itertools.chain.from_iterable(self.slices):
            if (
                array.dtype != np.int64
                or array.ndim != 1
                or np.any(np.diff(array) <= 0)
                or np.any(array[:1] < 0)
            ):
                raise InputError(
                    f"A slice has dtype {array.dtype} and shape {array.shape}, but expected sorted int64 positions "
                    "without repeats, none negative; make it with np.unique."
                )
        positions = self.examples
        if np.any(positions[1:] == positions[:-1]):
            twice = positions[1:][positions[1:] == positions[:-1]][0]
            raise InputError(
                f"Position {twice} lies in two slices, but expected every example in one; draw the sharding again."
            )

    @property
    def sizes(self) -> Int64[np.ndarray, "S R"]:
        """How many examples each slice holds."""
        return np.array([[len(array) for array in shard] for shard in self.slices], np.int64)

    @property
    def examples(self) -> Int64[np.ndarray, "N"]:
        """All positions, sorted. Read-only."""
        return self._places[0]

    def prefix(self, shard: int, slice: int) -> Int64[np.ndarray, "M"]:
        """What step `slice` of a shard trains on: slices 0 … `slice` together, sorted."""
        return np.sort(np.concatenate(self.slices[shard][: slice + 1]))

    def location(
        self, examples: Int[np.ndarray, "n"]
    ) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """The shard and the slice of each of some positions; −1 and −1 for those that are not, or no longer, here."""
        wanted = _checked_positions("examples", examples)
        positions, codes = self._places
        if positions.size == 0:
            return np.full(wanted.shape, -1), np.full(wanted.shape, -1)
        place = np.minimum(np.searchsorted(positions, wanted), positions.size - 1)
        shard, slice = np.divmod(codes[place], len(self.slices[0]))
        here = positions[place] == wanted
        return np.where(here, shard, -1), np.where(here, slice, -1)

    def earliest(self, indices: Int[np.ndarray, "n"]) -> Int64[np.ndarray, "S"]:
        """The first slice of each shard that holds any of `indices`, where its retraining begins; R where none does."""
        first = np.full(len(self.slices), len(self.slices[0]))
        shard, slice = self.location(indices)
        np.minimum.at(first, shard[shard >= 0], slice[shard >= 0])
        return first

    def without(self, indices: Int[np.ndarray, "n"]) -> "Sharding":
        """The same with some positions removed; all others stay in their shard and slice.

        Positions that are not here change nothing, so a request may be applied twice.
        """
        indices = np.unique(_checked_positions("indices", indices))
        shard, slice = self.location(indices)
        kept = [list(shard) for shard in self.slices]
        # Slice by slice, each with its own: searching all of them for every slice takes seconds for thousands.
        order = np.lexsort((slice, shard))[np.count_nonzero(shard < 0) :]
        starts = np.flatnonzero(np.diff(shard[order], prepend=-1) | np.diff(slice[order], prepend=-1))
        for group in np.split(order, starts[1:]) if order.size else ():
            s, r = shard[group[0]], slice[group[0]]
            kept[s][r] = np.delete(kept[s][r], np.searchsorted(kept[s][r], indices[group]))
        return Sharding(tuple(map(tuple, kept)))

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file at once or not at all: a kill leaves the old file or the new one."""
        positions = np.concatenate(list(itertools.chain.from_iterable(self.slices)))
        with atomic_write(Path(path)) as file:
            np.savez(file, positions=positions, sizes=self.sizes)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Sharding":
        """Reads what `save` wrote; InputError where the file is missing or damaged."""
        try:
            with open_archive(path) as archive:
                positions, sizes = archive["positions"], archive["sizes"]
            fits = positions.ndim == 1 and sizes.ndim == 2 and sizes.dtype == np.int64 and sizes.size > 0
            # Summed as Python's integers, which do not wrap around.
            if not fits or sizes.min() < 0 or sum(sizes.ravel().tolist()) != len(positions):
                raise ValueError("its sizes do not fit its positions")
            parts = iter(np.split(positions, np.cumsum(sizes)[:-1]))
            return cls(tuple(tuple(itertools.islice(parts, sizes.shape[1])) for _ in sizes))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except UNREADABLE as error:
            raise InputError(
                f"{path} cannot be read as a sharding ({error}), but expected a file that Sharding.save wrote; "
                "restore it, or fit the ensemble again in a new folder."
            ) from error

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """All positions, sorted, and beside each shard · R + slice."""
        positions = np.concatenate(list(itertools.chain.from_iterable(self.slices))).astype(np.int64)
        codes = np.repeat(np.arange(self.sizes.size), self.sizes.ravel())
        order = np.argsort(positions, kind="stable")
        places = positions[order], codes[order]
        for array in places:
            array.flags.writeable = False
        return places


def uniform_sharding(examples: Int[np.ndarray, "N"], shards: int, slices: int, seed: int) -> Sharding:
    """N examples dealt at random to S shards of R slices, all as even as `even_sizes` makes them.

    None is left over. The result depends on which positions are given, not on their order. InputError for fewer than
    one example a slice.
    """
    positions = np.sort(_checked_distinct(examples))
    for name, value in (("shards", shards), ("slices", slices)):
        _check_count(name, value)
    if shards * slices > positions.size:
        raise InputError(
            f"{shards} shards of {slices} slices were asked of {positions.size} examples, but expected at least one "
            "example a slice; use fewer shards or slices."
        )
    dealt = host_stream(seed, "sisa uniform sharding").permutation(positions)
    return _cut(dealt, np.cumsum(even_sizes(dealt.size, shards)), slices)


def distribution_aware_sharding(
    examples: Int[np.ndarray, "N"],
    deletion_probability: Float[np.ndarray, "N"],
    capacity: float | int,
    slices: int,
    seed: int,
) -> Sharding:
    """Shards of about as many expected deletions each: many examples where deletion is unlikely, few where likely.

    The paper's greedy rule. By ascending probability p, ties in seeded order, a shard takes examples while its sum of p
    stays below C = `capacity` ≤ 1; the one that would reach C opens the next shard. Only an example with p ≥ C, which
    fits nowhere, is a shard of its own that does reach C. A sum within 10⁻⁹ of C counts as reaching it, so that eight
    times 0.1 is 0.8. C and p decide how many shards there are.

    Within a shard the order of ascending p stays: the slices are its even parts, larger ones first, and the likeliest
    deletions lie in the last, where they cost least to retrain (the paper leaves this open). A shard of fewer examples
    than slices leaves its last slices empty. InputError for p outside [0, 1] and C outside (0, 1].
    """
    positions = _checked_distinct(examples)
    _check_count("slices", slices)
    p = np.asarray(deletion_probability, np.float64)
    if p.shape != positions.shape or not np.all((p >= 0) & (p <= 1)):
        bad = "" if p.shape != positions.shape else f", {p[~((p >= 0) & (p <= 1))][0]} among them"
        raise InputError(
            f"deletion_probability has shape {p.shape}{bad}, but expected a probability in [0, 1] for each of the "
            f"{positions.size} examples; give one each."
        )
    if not 0 < capacity <= 1:
        raise InputError(
            f"capacity is {capacity}, but expected an expected number of deletions a shard above 0 and at most 1; "
            "lower it for more shards."
        )
    order = np.argsort(positions)
    # Ties would otherwise put neighbours together, and data sets are often sorted by class.
    order = host_stream(seed, "sisa distribution-aware sharding").permutation(order)
    order = order[np.argsort(p[order], kind="stable")]
    return _cut(positions[order], _greedy_ends(p[order], capacity * (1 - 1e-9)), slices)


def slice_epochs(total_epochs: float | int, slices: int, *, whole: bool = False) -> Float64[np.ndarray, "R"]:
    """Epochs of each step, so that a shard costs as much as `total_epochs` e₀ over all of it at once.

    The paper's rule is a = 2e₀/(R + 1) for each of the R steps, an epoch of step i being one pass over slices 0 … i:
    Σ a·(i + 1)/R = e₀. Fractions are exact, and the default. `whole` rounds where steps end, ⌊a·i + ½⌋, so that the
    whole numbers add up to 2R·e₀/(R + 1) to the nearest one. For a ≥ 1 every step then has an epoch. For a < 1 no step
    has two, and some must have none: such a step keeps the parameters of the one before.

    >>> slice_epochs(10, 4)
    array([4., 4., 4., 4.])
    >>> slice_epochs(4, 4, whole=True)
    array([2., 1., 2., 1.])
    """
    _check_count("slices", slices)
    if not 0 < total_epochs < np.inf:
        raise InputError(f"total_epochs is {total_epochs}, but expected a positive number; give some epochs.")
    if not whole:
        return np.full(slices, 2 * total_epochs / (slices + 1))
    ends = np.floor(2 * total_epochs * np.arange(slices + 1) / (slices + 1) + 0.5)
    if ends[-1] == 0:
        raise InputError(
            f"total_epochs is {total_epochs}, which rounds to no whole epoch in {slices} slices; use more epochs or "
            "fractions."
        )
    return np.diff(ends)


def _cut(order: Int64[np.ndarray, "N"], ends: Int[np.ndarray, "S"], slices: int) -> Sharding:
    """Consecutive shards up to each of `ends`, cut into even slices."""
    shards = np.split(order, ends[:-1])
    return Sharding(tuple(tuple(np.sort(part) for part in np.array_split(shard, slices)) for shard in shards))


def _greedy_ends(p: Float64[np.ndarray, "N"], limit: float) -> Int64[np.ndarray, "S"]:
    """Where the shards end that take from ascending `p` while their sum is below `limit`, at least one example each."""
    ends, start, width = [], 0, 1024
    while start < p.size:
        # A few at a time, because a sum over all that is left, for every shard, is quadratic.
        taken = int(np.searchsorted(np.cumsum(p[start : start + width]), limit))
        if taken == width and start + width < p.size:
            width *= 2
            continue
        # No later shard takes more, p being ascending.
        start, width = start + max(taken, 1), taken + 1
        ends.append(start)
    return np.array(ends, np.int64)


def _checked_positions(name: str, positions: np.ndarray) -> Int64[np.ndarray, "n"]:
    array = np.asarray(positions)
    # Anything empty may pass: np.array([]) is float64.
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(
            f"{name} has dtype {array.dtype} and shape {array.shape}, but expected a list of integers, positions of "
            "examples; for a mask of bool pass np.flatnonzero of it."
        )
    return array.astype(np.int64)


def _checked_distinct(examples: np.ndarray) -> Int64[np.ndarray, "N"]:
    positions = _checked_positions("examples", examples)
    ordered = np.sort(positions)
    if not ordered.size or ordered[0] < 0 or np.any(ordered[1:] == ordered[:-1]):
        raise InputError(
            f"examples holds {positions.size} positions, but expected at least one, none negative, each once; pass "
            "np.unique of those to train on."
        )
    return positions


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}, but expected a whole number of at least 1; use 1 for none.")


def check_place(name: str, value: int, count: int) -> None:
    """InputError for a shard or slice that is not there."""
    if not 0 <= value < count:
        raise InputError(
            f"{name} is {value}, but expected 0 to {count - 1}, counted from 0; ask for one of these."
        )
