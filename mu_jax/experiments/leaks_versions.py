"""Who learns what: the two sides, the versions of each original model, and the pairs that are attacked.

Pure bookkeeping on positions. A *version* is a model by what it has learned: an original, or what is left of it after
a deletion. A *pair* is an example asked of two versions of one original: deleted between them (a member), or never
learned by either.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from mu_jax.config import InputError
from mu_jax.config.leaks import LeaksConfig
from mu_jax.data.random_streams import host_stream

MEMBER_SHARE = 0.8
"""Of a side, what its models may learn; the others are never members."""
REPLACEMENT_SHARE = 0.15
"""Of those that are no members at first, what online learning adds."""


@dataclasses.dataclass(frozen=True)
class Roles:
    """Positions within one side, each of one role."""

    members: Int64[np.ndarray, "M"]
    never: Int64[np.ndarray, "V"]
    replacements: Int64[np.ndarray, "R"]


@dataclasses.dataclass(frozen=True)
class Version:
    """One model by what it has learned."""

    side: str
    original: int
    """number of the original within its side"""
    name: str
    """`shadow3`, or `shadow3.group10.1`: of its answers, and of its random streams"""
    rows: Int64[np.ndarray, "n"]
    """learned, in the original's order: `substitute` has, for each deleted example, another one in its place"""
    deleted: Int64[np.ndarray, "k"]
    """learned by the original, and not by this version"""
    added: Int64[np.ndarray, "a"]
    """learned by this version, and not by the original"""

    @property
    def is_original(self) -> bool:
        return "." not in self.name


@dataclasses.dataclass(frozen=True)
class Pair:
    """One question of the attack: what two versions say of one example."""

    original: int
    before: str
    after: str
    row: int
    member: bool
    """learned by the version before"""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """The pairs of one scenario on one side."""

    kind: str
    size: int
    """k of `group` and `online`, deletions of `intermediates`, else 1"""
    pairs: tuple[Pair, ...]

    @property
    def name(self) -> str:
        """`single`, `group10`: with its size where that is a setting."""
        return f"{self.kind}{self.size}" if self.kind in ("group", "intermediates", "online") else self.kind


@dataclasses.dataclass(frozen=True)
class Plan:
    """All versions and pairs of one side."""

    versions: tuple[Version, ...]
    """originals first"""
    scenarios: tuple[Scenario, ...]


def draw_roles(number: int, side: str, seed: int) -> Roles:
    """Roles of a side's `number` examples."""
    order = host_stream(seed, f"roles of {side}").permutation(number).astype(np.int64)
    members = round(MEMBER_SHARE * number)
    never = number - members
    kept = members + never - round(REPLACEMENT_SHARE * never)
    return Roles(np.sort(order[:members]), np.sort(order[members:kept]), np.sort(order[kept:]))


def plan_side(side: str, roles: Roles, config: LeaksConfig, seed: int, *, may_add: bool = True) -> Plan:
    """All that one side trains and is asked. InputError where it has too few examples for the settings.

    `may_add` is False where a deletion is no training on other rows, so that nothing can be learned in its place.
    """
    _check(side, roles, config)
    versions: list[Version] = []
    later: list[Version] = []
    pairs: dict[tuple[str, int], list[Pair]] = {}
    for original in range(config.originals):
        draw = _Draw(side, original, roles, config, seed)
        versions.append(draw.origin)
        for kind, size in scenario_sizes(config):
            if kind == "online" and not may_add:
                continue
            made, asked = draw.scenario(kind, size)
            known = {version.name for version in later}
            later.extend(version for version in made if version.name not in known)
            pairs.setdefault((kind, size), []).extend(asked)
    scenarios = tuple(Scenario(kind, size, tuple(asked)) for (kind, size), asked in pairs.items())
    return Plan((*versions, *later), scenarios)


def scenario_sizes(config: LeaksConfig) -> Iterator[tuple[str, int]]:
    """Each scenario with each of its sizes."""
    sizes = {
        "group": config.group_sizes,
        "intermediates": config.intermediates,
        "online": config.online_sizes,
    }
    for kind in config.scenarios:
        for size in sizes.get(kind, (1,)):
            yield kind, size


def substituted(version: Version, origin: Version, seed: int) -> Int64[np.ndarray, "n"]:
    """The original's rows in its order, with an added example, or one that stays, in each deleted one's place.

    So a model that shares its original's start sees the same batches but for what was deleted.
    """
    rows = origin.rows.copy()
    places = np.flatnonzero(np.isin(rows, version.deleted))
    staying = np.setdiff1d(origin.rows, version.deleted)
    drawn = host_stream(seed, f"substitutes of {version.name}").choice(staying, len(places))
    put = np.concatenate([version.added, drawn])[: len(places)]
    rows[places] = put
    return rows


