"""Which shadow model trains on which candidate: drawn in exact halves, or read from a file."""

import os
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from mu_jax.config import InputError
from mu_jax.data.array_files import read_array
from mu_jax.data.files import UNREADABLE, user_path

_DRAWN_AT_ONCE = 2**22
"""Entries of the matrix drawn at a time: bounds the temporaries, and changes no result."""


def draw_membership(kind: str, blocks: Sequence[int], candidates: int, seed: int) -> Bool[np.ndarray, "K M"]:
    """Row k says which of the M candidates shadow model k trains on.

    `blocks` is the history of a pool: how many models its first sweep had, then how many each growth added; K is
    their sum. The rows of a block depend on later blocks in no way, so a pool grows without any of its models
    changing. Within each block every candidate is in exactly half of the models.

    `half` draws each candidate's half of a block's models on its own, so the sizes of models vary a little: Carlini et
    al., "Membership Inference Attacks From First Principles", 2022, section V; their public code ranks uniform
    numbers over the models of one candidate. `pairs` draws ⌊M/2⌋ candidates for model 2j and gives the others to
    model 2j+1, each pair from its own stream, so the rows do not depend on the blocks: the way of Privacy Meter,
    the public code of RMIA (Zarifzadeh et al., "Low-Cost High-Power Membership Inference Attacks", 2024).

    InputError where a block is not an even number of at least 2, and where so few candidates are drawn that a
    model gets none or all.
    """
    if kind not in ("half", "pairs"):
        raise InputError(
            f"The kind of membership is {kind!r}, but expected one of half, pairs; pass one of these."
        )
    if not blocks:
        raise InputError("The pool has no block of models, but expected at least one; pass blocks=[2].")
    _check_blocks(blocks)
    member = np.empty((sum(blocks), candidates), bool)
    if kind == "half":
        first = 0
        for block, models in enumerate(blocks):
            _draw_half(member[first : first + models], _stream(seed, "membership half", block))
            first += models
    else:
        for pair in range(len(member) // 2):
            half = _stream(seed, "membership pairs", pair).permuted(_first_half(candidates))
            member[2 * pair], member[2 * pair + 1] = half, ~half
    if (model := _first_constant(member)) is not None:
        raise InputError(
            f"Model {model} was drawn with {np.count_nonzero(member[model])} of {candidates} candidates as members, "
            "but expected at least one in and one out; use more examples."
        )
    return member


def read_membership(path: str | os.PathLike, models: int, candidates: int) -> Bool[np.ndarray, "K M"]:
    """The matrix of a `.npy` file: bool or integers 0 and 1, [K,M] = [models, candidates].

    InputError, naming `sweep.membership_file`, where there is no such file, it holds anything else or another
    shape, or a model or a candidate is always in or always out.
    """
    fix = (
        "save it with np.save(FILE, member), member a bool array with one row a model, one column a candidate"
    )
    name = f"sweep.membership_file is {os.fspath(path)!r}"
    try:
        member = read_array(user_path(path))
    except FileNotFoundError as error:
        raise InputError(
            f"{name}, but there is no such file, and a .npy file of 0 and 1 was expected; {fix}."
        ) from error
    except UNREADABLE as error:
        raise InputError(
            f"{name}, which holds no plain NumPy array, but one .npy array was expected (it cannot be read: {error}); "
            f"{fix}."
        ) from error
    if member.ndim != 2 or member.dtype.kind not in "biu":
        raise InputError(
            f"{name}, with dtype {member.dtype} and shape {member.shape}, but a matrix of bool or of integers 0 and "
            f"1 was expected; {fix}."
        )
    if member.shape != (models, candidates):
        raise InputError(
            f"{name}, which has shape {member.shape}, but expected {(models, candidates)}: one row a model "
            "(sweep.models), one column a candidate; change the file or --config.sweep.models."
        )
    # A bool array may hold other bytes than 0 and 1, where it was written by other means than NumPy's own.
    values = member.view(np.uint8) if member.dtype.kind == "b" else member
    if member.size and not (values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"{name}, with values {values.min()}..{values.max()}, but expected 0 (out) or 1 (in) only; {fix}."
        )
    member = np.ascontiguousarray(member, bool)
    _check_both_sides(member, name)
    return member


def embed_membership(
    member: Bool[np.ndarray, "K M"], rows: Int[np.ndarray, "M"], examples: int
) -> Bool[np.ndarray, "K N"]:
    """The candidates' columns at the positions `rows` among all N = `examples`; other examples are never members.

    InputError unless `rows` are different positions in 0..N-1.
    """
    if len(np.unique(rows)) != len(rows) or np.any((rows < 0) | (rows >= examples)):
        raise InputError(
            f"rows hold a repeat or a position outside 0..{examples - 1}, but expected the position of each "
            "candidate among all examples; pass the rows that the candidates were chosen by."
        )
    embedded = np.zeros((len(member), examples), bool)
    embedded[:, rows] = member
    return embedded


def _check_blocks(blocks: Sequence[int]) -> None:
    there = 0
    for block in blocks:
        if block < 2 or block % 2:
            got = f"adds {block} models to the {there} there" if there else f"is {block}"
            raise InputError(
                f"sweep.models {got}, but expected an even number{', at least 2' if block < 2 else ''}, so that "
                f"every example is in exactly half of the models; ask for {there + max(2, block + block % 2)}."
            )
        there += block


def _stream(seed: int, purpose: str, index: int) -> np.random.Generator:
    # NumPy fills short seeds with zeros, so index 0 is host_stream(seed, purpose): no other draw may have the
    # purposes that stand in this file.
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), index])


def _first_half(count: int) -> Bool[np.ndarray, "_"]:
    return np.arange(count) < count // 2


def _draw_half(member: Bool[np.ndarray, "k M"], rng: np.random.Generator) -> None:
    """Fills one block in place, candidate by candidate from one stream, so that it may be cut anywhere."""
    models, candidates = member.shape
    half = _first_half(models)
    width = max(1, _DRAWN_AT_ONCE // models)
    for start in range(0, candidates, width):
        columns = member[:, start : start + width]
        # Half the price of ranking uniform numbers, and no ties to break.
        columns[:] = rng.permuted(np.tile(half, (columns.shape[1], 1)), axis=1).T


def _first_constant(member: Bool[np.ndarray, "K M"]) -> int | None:
    """The first row that is empty or full."""
    members = np.count_nonzero(member, axis=1)
    constant = (members == 0) | (members == member.shape[1])
    return int(np.argmax(constant)) if constant.any() else None


def _check_both_sides(member: Bool[np.ndarray, "K M"], name: str) -> None:
    models, candidates = member.shape
    if (model := _first_constant(member)) is not None:
        raise InputError(
            f"{name}, where model {model} (its row) has {np.count_nonzero(member[model])} of {candidates} candidates "
            "as members, but expected at least one in and one out; change this row."
        )
    models_with = np.count_nonzero(member, axis=0)
    constant = (models_with == 0) | (models_with == models)
    if constant.any():
        raise InputError(
            f"{name}, where {np.count_nonzero(constant)} of {candidates} candidates are in none or all of the "
            f"models, the first in column {np.argmax(constant)}, but expected each in at least one and out of at "
            "least one; change these columns."
        )
