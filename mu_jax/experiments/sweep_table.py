"""What the terminal shows of a finished sweep: accuracies over the models, speed, and where the signals lie."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.sweep_tables import diverged, rate, summary_table
from mu_jax.evaluation.report.tables import Table, duration

# Of any experiment: the table's title, the table (None: there is none), and the lines beneath it.
Summary = tuple[str, Table | None, list[str]]


def sweep_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """Accuracies over the models that did not diverge; speed, time, and the folder of the signals."""
    sweep, models = results["sweep"], len(results["models"])
    title = f"{results['data']['name']}: {models:,} shadow model{'' if models == 1 else 's'}"
    lines = [
        f"speed: {rate(sweep.get('models_per_minute'))} models per minute, "
        f"{rate(sweep.get('images_per_second'))} images/s"
        + ("" if sweep.get("processes", 1) == 1 else " a process"),
        "time: " + ", ".join(_times(sweep)),
    ]
    if lost := len(diverged(results)):
        lines.append(f"diverged: {lost:,} of {models:,} models, left out of the table")
    lines.append(f"signals: {workdir / 'signals'}")
    return title, summary_table(results, compact=True), lines


def _times(sweep: Mapping[str, Any]) -> list[str]:
    parts = {"seconds": "training", "query_seconds": "querying", "compile_seconds": "compiling"}
    return [f"{duration(sweep[key])} {what}" for key, what in parts.items() if sweep.get(key) is not None]
