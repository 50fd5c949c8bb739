"""From the words of `--cases` to the attacks that are measured, and how much memory either version of one needs."""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from mu_jax.config import InputError

TABLE = (
    "lira_256x60000x18",
    "rmia_20000x5000",
    "rmia_50000x10000",
    "forgetting_512x5000",
    "forgetting_128",
    "leave_one_out_lira_64x60000x2",
)
"""The cases that the project's table of attacks shows."""
REFERENCES = 128
"""Reference models of RMIA."""
FEW_EXAMPLES = 16
"""On so many the definition of ε is timed and compared; its cost an example does not depend on N."""
FEW_TARGETS = 2
"""So many of the K targets are attacked one after another; each costs the same."""
EXAMPLES_A_CALL = 1000
"""N of `forgetting_M`, whose figures are an example's."""

_FORMS = {
    "lira": "lira_KxNxA",
    "rmia": "rmia_NxZ",
    "forgetting": "forgetting_MxN or forgetting_M",
    "leave_one_out_lira": "leave_one_out_lira_KxNxA",
}
_NAME = re.compile(
    r"(lira|leave_one_out_lira)_(\d{1,9})x(\d{1,9})x(\d{1,9})"
    r"|(rmia)_(\d{1,9})x(\d{1,9})"
    r"|(forgetting)_(\d{1,9})(?:x(\d{1,9}))?"
)
# The fewest models that an attack takes when half of them are on a side.
_FEWEST = {"lira": 4, "leave_one_out_lira": 6, "forgetting": 3}
_MOST_MODELS, _MOST_EXAMPLES, _MOST_VIEWS = 8192, 10_000_000, 256


@dataclasses.dataclass(frozen=True)
class AttackCase:
    """One attack at one size."""

    kind: str
    """`lira`, `rmia`, `forgetting` or `leave_one_out_lira`"""
    models: int
    """K; of `forgetting` M, the models of a kind"""
    examples: int
    views: int = 1
    population: int = 0
    per_example: bool = False
    """Whether times are those of one example."""
    folder: str = ""
    """Where the workers leave what they found."""

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        if self.kind == "rmia":
            return f"rmia_{self.examples}x{self.population}"
        if self.kind == "forgetting":
            return f"forgetting_{self.models}" + ("" if self.per_example else f"x{self.examples}")
        return f"{self.kind}_{self.models}x{self.examples}x{self.views}"

    @property
    def items(self) -> int:
        """Pieces that cost the same, some of which may stand for all: examples, targets, or the whole as one."""
        return {"forgetting": self.examples, "leave_one_out_lira": self.models}.get(self.kind, 1)

    @property
    def definition_items(self) -> int:
        """The pieces on which the slow version is timed."""
        few = {"forgetting": FEW_EXAMPLES, "leave_one_out_lira": FEW_TARGETS}.get(self.kind, 1)
        return min(few, self.items)

    @property
    def inputs_bytes(self) -> int:
        """Of the float32 signals and the booleans of membership."""
        if self.kind == "rmia":
            return (5 * self.models + 4) * (self.examples + self.population)
        if self.kind == "forgetting":
            return 2 * 4 * self.models * self.examples
        target = 4 * self.examples * self.views if self.kind == "lira" else 0
        return self.models * self.examples * (4 * self.views + 1) + target

    @property
    def definition_bytes(self) -> int:
        """About what the slow version holds beside its inputs at its fullest."""
        columns = self.examples * self.views
        if self.kind == "lira":  # φ and its deviations in float64, and some [N, A]
            return 2 * 8 * self.models * columns + 12 * 8 * columns
        if self.kind == "rmia":  # a quotient and a vote for each pair, after the probabilities in float64
            return max(9 * self.examples * self.population, 8 * self.models * self.examples)
        if self.kind == "leave_one_out_lira":  # the pool without two models, and some [N, A]
            return 4 * self.models * columns + self.models * self.examples + 12 * 8 * columns
        return 64 * 8 * 2 * self.models


def parse_case(name: str) -> AttackCase:
    """The case that `name` spells; InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        close = difflib.get_close_matches(name, TABLE, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "change it in --cases."
        raise InputError(
            f"The case is {name!r}, but expected {', '.join(_FORMS.values())}, such as {TABLE[1]}; {hint}"
        )
    kind, *sizes = (part for part in match.groups() if part is not None)
    sizes = [int(size) for size in sizes]
    if kind == "rmia":
        case = AttackCase(kind, REFERENCES, sizes[0], population=sizes[1])
        _within(name, "population", case.population, 1, _MOST_EXAMPLES)
    elif kind == "forgetting":
        whole = len(sizes) == 2
        case = AttackCase(kind, sizes[0], sizes[1] if whole else EXAMPLES_A_CALL, per_example=not whole)
    else:
        case = AttackCase(kind, *sizes)
        _within(name, "number of augmentations", case.views, 1, _MOST_VIEWS)
    _within(name, "number of models", case.models, _FEWEST.get(kind, 1), _MOST_MODELS)
    _within(name, "number of examples", case.examples, 1, _MOST_EXAMPLES)
    if kind != "forgetting" and case.models % 2:
        raise InputError(
            f"The case {name!r} has {case.models} models, but expected an even number, half of which hold an example; "
            "change it in its name."
        )
    return case


def parse_cases(names: Sequence[str]) -> list[AttackCase]:
    """The cases of `--cases`: names; without any, or for `all`, those of the project's table."""
    names = TABLE if not names or list(names) == ["all"] else names
    cases = [parse_case(name) for name in names]
    for i, case in enumerate(cases):
        if case in cases[:i]:
            raise InputError(f"The case {case.name!r} stands twice in --cases; expected each once, drop one.")
    return cases


def _within(case: str, what: str, got: int, low: int, high: int) -> None:
    if not low <= got <= high:
        raise InputError(
            f"The case {case!r} has a {what} of {got:,}, but expected {low} to {high:,}; change it in its name."
        )
