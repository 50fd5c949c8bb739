"""What `--cases` has in common in all benchmarks: unknown names, names given twice, sizes out of range."""

import difflib
from collections.abc import Callable, Sequence
from typing import TypeVar

from mu_jax.config import InputError

Case = TypeVar("Case")


def unknown_case(name: str, known: Sequence[str], expected: str) -> InputError:
    """For a name that spells no case: what was expected, and the nearest of the known names."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "change it in --cases."
    return InputError(f"The case is {name!r}, but expected {expected}; {hint}")


def named_cases(
    names: Sequence[str], parse: Callable[[str], Case], every: Sequence[str], table: Sequence[str]
) -> list[Case]:
    """The cases of names, or of `all`; without any name, those of the table. InputError where one stands twice."""
    cases = [parse(name) for name in (every if list(names) == ["all"] else names or table)]
    for i, case in enumerate(cases):
        if case in cases[:i]:
            raise InputError(f"The case {case.name!r} stands twice in --cases; expected each once, drop one.")
    return cases


def check_size(name: str, what: str, got: int, least: int, most: int) -> None:
    """InputError unless a size that the case's name spells is within its bounds."""
    if not least <= got <= most:
        raise InputError(
            f"The case {name!r} has a {what} of {got}, but expected {least} to {most}; change it in its name."
        )
