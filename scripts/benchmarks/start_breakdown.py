"""Where the seconds from a command to its first step went."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("compiling", "lowering", "tracing", "data")
"""What can lie inside one another, the inner first: reading data may compile, tracing may meet another jit."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Some work, in seconds since the epoch."""

    kind: str
    began: float
    ended: float


def shared_out(spans: Sequence[Span], until: float) -> dict[str, float]:
    """Seconds of each kind before `until`; where spans overlap, the moment is that of the first of `KINDS`."""
    changes = [
        (min(time, until), kind.kind, sign)
        for kind in spans
        for time, sign in ((kind.began, 1), (kind.ended, -1))
    ]
    seconds, open_spans, before = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0), 0.0
    for time, kind, sign in sorted(changes):
        working = next((one for one in KINDS if open_spans[one]), None)
        if working is not None:
            seconds[working] += time - before
        open_spans[kind] += sign
        before = time
    return seconds


def breakdown(found: Mapping[str, Any], until: float) -> dict[str, Any]:
    """Seconds by part, which add up to the whole, and the programs: of a watched command's own account."""
    spans = [Span(*span) for span in found["spans"]]
    parts = {
        "interpreter": found["entered"] - found["began"],
        "imports": found["imported"] - found["entered"],
        **shared_out([span for span in spans if span.began >= found["imported"]], until),
    }
    whole = until - found["began"]
    parts["the rest"] = whole - sum(parts.values())
    compiled = [span for span in spans if span.kind == "compiling" and span.ended <= until]
    return {
        "seconds": {part: round(seconds, 3) for part, seconds in parts.items()},
        "whole": round(whole, 3),
        "programs": len(compiled),
        "read_from_cache": sum(time <= until for time in found["cache_hits"]),
    }
