"""What the benchmark of SISA prints beside what all benchmarks do."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.orchestrator import Contender
from benchmarks.table import aligned, number


def check_steps(ours: Sequence[Contender], theirs: Sequence[Contender]) -> None:
    """RuntimeError unless all contenders trained each shard that they share for as many steps."""
    expected: dict[str, tuple[str, int]] = {}
    for one in (*ours, *theirs):
        for shard, steps in one.facts.get("steps_of_shards", {}).items():
            label, wanted = expected.setdefault(shard, (one.label, steps))
            if steps != wanted:
                raise RuntimeError(
                    f"Shard {shard} had {steps} steps in {one.label!r}, but {wanted} in {label!r}: their times say "
                    "nothing about one another."
                )


def deletion_lines(figures: Mapping[str, Any]) -> str:
    """The figures of a case of deletions, in words."""
    speed_up, error = figures["speed_up"], figures["seconds_error"]
    measured = "–" if speed_up["examples"] is None else f"{speed_up['examples']:.1f}×"
    lines = [
        f"{figures['deletions']} deletions, one a request: {figures['seconds']:.3g} s each"
        + (f" ± {error:.1g}" if error is not None else "")
        + f", {figures['training_seconds']:.3g} s of it training; one model anew takes "
        f"{figures['retrain_seconds']:.3g} s, the ensemble {figures['refit_seconds']:.3g} s",
        aligned(
            [
                ("", "measured", "predicted"),
                (
                    "examples retrained by a deletion",
                    number(figures["examples_retrained"]),
                    number(figures["predicted_examples_retrained"]),
                ),
                ("speed-up over one model anew, in examples", measured, f"{speed_up['predicted']:.1f}×"),
                ("speed-up over one model anew, in seconds", f"{speed_up['seconds']:.1f}×", "–"),
                (
                    "speed-up over the ensemble anew, in seconds",
                    f"{speed_up['seconds_over_refit']:.1f}×",
                    "–",
                ),
            ],
            1,
        ),
    ]
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as Markdown tables: one of fits, one of deletions."""
    fits = [row for row in rows if row["unit"] == "shards/min"]
    deletions = [row for row in rows if row["unit"] != "shards/min"]
    tables = []
    if fits:
        tables.append(_fits(fits))
    if deletions:
        tables.append(_deletions(deletions))
    return "\n\n".join(tables)


def _fits(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| case | side by side, shards/min | one after another | PyTorch | ours ÷ PyTorch | PyTorch's form | "
        "ours compile s | memory ours / theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        details = row["details"]
        theirs = ("–", "–", "–")
        if row["torch"] is not None:
            theirs = (number(row["torch"]), f"{row['ours'] / row['torch']:.2f}", details["torch_reference"])
        cells = (
            _case(row),
            _rate(details["side_by_side"]),
            _rate(details["one_after_another"]),
            *theirs,
            f"{details['ours'][details['ours_best']]['compile_seconds']:.1f}",
            " / ".join(_gibibytes(details["memory"].get(name)) for name in ("JAX", "PyTorch")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _deletions(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| case | deletions | s a deletion | s of it training | one model anew, s | ensemble anew, s | "
        "speed-up in seconds | in examples | predicted | PyTorch's deletions, s | PyTorch ÷ ours |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = row["details"]["deletion"]
        speed_up, theirs = figures["speed_up"], ("–", "–")
        if row["torch"] is not None:
            theirs = (f"{60 / row['torch']:.3g} ({row['details']['torch_reference']})", f"{row['ratio']:.2f}")
        cells = (
            _case(row),
            str(figures["deletions"]),
            f"{figures['seconds']:.3g}",
            f"{figures['training_seconds']:.3g}",
            f"{figures['retrain_seconds']:.3g}",
            f"{figures['refit_seconds']:.3g}",
            f"{speed_up['seconds']:.1f}×",
            "–" if speed_up["examples"] is None else f"{speed_up['examples']:.1f}×",
            f"{speed_up['predicted']:.1f}×",
            *theirs,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _case(row: Mapping[str, Any]) -> str:
    return f"{row['case']} on {row['details']['data']}"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else number(rate)


def _gibibytes(peaks: Mapping[str, int | None] | None) -> str:
    if peaks is None:
        return "–"
    return f"{(peaks['device_peak_bytes'] or peaks['peak_bytes']) / 2**30:.2f} GiB"
