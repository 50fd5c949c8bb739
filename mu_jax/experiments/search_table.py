"""What the terminal shows of a search: the best setting of each method, sorted by gap, and where its flags stand."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.search_tables import best_table, remarks
from mu_jax.evaluation.report.tables import duration
from mu_jax.experiments.sweep_table import Summary


def search_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a method with its best setting, the retrained and the original model among them by their gap."""
    search, facts = results["search"], results["data"]
    title = f"{facts['name']}: {search['settings']:,} settings, {facts['forget']:,} other examples forgotten"
    lines = [
        f"{search['settings']:,} settings in {search['groups']:,} groups, {search['programs']:,} programs: "
        f"{duration(search['seconds'])} training, {duration(search['compile_seconds'])} compiling",
        *remarks(results),
        f"flags for an unlearning_methods run: {workdir / 'best.json'}",
    ]
    return title, best_table(results, compact=True), lines
