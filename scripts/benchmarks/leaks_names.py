"""From the words of `--cases` to cases of pair attacks."""

import re
from collections.abc import Sequence

from benchmarks.leaks_case import BATCH, BLOCK, EPOCHS, EXAMPLES, SIDES, LeaksCase
from benchmarks.named_cases import named_cases, unknown_case
from benchmarks.sweep_names import check_epochs
from mu_jax.config import InputError

TABLE = ("retrain_k1000",)
"""The case that the project's table shows."""
ALL = (*TABLE, "retrain_cnn_k1000")
_NAME = re.compile(r"retrain_(cnn_)?k(\d{1,6})(?:_e(\d{1,6}(?:\.\d{1,6})?))?")
_FORM = "retrain_[cnn_]kMODELS[_eEPOCHS], such as retrain_k1000"
_MOST_MODELS = 20_000


def parse_case(name: str, epochs: float | None = None) -> LeaksCase:
    """The case that `name` spells; `epochs` replaces its epochs. InputError where it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown_case(name, ALL, _FORM)
    network, models, own_epochs = match.groups()
    count, fewest = int(models), len(SIDES) * BLOCK
    if not fewest <= count <= _MOST_MODELS or count % fewest:
        raise InputError(
            f"The case {name!r} has {count} models, but expected a multiple of {fewest} up to {_MOST_MODELS}, an "
            f"original and {BLOCK - 1} retrained ones in each block of both sides; change it in its name."
        )
    chosen = epochs if epochs is not None else float(own_epochs) if own_epochs else EPOCHS
    check_epochs(chosen, f"The case {name!r} has {chosen:g} epochs", "change it in its name")
    case = LeaksCase("cnn" if network else "mlp", count, chosen)
    if case.epochs * (EXAMPLES - 1) < BATCH / 2:
        raise InputError(
            f"The case {name!r} has {chosen:g} epochs of {EXAMPLES} examples, which is less than half a batch of "
            f"{BATCH}, but expected at least one step; give it more."
        )
    return case


def parse_cases(names: Sequence[str], epochs: float | None = None) -> list[LeaksCase]:
    """The cases of `--cases`: names, or `all`; without any, that of the project's table."""
    return named_cases(names, lambda name: parse_case(name, epochs), ALL, TABLE)
