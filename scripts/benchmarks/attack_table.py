"""What the benchmark of attacks prints, and whether its versions agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.attack_case import AttackCase
from benchmarks.table import DISTURBED, number

TOLERANCE = 1e-6
"""Scores of the two versions may differ by so much; RMIA's counts may not differ at all."""


def compare(case: AttackCase, ours: np.ndarray, definition: np.ndarray) -> dict[str, Any]:
    """The largest absolute difference, of RMIA also the examples whose counts differ, and whether they agree."""
    difference = float(np.max(np.abs(ours - definition)))
    found = {"max_difference": difference, "agree": bool(difference <= TOLERANCE)}  # NaN does not
    if case.kind == "rmia":
        counts = [np.rint(scores * case.population) for scores in (ours, definition)]
        found["counts_differ"] = int(np.sum(counts[0] != counts[1]))
        found["agree"] = found["agree"] and found["counts_differ"] == 0
    return found


def agree(details: Mapping[str, Any]) -> bool:
    """Whether the definition and every form of PyTorch, where there are any, found what ours did."""
    return all(one.get("agree", True) for one in (details, *details.get("torch", {}).values()))


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as a Markdown table, and what is to be known of them below it."""
    lines = [
        "| case | ours | definition | ratio | PyTorch | ratio | above inputs, GiB: ours / definition | inputs, GiB | "
        "max difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        details = row["details"]
        measured = row["definition"] is not None
        cells = (
            row["case"],
            duration(row["ours"], row["unit"]),
            duration(row["definition"], row["unit"]) if measured else "–",
            f"{number(row['ratio'])}×" if measured else "–",
            *_torch(row),
            " / ".join(
                _gibibytes(details[side].get("above_inputs_bytes")) for side in ("ours", "definition")
            ),
            _gibibytes(details["inputs_bytes"]),
            _difference(details) if measured else "–",
        )
        lines.append("| " + " | ".join(cells) + " |")
    notes = [note for row in rows for note in notes_of(row)]
    return "\n".join(lines + ([""] if notes else []) + notes)


def _torch(row: Mapping[str, Any]) -> tuple[str, str]:
    """PyTorch's time and form, and how many times as long it takes."""
    form = row["details"].get("torch_reference")
    if form is None:
        return "–", "–"
    seconds = row["details"]["torch"][form]["seconds"]
    how = f"{duration(seconds, row['unit'])} ({form.removeprefix('torch ')})"
    return how, f"{number(seconds / row['ours'])}×"


def notes_of(row: Mapping[str, Any]) -> list[str]:
    """One line for each thing that the figures of a case do not say."""
    details, notes = row["details"], []
    reason = details["definition"].get("unavailable")
    if reason:
        notes.append(f"{row['case']}: the definition was skipped: {reason}.")
    done, items = details["definition"].get("items_a_run"), details["items"]
    if done and done < items:
        what = (
            "targets, each a call of lira_scores" if details["kind"] == "leave_one_out_lira" else "examples"
        )
        span = f"over {done}" if row["unit"] == "s/example" else f"times {items / done:g}"
        notes.append(f"{row['case']}: beside ours stands the time of {done} of {items:,} {what}, {span}.")
    if details["kind"] == "forgetting" and details["models"] == 128:
        notes.append(
            f"{row['case']}: of the public scorer 0.7 s an example is reported; a reported figure, not measured here."
        )
    disturbed = max(details[side].get("others_share", 0.0) for side in ("ours", "definition"))
    if disturbed > DISTURBED:
        notes.append(
            f"WARNING: {row['case']}: other programs used up to {disturbed:.0%} of the cores in a round; "
            "measure again on a quiet machine."
        )
    if not details.get("agree", True):
        notes.append(f"WARNING: {row['case']}: the two versions disagree: {_difference(details)}.")
    for form, one in details.get("torch", {}).items():
        if reason := one.get("unavailable"):
            notes.append(f"{row['case']}: {form} was skipped: {reason}.")
        if not one.get("agree", True):
            notes.append(f"WARNING: {row['case']}: {form} disagrees with ours: {_difference(one)}.")
    return notes


def duration(seconds: float, unit: str) -> str:
    """Three digits, in milliseconds below a second."""
    text = f"{number(seconds)} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
    return text + unit.removeprefix("s")


def _difference(details: Mapping[str, Any]) -> str:
    text = f"{details['max_difference']:.1e}" if details["max_difference"] else "0"
    if "counts_differ" in details:
        text += f" ({details['counts_differ'] or 'no'} counts differ)"
    return text


def _gibibytes(size: int | None) -> str:
    if size is None:
        return "–"
    gibibytes = size / 2**30
    return f"{gibibytes:.2f}" if gibibytes >= 0.005 else "<0.01"
