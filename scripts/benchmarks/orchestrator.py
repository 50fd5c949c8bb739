"""Interleaved rounds: ours, theirs, ours, theirs, and one process at work at any time."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.worker_process import Worker

# What is four times slower than the best of its side decides nothing, and can last minutes a round.
_HOPELESS = 0.25


@dataclasses.dataclass
class Contender:
    """One way to do the work, and how fast it was."""

    label: str
    worker: Worker
    variant: dict[str, Any]
    required: bool = False
    """Whether it runs every round however slow it is: what the ratio divides by."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    unavailable: str | None = None
    rates: list[float] = dataclasses.field(default_factory=list)
    """Items (images, or models) in the unit's span of time, a value a round."""
    others_share: float = 0.0
    """The most of the cores that other programs used in one of its rounds."""

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates)


def fastest(contenders: Sequence[Contender]) -> Contender | None:
    """The measured contender with the highest median, or None."""
    return max((c for c in contenders if c.rates), key=lambda c: c.rate, default=None)


def measure(
    ours: Sequence[Contender],
    theirs: Sequence[Contender],
    case: dict[str, Any],
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
    span: float = 1.0,
) -> None:
    """Compiles every contender, then lets them run in turn; fills `facts`, `unavailable` and `rates`.

    Rates are items in `span` seconds: 60 makes them items a minute. A contender that is less than a quarter as fast as
    the best of its side in the first round has no further ones, unless it is required.
    """
    for contender in (*ours, *theirs):
        request = {"name": contender.label, "case": case, "variant": contender.variant}
        answer = contender.worker.ask("prepare", **request)
        contender.facts, contender.unavailable = answer.get("facts", {}), answer.get("unavailable")
        say(f"{contender.label}: {contender.unavailable or 'ready'}")
    sides = [[c for c in side if c.unavailable is None] for side in (ours, theirs)]
    for turn in range(rounds):
        for contender in _alternate(*sides):
            request = {"name": contender.label, "seconds": seconds}
            answer = contender.worker.ask("run", **request)
            if "unavailable" in answer:
                contender.unavailable, contender.rates = answer["unavailable"], []
                continue
            contender.rates.append(span * answer["items"] / answer["seconds"])
            contender.facts |= answer.get("found", {})
            contender.others_share = max(contender.others_share, answer["others_share"])
        sides = [[c for c in side if c.unavailable is None] for side in sides]
        if turn == 0:
            sides = [
                [c for c in side if c.required or c.rate >= _HOPELESS * fastest(side).rate] for side in sides
            ]
        say(f"round {turn + 1} of {rounds}")


def _alternate(first: Sequence[Contender], second: Sequence[Contender]) -> list[Contender]:
    pairs = itertools.zip_longest(first, second)
    return [contender for pair in pairs for contender in pair if contender is not None]
