"""What the benchmark of sweeps prints beside what all benchmarks do."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.orchestrator import Contender
from benchmarks.table import number

# Sides that learn the same task by the same recipe differ less, unless one of the loops is broken.
_ALIKE = 0.1


def learning_lines(ours: Sequence[Contender], theirs: Sequence[Contender]) -> str:
    """What the models of each contender's last round learned: the mean accuracy on members, and on the others."""
    measured = [one for one in (*ours, *theirs) if one.rates]
    lines = [
        f"accuracy of {one.facts['models_a_round']} model(s) of {one.label}: "
        f"members {one.facts['member_accuracy']:.1%}, others {one.facts['nonmember_accuracy']:.1%}"
        for one in measured
    ]
    accuracies = [one.facts["member_accuracy"] for one in measured]
    if max(accuracies) - min(accuracies) > _ALIKE:
        lines.append(
            "WARNING: the accuracies on members differ much: too few epochs, or one of the loops is broken."
        )
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as a Markdown table; memory is the peak of each side's process, or of its share of the device."""
    lines = [
        "| case | ours, models/min | PyTorch, models/min | ratio | PyTorch's form | ours compile s | "
        "memory ours / theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        details = row["details"]
        theirs = ("–", "–", "–")
        if row["torch"] is not None:
            theirs = (number(row["torch"]), f"{row['ours'] / row['torch']:.2f}", details["torch_reference"])
        compilation = details["ours"][details["ours_best"]]["compile_seconds"]
        cells = (
            f"{row['case']} on {details['data']}",
            number(row["ours"]),
            *theirs,
            f"{compilation:.1f}",
            " / ".join(_gibibytes(details["memory"].get(name)) for name in ("JAX", "PyTorch")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gibibytes(peaks: Mapping[str, int | None] | None) -> str:
    if peaks is None:
        return "–"
    return f"{(peaks['device_peak_bytes'] or peaks['peak_bytes']) / 2**30:.2f} GiB"
