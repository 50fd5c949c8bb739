"""The rows of `--json=FILE`, alike for every benchmark."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def row(
    case: str, ours: float, torch: float | None, unit: str, device: str, details: Mapping[str, Any]
) -> dict[str, Any]:
    """One case: the two medians and ours ÷ PyTorch's (None where PyTorch was left out)."""
    return {
        "case": case,
        "ours": round(ours, 2),
        "torch": torch and round(torch, 2),
        "ratio": torch and round(ours / torch, 3),
        "unit": unit,
        "device": device,
        "details": dict(details),
    }


def write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the file."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(rows, indent=1) + "\n")
    aside.replace(path)
