"""From the words of `--cases` to cases of data on its way into training."""

import re
from collections.abc import Sequence

from benchmarks.data_case import EPOCH, EXAMPLES, INPUT, SIDE, DataCase
from benchmarks.named_cases import check_size, named_cases, unknown_case

TABLE = ("epoch_w16", "epoch_w64", "input")
"""The cases that the project's table shows."""
ALL = (*TABLE, "epoch_w16_s8", "input_s8")
_NAME = re.compile(r"(?:(epoch)_w(\d{1,6})|(input))(?:_s(\d{1,6}))?(?:_n(\d{1,9}))?")
_FORM = "epoch_wWIDTH[_sSIDE][_nEXAMPLES] or input[_sSIDE][_nEXAMPLES], such as epoch_w16"


def parse_case(name: str) -> DataCase:
    """The case that `name` spells. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown_case(name, ALL, _FORM)
    epoch, width, _, side, examples = match.groups()
    case = DataCase(EPOCH if epoch else INPUT, int(width or 0), int(side or SIDE), int(examples or EXAMPLES))
    limits = [("side", case.side, 8, 512), ("number of examples", case.examples, case.batch, 1_000_000)]
    if epoch:
        limits.append(("width", case.width, 1, 1024))
    for what, got, low, high in limits:
        check_size(name, what, got, low, high)
    return case


def parse_cases(names: Sequence[str]) -> list[DataCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    return named_cases(names, parse_case, ALL, TABLE)
