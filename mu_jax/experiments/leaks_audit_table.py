"""What the terminal shows of an audit of a deletion."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.leaks_audit_page import leaks_audit_table, remarks, verdict
from mu_jax.experiments.sweep_table import Summary


def leaks_audit_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row an attack; the verdict, what is odd, and the file with every score."""
    facts = results["data"]
    title = f"{facts['name']}: attacks on {facts['target_pairs']:,} pairs from before and after a deletion"
    lines = [f"{verdict(results)}.", *remarks(results), f"scores: {workdir / 'scores.npz'}"]
    return title, leaks_audit_table(results, compact=True), lines
