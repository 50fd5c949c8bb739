"""From the words of `--cases` to cases of sweeps."""

import re
from collections.abc import Sequence

from benchmarks.named_cases import named_cases, unknown_case
from benchmarks.sweep_case import EPOCHS, SweepCase
from mu_jax.config import InputError

TABLE = ("digits_w16_k1", "digits_w16_k8", "digits_w16_k32", "digits_w16_k128", "cifar_w16_k8")
"""The cases that the project's table of sweeps shows."""
ALL = (*TABLE, "cifar_w16_k1", "cifar_w16_k32", "cifar_w16_k8_bf16")
_NAME = re.compile(r"([a-z]+)_w(\d{1,6})_k(\d{1,6})(_bf16)?(?:_e(\d{1,6}(?:\.\d{1,6})?))?")
_FORM = "DATA_wWIDTH_kMODELS[_bf16][_eEPOCHS] with DATA digits or cifar, such as digits_w16_k8"
_MOST_EPOCHS = 1000


def parse_case(name: str, epochs: float | None = None) -> SweepCase:
    """The case that `name` spells; `epochs` replaces its epochs. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match or match[1] not in EPOCHS:
        raise unknown_case(name, ALL, _FORM)
    data, width, models, bfloat16, own_epochs = match.groups()
    if not 1 <= int(width) <= 1024:
        raise InputError(
            f"The case {name!r} has a width of {int(width)}, but expected 1 to 1024; change it in its name."
        )
    count = int(models)
    if not 1 <= count <= 4096 or (count > 1 and count % 2):
        # As sweeps want it, so that each example is in exactly half of the models.
        raise InputError(
            f"The case {name!r} has {count} models, but expected 1 or an even number up to 4096; change it in its name."
        )
    chosen = epochs if epochs is not None else float(own_epochs) if own_epochs else EPOCHS[data]
    check_epochs(chosen, f"The case {name!r} has {chosen:g} epochs", "change it in its name")
    return SweepCase(data, int(width), count, "bfloat16" if bfloat16 else "float32", chosen)


def parse_cases(names: Sequence[str], epochs: float | None = None) -> list[SweepCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    return named_cases(names, lambda name: parse_case(name, epochs), ALL, TABLE)


def check_epochs(epochs: float, got: str, fix: str) -> None:
    """InputError, beginning with `got` and ending with `fix`, unless so many epochs can be trained."""
    if not 0 < epochs <= _MOST_EPOCHS:
        raise InputError(f"{got}, but expected more than 0 and at most {_MOST_EPOCHS}; {fix}.")
