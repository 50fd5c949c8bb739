"""From the words of `--cases` to cases of the start."""

import re
from collections.abc import Sequence

from benchmarks.named_cases import named_cases, unknown_case
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
        raise unknown_case(name, ALL, "quickstart_wWIDTH or sweep_wWIDTH, such as quickstart_w16")
    case = StartCase(match[1], int(match[2]))
    if not 1 <= case.width <= _LARGEST:
        raise InputError(
            f"The case {name!r} has a width of {case.width}, but expected 1 to {_LARGEST}; change it in its name."
        )
    return case


def parse_cases(names: Sequence[str]) -> list[StartCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    return named_cases(names, parse_case, ALL, TABLE)
