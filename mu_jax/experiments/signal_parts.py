"""Writing a pool of signals while a sweep runs: `signals/parts/group_000003.npz` a group, merged at the end.

Groups may be written by several processes on a shared file system; one of them merges, when all have finished. A kill
at any moment of a merge loses nothing, because a repeated merge finds every row again: parts are deleted last of all,
and an array that was already replaced begins with the rows it had before.
"""

import contextlib
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.files import atomic_write, write_json
from mu_jax.experiments.signal_group import DIVERGED, Group, open_group, write_group
from mu_jax.experiments.signal_pool import (
    array_specs,
    member_sha256,
    open_rows,
    plain,
    pool_hash,
    read_description,
    refuse_another_recipe,
    signals_folder,
)

# Longer than any write takes: a process of a former start may still be at the same part.
_LEFT_OVER_SECONDS = 600.0
_Rows = Mapping[int, tuple[Group, int]]
"""Model to the part that holds it and its place there; what is not here is in the finished pool."""


class SignalParts:
    """The parts of the pool in a run folder (or in its `signals/` folder)."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.signals = signals_folder(folder)
        self.parts = self.signals / "parts"

    def write(
        self,
        group: int,
        models: Sequence[int] | np.ndarray,
        signals: Mapping[str, np.ndarray],
        facts: Mapping[str, np.ndarray],
    ) -> None:
        """Keep what one group of G models left: whole on the disk when this returns, or absent.

        `models`: G rows of the pool, each once. `signals`: `phi` and `probability` float32[G,N,A], and `logits`
        float32[G,N,A,C] or none. `facts`: numbers [G] by name, `diverged_step` among them (the step, −1 where training
        did not diverge); φ is finite where it is −1. A group belongs to one process: what a killed one left half
        written is removed. A part of the same group with other models, of a sweep that grew before it was merged,
        stays beside the new one. Raises InputError.
        """
        if group < 0:
            raise InputError(
                f"group is {group}, but expected 0 or more; number the groups of a sweep from 0."
            )
        path = self.parts / f"group_{group:06d}.npz"
        again, given = 0, set(np.ravel(models).tolist())
        while path.exists() and not given.issuperset(open_group(path).models):
            again += 1
            path = self.parts / f"group_{group:06d}_{again}.npz"
        with _writing(path):
            self.parts.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.parts, path.name, _LEFT_OVER_SECONDS)
            write_group(path, models, signals, facts)

    def stored_models(self) -> set[int]:
        """Rows that need no training: those in a part, and those of the finished pool. InputError for damage.

        Right also while other processes write parts or merge them.
        """
        parts = self._open()  # before the description: a merge writes that first, then deletes parts
        saved = read_description(self.signals)
        for name in saved["arrays"] if saved else ():
            open_rows(self.signals, saved, name)
        finished = range(saved["models"]) if saved else ()
        return {model for part in parts for model in part.models}.union(finished)

    def merge(
        self,
        *,
        member: np.ndarray,
        labels: np.ndarray,
        produced_by: Mapping[str, Any],
        queries: Sequence[Any],
        blocks: Sequence[int],
        made_with: Mapping[str, Any],
    ) -> None:
        """Make the finished pool of K models out of all parts and of the finished pool that is there, if any.

        `member` bool[K,N], `labels` int32[N]; `blocks`: how many models each sweep added, K together. One row is in
        memory at a time. A model in several parts is taken from the lowest group; one neither in a part nor in the
        finished pool is an InputError, and so are parts or a pool that do not fit together. Call it from one process,
        after all groups are written; called again after a kill, it leaves the same files.
        """
        _check_whole(member, labels, blocks)
        saved = read_description(self.signals)
        if saved:
            refuse_another_recipe(self.signals, saved, produced_by)
            self._check_growth(saved, member, labels, queries)
        parts = self._open()
        rows = self._find_rows(parts, len(member), saved)
        shapes, facts = self._common_layout(parts, member.shape[1], saved)
        description = {
            "hash": pool_hash(produced_by),
            "produced_by": plain(produced_by, "produced_by"),
            "models": len(member),
            "examples": member.shape[1],
            "queries": plain(queries, "queries"),
            "blocks": plain(blocks, "blocks"),
            "member_sha256": member_sha256(member),
            "arrays": array_specs(shapes, len(member)),
            "diverged": _diverged(rows, len(member), saved),
            "per_model": {name: _fact(name, rows, len(member), saved) for name in sorted(facts - {DIVERGED})},
            "made_with": plain(made_with, "made_with"),
        }
        with _writing(self.signals):
            for leftover in ("pool.json", *(f"{name}.npy" for name in description["arrays"])):
                _remove_leftovers(self.signals, leftover)
            for name in shapes:
                self._merge_signal(name, description["arrays"][name]["shape"], parts, rows, saved)
            for name, array in (("member", member), ("labels", labels)):
                with atomic_write(self.signals / f"{name}.npy") as file:
                    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            write_json(self.signals / "pool.json", description)
            self._delete(parts)

    def _open(self) -> list[Group]:
        """All parts, by group; without those that a merge of another process deletes meanwhile."""
        parts = []
        for path in sorted(self.parts.glob("group_*.npz"), key=lambda path: (len(path.name), path.name)):
            try:
                parts.append(open_group(path))
            except InputError:
                if path.exists():
                    raise
        return parts

    def _check_growth(
        self, saved: Mapping[str, Any], member: np.ndarray, labels: np.ndarray, queries: Sequence[Any]
    ) -> None:
        """InputError where the finished pool is not the beginning of the one that is merged now."""
        old = saved["models"]
        queries = plain(queries, "queries")
        checks = (
            (f"{old} models", f"at most {len(member)}", old <= len(member)),
            (f"{saved['examples']} examples", str(member.shape[1]), saved["examples"] == member.shape[1]),
            (f"queries {saved['queries']}", str(queries), saved["queries"] == queries),
            (
                "other labels",
                "these",
                np.array_equal(open_rows(self.signals, saved, "labels"), labels),
            ),
            ("other memberships", "these", member_sha256(member[:old]) == saved["member_sha256"]),
        )
        for got, expected, same in checks:
            if not same:
                raise InputError(
                    f"The pool in {self.signals} has {got}, but expected {expected} to grow it; set it back, or run "
                    "the sweep elsewhere."
                )

    def _find_rows(self, parts: Sequence[Group], models: int, saved: Mapping[str, Any] | None) -> _Rows:
        rows: dict[int, tuple[Group, int]] = {}
        for part in parts:
            if max(part.models) >= models:
                raise InputError(
                    f"{part.path} holds model {max(part.models)}, but expected models below {models}; ask for more "
                    "models, or delete it."
                )
            for place, model in enumerate(part.models):
                rows.setdefault(model, (part, place))
        missing = [model for model in range(saved["models"] if saved else 0, models) if model not in rows]
        if missing:
            listed = ", ".join(map(str, missing[:10])) + ", ..." * (len(missing) > 10)
            raise InputError(
                f"{self.signals} lacks {len(missing)} of {models} models ({listed}), but expected all of them; run the "
                "sweep again to train these."
            )
        return rows

    def _common_layout(
        self, parts: Sequence[Group], examples: int, saved: Mapping[str, Any] | None
    ) -> tuple[dict[str, tuple[int, ...]], set[str]]:
        """Shapes of one model's signals, and names of the facts, that all parts and the finished pool have."""
        if saved:
            first = self.signals / "pool.json"
            arrays = {
                name: array for name, array in saved["arrays"].items() if name not in ("member", "labels")
            }
            shapes = {name: tuple(array["shape"][1:]) for name, array in arrays.items()}
            facts = {DIVERGED, *saved["per_model"]}
        else:
            first, shapes, facts = parts[0].path, parts[0].shapes, set(parts[0].facts)
        for part in parts:
            if (part.shapes, set(part.facts)) != (shapes, facts):
                raise InputError(
                    f"{part.path} holds {part.shapes} and facts {sorted(part.facts)}, but expected {shapes} and "
                    f"{sorted(facts)} as in {first}; delete the part that is of another sweep, and start again."
                )
        if shapes["phi"][0] != examples:
            raise InputError(
                f"{first} has signals of {shapes['phi'][0]} examples, but expected the {examples} of member; delete "
                "the parts of another sweep, and start again."
            )
        return shapes, facts

    def _merge_signal(
        self,
        name: str,
        shape: Sequence[int],
        parts: Sequence[Group],
        rows: _Rows,
        saved: Mapping[str, Any] | None,
    ) -> None:
        # Written, not memory-mapped: where the disk is full, a write raises, and a map ends the process.
        with atomic_write(self.signals / f"{name}.npy") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            start, row_bytes = file.tell(), 4 * math.prod(shape[1:])
            for part in parts:
                for place, (model, values) in enumerate(zip(part.models, part.rows(name), strict=True)):
                    if rows[model] == (part, place):
                        file.seek(start + model * row_bytes)
                        file.write(values)
            if saved:
                finished = open_rows(self.signals, saved, name)
                for model in range(saved["models"]):
                    if model not in rows:
                        file.seek(start + model * row_bytes)
                        file.write(finished[model].tobytes())

    def _delete(self, parts: Sequence[Group]) -> None:
        with contextlib.suppress(OSError):  # some file systems cannot do it for a folder
            folder = os.open(self.signals, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new files' names reach the disk before the only other copy goes
            finally:
                os.close(folder)
        for part in reversed(parts):  # the lowest group last: a model in several parts is taken from it
            part.path.unlink(missing_ok=True)
        _remove_leftovers(self.parts, "group_*.npz")
        with contextlib.suppress(OSError):  # there were none, or somebody keeps files of his own here
            self.parts.rmdir()


def _check_whole(member: np.ndarray, labels: np.ndarray, blocks: Sequence[int]) -> None:
    got = (member.dtype, member.ndim, labels.dtype, labels.shape)
    if got != (np.dtype(bool), 2, np.dtype(np.int32), member.shape[1:]) or not member.size:
        raise InputError(
            f"member is {member.dtype}{list(member.shape)} and labels {labels.dtype}{list(labels.shape)}, but expected "
            "bool[K,N] and int32[N]; convert them."
        )
    if min(blocks, default=0) < 1 or sum(blocks) != len(member):
        raise InputError(
            f"blocks are {list(blocks)}, but expected positive numbers that sum to the {len(member)} models of member; "
            "give how many models each sweep added."
        )


def _diverged(rows: _Rows, models: int, saved: Mapping[str, Any] | None) -> dict[str, int]:
    """Model, as text, to the step in which its training diverged."""
    old = saved["diverged"] if saved else {}
    steps = {model: old.get(str(model), -1) for model in range(models)}
    steps |= {model: part.facts[DIVERGED][place].item() for model, (part, place) in rows.items()}
    return {str(model): step for model, step in steps.items() if step >= 0}


def _fact(name: str, rows: _Rows, models: int, saved: Mapping[str, Any] | None) -> list[int | float | None]:
    """A fact of each model; None where it is not finite, because JSON has no such number."""
    values = [
        rows[model][0].facts[name][rows[model][1]].item()
        if model in rows
        else saved["per_model"][name][model]
        for model in range(models)
    ]
    return [value if value is not None and math.isfinite(value) else None for value in values]


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); free some space or check its permissions, and start again."
        ) from error


def _remove_leftovers(folder: pathlib.Path, name: str, age: float = 0.0) -> None:
    """Of writes of the file `name` that a kill cut short `age` seconds ago or more."""
    for path in folder.glob(f".{name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= age:
                path.unlink(missing_ok=True)
