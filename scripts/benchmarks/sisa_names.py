"""From the words of `--cases` to cases of SISA."""

import re
from collections.abc import Sequence

from benchmarks.named_cases import named_cases, unknown_case
from benchmarks.sisa_case import EPOCHS, EXAMPLES, SHARDS, SLICES, WIDTH, SisaCase
from benchmarks.sweep_names import check_epochs
from mu_jax.config import InputError
from mu_jax.unlearning.sisa.cost import even_sizes

TABLE = ("fit_s10", "delete_one")
"""The cases that the project's table of SISA shows."""
ALL = (*TABLE, "fit_s20_r10", "delete_one_s20_r10", "cifar_fit_s10", "cifar_delete_one")
_NAME = re.compile(
    r"(cifar_)?(?:(fit)_s(\d{1,6})|(delete_one)(?:_s(\d{1,6}))?)(?:_r(\d{1,6}))?(?:_w(\d{1,6}))?"
    r"(?:_e(\d{1,6}(?:\.\d{1,6})?))?"
)
_FORM = (
    "[cifar_]fit_sSHARDS or [cifar_]delete_one[_sSHARDS], then [_rSLICES][_wWIDTH][_eEPOCHS], such as fit_s10 or "
    "delete_one_s20_r10"
)


def parse_case(name: str, epochs: float | None = None) -> SisaCase:
    """The case that `name` spells; `epochs` replaces its epochs. InputError where it is none, or trains nothing."""
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown_case(name, ALL, _FORM)
    cifar, fit, fit_shards, _, delete_shards, slices, width, own_epochs = match.groups()
    data, what = ("cifar" if cifar else "digits"), (fit or "delete_one")
    chosen = epochs if epochs is not None else float(own_epochs) if own_epochs else EPOCHS[data]
    check_epochs(chosen, f"The case {name!r} has {chosen:g} epochs", "change it in its name")
    case = SisaCase(
        what,
        data,
        int(fit_shards or delete_shards or SHARDS),
        int(slices or SLICES),
        int(width or WIDTH),
        chosen,
    )
    _check(name, "shards", case.shards, 2, 1000)
    _check(name, "slices", case.slices, 1, 1000)
    _check(name, "width", case.width, 1, 1024)
    examples = EXAMPLES[data]
    if case.shards * case.slices > examples:
        raise InputError(
            f"The case {name!r} has {case.shards * case.slices} slices in all, but expected at most one for each of "
            f"{examples} examples; use fewer shards or slices."
        )
    if sum(case.steps(even_sizes(examples // case.shards, case.slices).tolist())) < 1:
        raise InputError(
            f"The case {name!r} has {chosen:g} epochs of {examples // case.shards} examples a shard, which is less "
            f"than half a batch of {case.batch}, but expected at least one step; give more epochs or fewer shards."
        )
    return case


def parse_cases(names: Sequence[str], epochs: float | None = None) -> list[SisaCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    return named_cases(names, lambda name: parse_case(name, epochs), ALL, TABLE)


def _check(name: str, what: str, got: int, least: int, most: int) -> None:
    if not least <= got <= most:
        raise InputError(
            f"The case {name!r} has {what} {got}, but expected {least} to {most}; change it in its name."
        )