class _Draw:
    """The versions and pairs of one original; each scenario draws from a stream of its own."""

    def __init__(self, side: str, original: int, roles: Roles, config: LeaksConfig, seed: int) -> None:
        self.side, self.number, self.roles, self.config, self.seed = side, original, roles, config, seed
        rows = self._stream("rows").choice(roles.members, config.training_examples, replace=False)
        self.origin = Version(side, original, f"{side}{original}", rows, *_none(2))

    def scenario(self, kind: str, size: int) -> tuple[list[Version], list[Pair]]:
        """The versions that a scenario needs, and what it asks of them."""
        if kind in ("single", "remaining"):
            return self._singles(kind == "remaining")
        if kind == "intermediates":
            return self._chains(size)
        return self._groups(kind, size)

    def _singles(self, remaining: bool) -> tuple[list[Version], list[Pair]]:
        number = self.config.unlearned
        stream = self._stream("single")
        deleted = stream.permutation(self.origin.rows)[:number]
        never = self._never(stream, number)
        made = [self._without(f"single.{j}", deleted[j : j + 1]) for j in range(number)]
        asked = deleted
        if remaining:
            # Of those that no version of these lacks: a member of both models of every pair.
            staying = np.setdiff1d(self.origin.rows, deleted)
            asked = self._stream("remaining").choice(staying, number, replace=len(staying) < number)
        pairs = []
        for version, row, other in zip(made, asked, never, strict=True):
            pairs += self._pair(self.origin.name, version.name, row, other)
        return made, pairs

    def _groups(self, kind: str, size: int) -> tuple[list[Version], list[Pair]]:
        """As many versions as give about as many pairs as `single` has."""
        number = math.ceil(self.config.unlearned / size)
        stream = self._stream(f"{kind}{size}")
        made, pairs = [], []
        for j in range(number):
            deleted = stream.choice(self.origin.rows, size, replace=False)
            never = self._never(stream, size)
            added = (
                stream.choice(self.roles.replacements, size, replace=False)
                if kind == "online"
                else deleted[:0]
            )
            made.append(self._without(f"{kind}{size}.{j}", deleted, added))
            for row, other in zip(deleted, never, strict=True):
                pairs += self._pair(self.origin.name, made[-1].name, row, other)
        return made, pairs

    def _chains(self, size: int) -> tuple[list[Version], list[Pair]]:
        number = math.ceil(self.config.unlearned / size)
        stream = self._stream(f"intermediates{size}")
        made, pairs = [], []
        for j in range(number):
            deleted = stream.choice(self.origin.rows, size, replace=False)
            chain = [self._without(f"intermediates{size}.{j}.{t + 1}", deleted[: t + 1]) for t in range(size)]
            names = [self.origin.name, *(version.name for version in chain)]
            never = self._never(stream, size)
            for other in never:
                first, second = np.sort(stream.choice(size + 1, 2, replace=False))
                # Between the two, one deletion or more.
                row = deleted[stream.integers(first, second)]
                pairs += self._pair(names[first], names[second], row, other)
            made += chain
        return made, pairs

    def _pair(self, before: str, after: str, row: int | np.int64, other: int | np.int64) -> list[Pair]:
        return [
            Pair(self.number, before, after, int(row), True),
            Pair(self.number, before, after, int(other), False),
        ]

    def _without(self, name: str, deleted: np.ndarray, added: np.ndarray | None = None) -> Version:
        added = _none(1)[0] if added is None else added
        kept = self.origin.rows[~np.isin(self.origin.rows, deleted)]
        return Version(
            self.side,
            self.number,
            f"{self.origin.name}.{name}",
            np.concatenate([kept, added]),
            np.array(deleted),
            np.array(added),
        )

    def _never(self, stream: np.random.Generator, number: int) -> np.ndarray:
        return stream.choice(self.roles.never, number, replace=len(self.roles.never) < number)

    def _stream(self, purpose: str) -> np.random.Generator:
        return host_stream(self.seed, f"{purpose} of {self.side}{self.number}")


def _none(number: int) -> Sequence[np.ndarray]:
    return [np.zeros(0, np.int64) for _ in range(number)]


def _check(side: str, roles: Roles, config: LeaksConfig) -> None:
    most = len(roles.members)
    if config.training_examples > most:
        raise InputError(
            f"leaks.training_examples is {config.training_examples}, but the {side} side has {most} examples for its "
            f"members; ask for at most {most}, or give more data."
        )
    if "single" in config.scenarios or "remaining" in config.scenarios:
        limit = config.training_examples - ("remaining" in config.scenarios)
        if config.unlearned > limit:
            raise InputError(
                f"leaks.unlearned is {config.unlearned}, but an original learns {config.training_examples} examples, "
                f"of which at most {limit} can be deleted one at a time; ask for less."
            )
    if len(roles.never) == 0:
        raise InputError(f"The {side} side has no example that is never learned; give more data.")
    for size in config.online_sizes if "online" in config.scenarios else ():
        if size > len(roles.replacements):
            raise InputError(
                f"leaks.online_sizes holds {size}, but the {side} side has {len(roles.replacements)} examples to learn "
                "in place of deleted ones; ask for less, or give more data."
            )
