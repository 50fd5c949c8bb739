"""Writes what was measured into the table that `mu_jax.ops.choice` reads."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.training_case import TrainingCase

_KEYS = ("backend", "width", "image_size", "models", "in_loop", "dtype")


def choice_row(
    case: TrainingCase, backend: str, rates: Mapping[str, float], mapping: str, device: str
) -> dict[str, Any]:
    """The entry of a case, from the images per second of each lowering; `mapping` is the fastest's."""
    return {
        "backend": backend,
        "width": case.width,
        "image_size": case.side,
        "models": case.models,
        "in_loop": case.mode != "single",
        "dtype": case.dtype,
        "lowering": max(rates, key=rates.get),
        "mapping": mapping,
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "device": device,
    }


def key_of(row: Mapping[str, Any]) -> tuple:
    """What names an entry."""
    return tuple(row[key] for key in _KEYS)


def merge_choices(path: pathlib.Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the entries of the same keys, keeps all others, and sorts; one entry a line."""
    entries = {key_of(row): row for row in (*json.loads(path.read_text()), *measured)}
    lines = [json.dumps(entries[key]) for key in sorted(entries)]
    aside = path.with_name(path.name + ".part")
    aside.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    aside.replace(path)
