"""What the terminal shows of an imported checkpoint."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.import_page import import_table
from mu_jax.experiments.sweep_table import Summary


def import_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """One row, and what to do next; `workdir` is where the model lies now."""
    lines = [
        f"next: --config=configs/unlearn.py --config.checkpoint={workdir} --config.forget.indices=FILE.npy"
    ]
    return f"{results['checkpoint']['path']} on {results['data']['name']}", import_table(results), lines
