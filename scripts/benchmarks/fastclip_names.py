"""From the words of `--cases` to cases of FastClip."""

import difflib
import re
from collections.abc import Sequence

from benchmarks.fastclip_case import SIDE, FastclipCase
from mu_jax.config import InputError

TABLE = ("fastclip_w16", "measure_w64")
"""The cases that the project's table shows."""
ALL = (*TABLE, "fastclip_w64", "measure_w16")
_NAME = re.compile(r"(fastclip|measure)_w(\d{1,6})(?:_s(\d{1,6}))?")
_FORM = "fastclip_wWIDTH[_sSIDE] or measure_wWIDTH[_sSIDE], such as fastclip_w16"


def parse_case(name: str) -> FastclipCase:
    """The case that `name` spells. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        close = difflib.get_close_matches(name, ALL, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "change it in --cases."
        raise InputError(f"The case is {name!r}, but expected {_FORM}; {hint}")
    kind, width, side = match.groups()
    case = FastclipCase(kind, int(width), int(side or SIDE))
    for what, got, low, high in (("width", case.width, 1, 1024), ("side", case.side, 8, 512)):
        if not low <= got <= high:
            raise InputError(
                f"The case {name!r} has a {what} of {got}, but expected {low} to {high}; change it in its name."
            )
    return case


def parse_cases(names: Sequence[str]) -> list[FastclipCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    names = ALL if list(names) == ["all"] else names or TABLE
    cases = [parse_case(name) for name in names]
    for i, case in enumerate(cases):
        if case in cases[:i]:
            raise InputError(f"The case {case.name!r} stands twice in --cases; expected each once, drop one.")
    return cases
