"""A search for settings as rows of strings, the same for the page and for the terminal. Rates stand in percent."""

import math
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.tables import MISSING, Table, percent, seconds

Row = Mapping[str, Any]


def best_table(results: Mapping[str, Any], compact: bool = False) -> Table:
    """Header and rows sorted by gap: each method with its best setting, and the references among them.

    Methods that diverged with every setting come last. `compact` is for a terminal.
    """
    header = [
        "Model",
        "Gap pp",
        "Rate",
        "÷ every",
        "Epochs",
        "Knob",
        "Retain %",
        "Forget %",
        "Test %",
        "AUC %",
    ]
    if not compact:
        header = ["Model", "Gap to retrain, pp", "Learning rate", "Divided every, epochs", "Epochs", "Knob"]
        header += ["Retain %", "Forget %", "Test %", "Loss attack's AUC %", "Tried (diverged)"]
    rows = []
    for name, model in results["models"].items():
        best = results["best"].get(name)
        setting = [MISSING] * 4 if best is None else setting_cells(best)
        tried = [] if compact else [MISSING if best is None else f"{best['tried']} ({best['diverged']})"]
        rows.append((model["gap_to_retrain"], [name, *_figures(model, setting), *tried]))
    rows.sort(key=lambda row: row[0])
    for name, best in results["best"].items():
        if best["setting"] is None:
            tried = [] if compact else [f"{best['tried']} ({best['diverged']})"]
            rows.append((math.inf, [name, "diverged", *[MISSING] * 8, *tried]))
    return header, [cells for _, cells in rows]


def settings_table(results: Mapping[str, Any]) -> Table:
    """All settings of all methods, sorted by gap; those that diverged come last."""
    header = ["Method", "Gap to retrain, pp", "Learning rate", "Divided every, epochs", "Epochs", "Knob"]
    header += ["Retain %", "Forget %", "Test %", "Loss attack's AUC %", "Diverged at step", "Time, s"]
    ordered = sorted(
        results["tables"]["search"], key=lambda row: math.inf if row["gap"] is None else row["gap"]
    )
    rows = [
        [
            row["method"],
            percent(row["gap"]),
            *setting_cells(row),
            *(percent(row[part]) for part in ("retain", "forget", "test", "loss_auc")),
            MISSING if row["diverged_step"] is None else f"{row['diverged_step']:,}",
            seconds(row["seconds"]),
        ]
        for row in ordered
    ]
    return header, rows


def setting_cells(row: Row) -> list[str]:
    """Learning rate, epochs between its steps, epochs and knob."""
    step = f"{row['step_epochs']:g}" if row["step_epochs"] else "never"
    knob = MISSING if row["knob"] is None else f"{row['knob']}={row['knob_value']:g}"
    return [f"{row['learning_rate']:g}", step, f"{row['epochs']:g}", knob]


def schedule(step_epochs: float) -> str:
    """What becomes of the learning rate, in words that follow it."""
    if not step_epochs:
        return "held constant"
    return "divided every epoch" if step_epochs == 1 else f"divided every {step_epochs:g} epochs"


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What must be known before the figures are believed, a sentence each."""
    rows = results["tables"]["search"]
    floor = results["models"]["retrain_again"]["gap_to_retrain"]
    found = [
        "the smallest gap over a grid flatters: run the settings on the set to be scored, which this search has not "
        "looked at, and take the gaps from there",
        f"noise floor (retrain_again): {percent(floor)} pp; a setting below it cannot be told from retraining",
    ]
    edges = {method: best["at_edge"] for method, best in results["best"].items() if best.get("at_edge")}
    if edges:
        named = "; ".join(f"{method} ({', '.join(keys)})" for method, keys in edges.items())
        found.append(f"best at the edge of the grid, which may be too narrow: {named}")
    if lost := sum(row["diverged_step"] is not None for row in rows):
        found.append(f"diverged: {lost:,} of {len(rows):,} settings")
    for where, methods in results["search"]["shared_settings"].items():
        found.append(
            f"{' and '.join(methods)} read the same settings (methods.{where}): a run can take the flags of one of them"
        )
    if results["search"]["other_kind"]:
        found.append(
            "the set to be scored is chosen by classes or indices, the search's own at random: another kind of request"
        )
    return found


def _figures(model: Row, setting: list[str]) -> list[str]:
    accuracy = model["accuracy"]
    return [
        percent(model["gap_to_retrain"]),
        *setting,
        *(percent(accuracy[part]) for part in ("retain", "forget", "test")),
        percent(model["attacks"]["loss_threshold"]["auc"]),
    ]
