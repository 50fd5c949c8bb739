"""From the words of `--cases` to cases of inference."""

import difflib
import re
from collections.abc import Sequence

from benchmarks.inference_case import IMAGES, SIDE, InferenceCase
from mu_jax.config import InputError

TABLE = ("inference_w16", "inference_w64")
"""The cases that the project's table shows."""
ALL = (*TABLE, "inference_w16_s8")
_NAME = re.compile(r"inference_w(\d{1,6})(?:_s(\d{1,6}))?(?:_n(\d{1,9}))?")
_FORM = "inference_wWIDTH[_sSIDE][_nIMAGES], such as inference_w16"


def parse_case(name: str) -> InferenceCase:
    """The case that `name` spells, as yet without its folder. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        close = difflib.get_close_matches(name, ALL, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "change it in --cases."
        raise InputError(f"The case is {name!r}, but expected {_FORM}; {hint}")
    width, side, images = match.groups()
    case = InferenceCase(int(width), int(side or SIDE), int(images or IMAGES))
    for what, got, low, high in (
        ("width", case.width, 1, 1024),
        ("side", case.side, 8, 512),
        ("number of images", case.images, 1, 1_000_000),
    ):
        if not low <= got <= high:
            raise InputError(
                f"The case {name!r} has a {what} of {got}, but expected {low} to {high}; change it in its name."
            )
    return case


def parse_cases(names: Sequence[str]) -> list[InferenceCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    names = ALL if list(names) == ["all"] else names or TABLE
    cases = [parse_case(name) for name in names]
    for i, case in enumerate(cases):
        if case in cases[:i]:
            raise InputError(f"The case {case.name!r} stands twice in --cases; expected each once, drop one.")
    return cases
