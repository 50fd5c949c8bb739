"""From the words of `--cases` to cases of the start."""

import difflib
import re
from collections.abc import Sequence

from benchmarks.start_case import StartCase
from mu_jax.config import InputError

TABLE = ("quickstart_w16", "sweep_w16")
"""The cases that the project's table shows."""
ALL = (*TABLE, "quickstart_w64")
_NAME = re.compile(r"(quickstart|sweep)_w(\d{1,6})")
_LARGEST = 1024


def parse_case(name: str) -> StartCase:
    """The case that `name` spells. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        close = difflib.get_close_matches(name, ALL, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "change it in --cases."
        raise InputError(
            f"The case is {name!r}, but expected quickstart_wWIDTH or sweep_wWIDTH, such as quickstart_w16; {hint}"
        )
    case = StartCase(match[1], int(match[2]))
    if not 1 <= case.width <= _LARGEST:
        raise InputError(
            f"The case {name!r} has a width of {case.width}, but expected 1 to {_LARGEST}; change it in its name."
        )
    return case


def parse_cases(names: Sequence[str]) -> list[StartCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    names = ALL if list(names) == ["all"] else names or TABLE
    cases = [parse_case(name) for name in names]
    for i, case in enumerate(cases):
        if case in cases[:i]:
            raise InputError(f"The case {case.name!r} stands twice in --cases; expected each once, drop one.")
    return cases
