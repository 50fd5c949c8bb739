"""What the one benchmark prints, and the cells of its page."""

from collections.abc import Sequence

from benchmarks.suite import KINDS
from benchmarks.suite_reading import PYTORCH, Reading, Side
from benchmarks.table import aligned, number

COLUMNS = (
    "Row",
    "Ours",
    "Beside",
    "Unit",
    "Ours ÷ it",
    "Target",
    "How, ours",
    "How, beside",
    "Ready s, ours / beside",
    "Peak GiB, ours / beside",
    "Remarks",
)


def lines(readings: Sequence[Reading]) -> str:
    """A line a row: both figures, how many times as fast ours is, and whether that reaches the target."""
    cells = [_line(reading) for reading in readings]
    # The last column is text again; every other ends in a mark, so that no line is shorter than its columns.
    figures = aligned([cell[:-1] for cell in cells], 1).splitlines()
    return "\n".join(f"{figure}  {cell[-1]}" for figure, cell in zip(figures, cells, strict=True))


def page_tables(readings: Sequence[Reading]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """(columns, rows) of each kind of work that there is, in their order."""
    tables = {}
    for kind in KINDS:
        mine = [reading for reading in readings if reading.row.kind == kind]
        if mine:
            tables[kind] = list(COLUMNS), [_cells(reading) for reading in mine]
    return tables


def verdict(readings: Sequence[Reading]) -> str:
    """How many rows beside PyTorch reach their targets, in a sentence."""
    judged = [reading for reading in readings if reading.met is not None]
    if not judged:
        return "No row was measured beside PyTorch."
    met = [reading for reading in judged if reading.met]
    return f"{len(met)} of {len(judged)} rows beside PyTorch reach their target."


def remarks(readings: Sequence[Reading]) -> list[str]:
    """Sentences on losses, on targets that are missed, on what was not measured, and on disturbed rounds."""
    slower = [r for r in readings if r.met is not None and r.ratio < 1]
    missed = [r for r in readings if r.met is False and r.ratio >= 1]
    failed = [r for r in readings if r.failure]
    alone = [r for r in readings if r.beside == PYTORCH and not r.failure and r.theirs is None]
    disturbed = [r for r in readings if r.disturbed]
    found = [f"PyTorch is the faster in {_named(slower)}." if slower else ""]
    found.append(f"Faster than PyTorch, but short of the target: {_named(missed)}." if missed else "")
    if failed:
        found.append("Failed: " + "; ".join(f"{r.row.name} ({_failed(r)})" for r in failed))
    if alone:
        found.append(f"PyTorch was not measured in {', '.join(r.row.name for r in alone)}.")
    if disturbed:
        found.append(
            "Other programs used the cores, so that the ratio says little, in "
            + ", ".join(f"{r.row.name} ({r.others_share:.0%})" for r in disturbed)
            + "."
        )
    return [sentence for sentence in found if sentence]


def _named(readings: Sequence[Reading]) -> str:
    ordered = sorted(readings, key=lambda reading: reading.ratio)
    return ", ".join(f"{reading.row.name} ({ratio_text(reading)})" for reading in ordered)


def ratio_text(reading: Reading) -> str:
    """How many times as fast ours is, or a dash."""
    return "–" if reading.ratio is None else f"{number(reading.ratio)}×"


def target_text(reading: Reading) -> str:
    """The target, and whether it is reached."""
    if reading.met is None:
        return f"target {reading.row.target:g}×"
    return f"target {reading.row.target:g}×: {'met' if reading.met else 'missed'}"


def _line(reading: Reading) -> tuple[str, ...]:
    name = reading.row.name
    if reading.ours is None or reading.failure:
        return name, "", "", "–", _failed(reading)
    end = target_text(reading)
    if reading.disturbed:
        end += f", disturbed ({reading.others_share:.0%})"
    return (
        name,
        f"ours {_value(reading.ours)} {reading.unit}",
        f"{reading.beside} {_value(reading.theirs)}",
        ratio_text(reading),
        end,
    )


def _cells(reading: Reading) -> list[str]:
    name, dash = reading.row.name, "–"
    if reading.ours is None:
        return [name, *[dash] * (len(COLUMNS) - 2), "not measured, see above"]
    ours, theirs = reading.ours, reading.theirs
    said = [
        "not to be trusted, see above" if reading.failure else "",
        reading.note,
        "kept from before" if reading.kept else "",
    ]
    if reading.disturbed:
        said.insert(0, f"disturbed: others used {reading.others_share:.0%} of the cores")
    return [
        name,
        _value(ours),
        dash if theirs is None else f"{_value(theirs)} ({reading.beside})",
        reading.unit,
        ratio_text(reading),
        target_text(reading).removeprefix("target "),
        ours.how,
        theirs.how if theirs else dash,
        f"{_cold(ours)} / {_cold(theirs)}",
        f"{_memory(ours)} / {_memory(theirs)}",
        "; ".join(filter(None, said)) or dash,
    ]


def _failed(reading: Reading) -> str:
    """Why there are no figures, or none to trust; empty where nothing is wrong."""
    if not reading.failure:
        return ""
    return f"{'not measured' if reading.ours is None else 'not to be trusted'}: {reading.failure}"


def _value(side: Side | None) -> str:
    return "–" if side is None else number(side.value)


def _cold(side: Side | None) -> str:
    return "–" if side is None or side.cold_seconds is None else f"{side.cold_seconds:.1f}"


def _memory(side: Side | None) -> str:
    return "–" if side is None or not side.memory_bytes else f"{side.memory_bytes / 2**30:.2f}"
