"""From the words of `--cases` to cases of adversarial search."""

import re
from collections.abc import Sequence

from benchmarks.adversarial_case import EPOCHS, EPSILON, EXAMPLES, AdversarialCase
from benchmarks.named_cases import named_cases, unknown_case
from benchmarks.sweep_names import check_epochs
from mu_jax.config import InputError

TABLE = ("pgd50_w16",)
"""The cases that the project's table shows."""
ALL = (*TABLE, "pgd10_w16", "pgd50_w64")
_NAME = re.compile(r"pgd(\d{1,6})_w(\d{1,6})(?:_n(\d{1,9}))?(?:_e(\d{1,6}(?:\.\d{1,6})?))?")
_FORM = "pgdSTEPS_wWIDTH[_nEXAMPLES][_eEPOCHS], such as pgd50_w16 or pgd50_w16_n500"


def parse_case(name: str, epsilon: float = EPSILON) -> AdversarialCase:
    """The case that `name` spells, whose search begins at `epsilon`. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown_case(name, ALL, _FORM)
    steps, width, examples, epochs = match.groups()
    case = AdversarialCase(
        int(steps),
        int(width),
        int(examples) if examples else EXAMPLES,
        float(epochs) if epochs else EPOCHS,
        epsilon,
    )
    check_epochs(case.epochs, f"The case {name!r} has {case.epochs:g} epochs", "change it in its name")
    for what, got, most in (
        ("steps", case.steps, 10_000),
        ("width", case.width, 1024),
        ("examples", case.examples, 1_000_000),
    ):
        if not 1 <= got <= most:
            raise InputError(
                f"The case {name!r} has {what} {got}, but expected 1 to {most}; change it in its name."
            )
    return case


def parse_cases(names: Sequence[str], epsilon: float = EPSILON) -> list[AdversarialCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    return named_cases(names, lambda name: parse_case(name, epsilon), ALL, TABLE)
