"""From the words of `--cases` to cases of inference."""

import re
from collections.abc import Sequence

from benchmarks.inference_case import IMAGES, SIDE, InferenceCase
from benchmarks.named_cases import check_size, named_cases, unknown_case

TABLE = ("inference_w16", "inference_w64")
"""The cases that the project's table shows."""
ALL = (*TABLE, "inference_w16_s8")
_NAME = re.compile(r"inference_w(\d{1,6})(?:_s(\d{1,6}))?(?:_n(\d{1,9}))?")
_FORM = "inference_wWIDTH[_sSIDE][_nIMAGES], such as inference_w16"


def parse_case(name: str) -> InferenceCase:
    """The case that `name` spells, as yet without its folder. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown_case(name, ALL, _FORM)
    width, side, images = match.groups()
    case = InferenceCase(int(width), int(side or SIDE), int(images or IMAGES))
    for what, got, low, high in (
        ("width", case.width, 1, 1024),
        ("side", case.side, 8, 512),
        ("number of images", case.images, 1, 1_000_000),
    ):
        check_size(name, what, got, low, high)
    return case


def parse_cases(names: Sequence[str]) -> list[InferenceCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    return named_cases(names, parse_case, ALL, TABLE)
