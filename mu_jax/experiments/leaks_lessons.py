"""Which trainings make the versions of an original: one each, or one a shard, of which most are the original's own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from mu_jax.config import InputError
from mu_jax.data.random_streams import host_stream
from mu_jax.experiments.leaks_versions import Plan, Version, substituted


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """One training from scratch."""

    name: str
    rows: Int64[np.ndarray, "n"]
    stream: str
    """names its initial weights, augmentation and order of batches"""


Lessons = Mapping[str, Sequence[Any]]
"""By the version's name, its lessons, or what else makes a model and has a name; it answers with the mean of their
posteriors."""


def retraining(target: str, plan: Plan, seed: int, *, shares_start: bool) -> Lessons:
    """A training from scratch for each version; an original's does not depend on how its versions are made."""
    origins = {version.original: version for version in plan.versions if version.is_original}
    found = {}
    for version in plan.versions:
        name, origin = f"{target} {version.name}", origins[version.original]
        if version.is_original:
            lesson = Lesson(name, version.rows, name)
        elif shares_start:
            rows = substituted(version, origin, seed)
            lesson = Lesson(f"{name} start", rows, f"{target} {origin.name}")
        else:
            lesson = Lesson(name, version.rows, name)
        found[version.name] = (lesson,)
    return found


def sharded(target: str, plan: Plan, seed: int, shards: int) -> Lessons:
    """SISA without slices: a training a shard, and of a version those shards anew that lost or gained an example.

    An added example goes to the shard of the deleted one whose place it takes.
    """
    origins = {version.original: version for version in plan.versions if version.is_original}
    found = {}
    for version in plan.versions:
        origin = origins[version.original]
        stream = host_stream(seed, f"shards of {origin.name}")
        # Shares as equal as can be, drawn once for an original and all its versions.
        shard_of = stream.permutation(np.arange(len(origin.rows)) % shards)
        place = {int(row): int(shard) for row, shard in zip(origin.rows, shard_of, strict=True)}
        homes = [place[int(row)] for row in version.deleted[: len(version.added)]]
        lessons = []
        for shard in range(shards):
            rows = origin.rows[shard_of == shard]
            kept = rows[~np.isin(rows, version.deleted)]
            added = version.added[np.array(homes, np.int64) == shard] if homes else version.added[:0]
            changed = len(kept) < len(rows) or len(added) > 0
            owner = version if changed else origin
            name = f"{target} sisa {owner.name} shard {shard}"
            rows = np.concatenate([kept, added])
            if len(rows) == 0:
                raise InputError(
                    f"Shard {shard} of {origin.name} has no example left after a deletion of {len(version.deleted)}; "
                    "use fewer leaks.sisa_shards, or delete fewer at once."
                )
            lessons.append(Lesson(name, rows, name))
        found[version.name] = tuple(lessons)
    return found


def distinct(groups: Sequence[Lessons]) -> list[Lesson]:
    """Every lesson once, in the order of first use."""
    found: dict[str, Lesson] = {}
    for lessons in groups:
        for several in lessons.values():
            for lesson in several:
                found.setdefault(lesson.name, lesson)
    return list(found.values())


def origins_of(plan: Plan) -> list[Version]:
    """The originals of a side."""
    return [version for version in plan.versions if version.is_original]
