"""From a config to its experiment, and what the terminal shows at the end."""

import contextlib
import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mu_jax.config import InputError
from mu_jax.experiments import devices
from mu_jax.experiments.run_folder import reading_results

# What each experiment shows, MODULE.FUNCTION of this folder; those that are not here compare models. By name: with all
# of them come the figures of every report and what draws them, seconds that a first step would wait for.
_SUMMARIES = {
    "shadow_sweep": "sweep_table.sweep_summary",
    "audit": "attack_summary.audit_summary",
    "leaks_audit": "leaks_audit_table.leaks_audit_summary",
    "unlearning_leaks": "leaks_table.leaks_summary",
    "sisa_posterior": "sisa_table.sisa_summary",
    "sisa_delete": "sisa_table.sisa_delete_summary",
    "unlearning_methods": "methods_table.methods_summary",
    "unlearning_search": "search_table.search_summary",
    "unlearn_saved": "unlearn_saved_results.saved_summary",
    "smooth_amun": "smooth_table.smooth_summary",
    "spectra": "spectra_table.spectra_summary",
    "class_unlearning": "class_table.class_summary",
    "import_checkpoint": "import_table.import_summary",
}


def join_processes(config: Any, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the other processes of this run; InputError where it has one process, or none are found."""
    if not getattr(_module(config), "MANY_PROCESSES", False):
        raise InputError(
            f"The experiment {config.experiment!r} runs in one process, but expected one that shares its work "
            "(shadow_sweep); start it without --distributed and --coordinator."
        )
    try:
        devices.join_processes(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = f"at {coordinator}" if coordinator else "by the cluster's own variables"
        raise InputError(
            f"The other processes were not found {where} ({reason}); start all of them, or give --coordinator, "
            "--processes and --process."
        ) from None


def _module(config: Any) -> Any:
    return importlib.import_module(f"mu_jax.experiments.{config.experiment}")


def launch(config: Any, workdir: pathlib.Path, overrides: Mapping[str, Any]) -> None:
    """Run the experiment that the config names (a module beside this one), then print its table."""
    results, done_before = _module(config).run(config, workdir, overrides)
    print_results(results, workdir, done_before)


def print_results(
    results: Mapping[str, Any], workdir: pathlib.Path, done_before: bool, console: Console | None = None
) -> None:
    """The experiment's table and lines, and where the report lies."""
    console = console or Console()
    # Paths and names are the user's: square brackets in them are no markup.
    plain = {"markup": False, "highlight": False, "soft_wrap": True}
    if not console.is_terminal:
        console.width = 120
    if done_before:
        console.print(f"This run is done already; its results stand in {workdir}.", **plain)
    # What an earlier call wrote may have been damaged since.
    with reading_results(workdir) if done_before else contextlib.nullcontext():
        _print_results(results, workdir, console, plain)


def _print_results(
    results: Mapping[str, Any], workdir: pathlib.Path, console: Console, plain: Mapping[str, Any]
) -> None:
    summary = _summary_of(results.get("experiment", ""))
    title, table, lines = summary(results, workdir)
    if table is not None:
        _print_table(console, title, table)
    attacks = results.get("tables", {}).get("attacks")
    if attacks:
        from mu_jax.evaluation.report.attack_tables import attack_table
        from mu_jax.experiments.attack_summary import attacks_title

        _print_table(console, attacks_title(attacks), attack_table(attacks, compact=True))
    # Where an experiment lies inside another one's folder, it says so.
    where = pathlib.Path(results.get("folder", workdir))
    for line in [*lines, f"report: {where / 'report.html'}"]:
        console.print(line, **plain)


def _summary_of(experiment: str) -> Callable[[Mapping[str, Any], pathlib.Path], tuple[str, Any, list[str]]]:
    """(results, run folder) -> (title, table or None, lines below it)."""
    if experiment not in _SUMMARIES:
        return _comparison_summary
    module, _, function = _SUMMARIES[experiment].partition(".")
    return getattr(importlib.import_module(f"mu_jax.experiments.{module}"), function)


def _print_table(
    console: Console, title: str, content: tuple[Sequence[str], Sequence[Sequence[str]]]
) -> None:
    header, rows = content
    narrow = console.width < 120
    table = Table(
        title=escape(title),
        # A narrow terminal folds cells between words; frames would take the room that the words need.
        box=box.SIMPLE_HEAD if narrow else box.HEAVY_HEAD,
        padding=(0, 0) if narrow else (0, 1),
        # The title folds at the table's width.
        min_width=min(cell_len(title), console.width),
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


def _comparison_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> tuple[str, Any, list[str]]:
    from mu_jax.evaluation.report.tables import comparison_table

    title = f"{results['data']['name']}: {results['data']['forget']} examples forgotten"
    return title, comparison_table(results, compact=True), []
