"""What the benchmarks print."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.orchestrator import Contender

DISTURBED = 0.1
"""Rounds in which other programs had more of the cores than this say little."""


def number(value: float) -> str:
    """Three digits or more, with commas."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Columns under their headings: the first `text_columns` to the left, the rest to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def case_table(
    ours: Sequence[Contender],
    theirs: Sequence[Contender],
    best: Contender,
    reference: Contender | None,
    memory: Mapping[str, Mapping[str, int | None]],
    unit: str = "images/s",
) -> str:
    """Every contender of one case: its median, range, and how many times as fast the best of ours is.

    `best` is marked `*`, the denominator of the ratio `†`.
    """
    rows = [("", "side", "how", unit, "lowest", "highest", "ours ×", "ready s")]
    for side, contenders in (("ours", ours), ("torch", theirs)):
        for one in contenders:
            mark = "*" if one is best else "†" if one is reference else ""
            if one.rates:
                figures = (number(one.rate), number(min(one.rates)), number(max(one.rates)))
                figures += (f"{best.rate / one.rate:.2f}", f"{one.facts['prepare_seconds']:.1f}")
            else:
                figures = ("–",) * 5
            rows.append((mark, side, one.label, *figures))
    lines = [aligned(rows, 3)]
    lines += [f"left out: {c.label}: {c.unavailable}" for c in (*ours, *theirs) if c.unavailable]
    short = [c.label for c in (*ours, *theirs) if c.rates and len(c.rates) < len(best.rates)]
    if short:
        lines.append(f"one round only, being four times slower than the best of its side: {', '.join(short)}")
    for name, peaks in memory.items():
        device = peaks["device_peak_bytes"]
        more = f", {device / 2**30:.2f} GiB on the device" if device else ""
        lines.append(f"peak memory of the {name} worker: {peaks['peak_bytes'] / 2**30:.2f} GiB{more}")
    disturbed = max(c.others_share for c in (*ours, *theirs))
    if disturbed > DISTURBED:
        lines.append(
            f"WARNING: other programs used up to {disturbed:.0%} of the cores in a round; "
            "PyTorch suffers most from it: measure again on a quiet machine."
        )
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as a Markdown table."""
    lines = [
        "| case | ours, images/s | PyTorch, images/s | ratio | PyTorch's best | ratio to it |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        best = row["details"]["torch_best"]
        theirs = (
            ("–", "–")
            if row["torch"] is None
            else (number(row["torch"]), f"{row['ours'] / row['torch']:.2f}")
        )
        if best is None:
            last = ("–", "–")
        else:
            last = (f"{number(best['rate'])} ({best['how']})", f"{row['ours'] / best['rate']:.2f}")
        lines.append("| " + " | ".join((row["case"], number(row["ours"]), *theirs, *last)) + " |")
    return "\n".join(lines)
