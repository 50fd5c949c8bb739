"""From the words of `--cases` to cases of FastClip."""

import re
from collections.abc import Sequence

from benchmarks.fastclip_case import SIDE, FastclipCase
from benchmarks.named_cases import check_size, named_cases, unknown_case

TABLE = ("fastclip_w16", "measure_w64")
"""The cases that the project's table shows."""
ALL = (*TABLE, "fastclip_w64", "measure_w16")
_NAME = re.compile(r"(fastclip|measure)_w(\d{1,6})(?:_s(\d{1,6}))?")
_FORM = "fastclip_wWIDTH[_sSIDE] or measure_wWIDTH[_sSIDE], such as fastclip_w16"


def parse_case(name: str) -> FastclipCase:
    """The case that `name` spells. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown_case(name, ALL, _FORM)
    kind, width, side = match.groups()
    case = FastclipCase(kind, int(width), int(side or SIDE))
    for what, got, low, high in (("width", case.width, 1, 1024), ("side", case.side, 8, 512)):
        check_size(name, what, got, low, high)
    return case


def parse_cases(names: Sequence[str]) -> list[FastclipCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    return named_cases(names, parse_case, ALL, TABLE)
