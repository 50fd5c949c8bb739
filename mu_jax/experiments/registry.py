"""From a config to its experiment, and what the terminal shows at the end."""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mu_jax.evaluation.report import comparison_table


def launch(config: Any, workdir: pathlib.Path, overrides: Mapping[str, Any]) -> None:
    """Run the experiment that the config names (a module beside this one), then print its table."""
    experiment = importlib.import_module(f"mu_jax.experiments.{config.experiment}")
    results, done_before = experiment.run(config, workdir, overrides)
    print_results(results, workdir, done_before)


def print_results(
    results: Mapping[str, Any], workdir: pathlib.Path, done_before: bool, console: Console | None = None
) -> None:
    """The table of models, and where the report lies."""
    console = console or Console()
    # Paths and names are the user's: square brackets in them are no markup.
    plain = {"markup": False, "highlight": False, "soft_wrap": True}
    if not console.is_terminal:
        console.width = 120
    if done_before:
        console.print(
            f"This run is done already; its results stand in {workdir}.", highlight=False, soft_wrap=True
        )
    header, rows = comparison_table(dict(results), compact=True)
    narrow = console.width < 120
    table = Table(
        title=escape(f"{results['data']['name']}: {results['data']['forget']} examples forgotten"),
        # A narrow terminal folds cells between words; frames would take the room that the words need.
        box=box.SIMPLE_HEAD if narrow else box.HEAVY_HEAD,
        padding=(0, 0) if narrow else (0, 1),
    )
    for i, name in enumerate(header):
        words = [word for row in [header, *rows] for word in row[i].split()]
        table.add_column(
            name,
            justify="right" if i else "left",
            no_wrap=i == 0,
            min_width=max(map(len, words)),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(f"report: {workdir / 'report.html'}", **plain)
