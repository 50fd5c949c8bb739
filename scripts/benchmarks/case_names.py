"""From the words of `--cases` to training cases."""

import re
from collections.abc import Sequence

from benchmarks.named_cases import check_size, named_cases, unknown_case
from benchmarks.training_case import TrainingCase
from mu_jax.config import InputError

TABLE = ("8x8_w16_k16", "32x32_w16_chunk", "32x32_w16_k8", "32x32_w64_chunk")
"""The cases that the project's table of speeds shows."""
TABLE_BFLOAT16 = "32x32_w64_chunk_bf16"
# K models of width 64 need tens of gigabytes for their activations: by name only.
ALL = (
    *(f"8x8_w16_{mode}" for mode in ("single", "chunk", "k8", "k16", "k32")),
    *(f"32x32_w16_{mode}" for mode in ("single", "chunk", "k8", "k32")),
    *(f"32x32_w64_{mode}" for mode in ("single", "chunk", "chunk_bf16")),
)
_NAME = re.compile(r"(\d{1,6})x(\d{1,6})_w(\d{1,6})_(single|chunk|k(\d{1,6}))(_bf16)?(?:_b(\d{1,6}))?")
_FORM = "SIDExSIDE_wWIDTH_MODE[_bf16][_bBATCH] with MODE single, chunk or kMODELS, such as 32x32_w16_k8"


def parse_case(name: str, batch: int | None = None) -> TrainingCase:
    """The case that `name` spells; `batch` replaces its batch size. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown_case(name, (*ALL, *TABLE), _FORM)
    height, side, width, mode, models, bfloat16, own_batch = match.groups()
    if height != side:
        raise InputError(
            f"The case {name!r} has images of {height}×{side}, but expected a square; change it."
        )
    check_size(name, "side", int(side), 8, 512)
    check_size(name, "width", int(width), 1, 1024)
    if models:
        check_size(name, "number of models", int(models), 2, 1024)
    case = TrainingCase(
        side=int(side),
        width=int(width),
        mode="many" if models else mode,
        models=int(models or 1),
        dtype="bfloat16" if bfloat16 else "float32",
        batch=64 if int(side) >= 32 else 32,
    )
    chosen = batch or (own_batch and int(own_batch))
    if chosen:
        check_size(name, "batch", chosen, 2, 65536)
        case = TrainingCase(**(vars(case) | {"batch": chosen}))
    return case


def parse_cases(names: Sequence[str], batch: int | None, bfloat16_by_default: bool) -> list[TrainingCase]:
    """The cases of `--cases`: names, or `all`; without any, those of the project's table."""
    table = (*TABLE, TABLE_BFLOAT16) if bfloat16_by_default else TABLE
    return named_cases(names, lambda name: parse_case(name, batch), ALL, table)
