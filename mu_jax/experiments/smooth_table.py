"""What the terminal shows of the study of smooth models."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.smooth_page import sentences
from mu_jax.evaluation.report.smooth_tables import kinds_table, remarks
from mu_jax.experiments.sweep_table import Summary


def smooth_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a kind of model, and what clipping did."""
    del workdir
    facts, study = results["data"], results["study"]
    title = f"{facts['name']}: {study['models']} models of each kind, {facts['forget']:,} examples forgotten"
    return title, kinds_table(results, compact=True), [*sentences(results), *remarks(results)]
