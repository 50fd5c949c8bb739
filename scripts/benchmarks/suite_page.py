"""The page of the one benchmark: every comparison, losses as plainly as wins, in one self-contained file."""

import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.rows import write_rows
from benchmarks.suite_figure import ratio_bars
from benchmarks.suite_reading import Reading, as_row
from benchmarks.suite_table import page_tables, remarks, verdict
from mu_jax.data.files import atomic_write
from mu_jax.evaluation.report import html

_TITLE = "mu_jax beside PyTorch"
_QUESTION = (
    "How fast is each part of mu_jax beside the same work in PyTorch, on this machine, in this run? Same architecture, "
    "batch, precision and work; PyTorch in the fastest of its forms."
)
_TERMS = {
    "Ours, Beside": "medians of rounds in which the sides took turns, each a process of its own, one at work at a "
    "time; compilation apart.",
    "Ours ÷ it": "how many times as fast ours is, whatever the unit; below 1 the other side is the faster.",
    "How": "the form that was the fastest of its side: on PyTorch's side of eager, channels-last, torch.compile and "
    "torch.func, as the script has them, in the same number format as ours.",
    "Ready": "seconds from the request until the form was compiled and warm: the cold start, imports apart.",
    "Peak": "the largest resident memory of the side's process with all its forms, or on an accelerator of its share "
    "of that memory.",
    "disturbed": "other programs used more than a tenth of the cores in a round; such a ratio says little.",
}


def write_page(
    folder: pathlib.Path, readings: Sequence[Reading], settings: Mapping[str, Any], smoke: bool
) -> None:
    """Writes `benchmark.json`, `benchmark.png` and `benchmark.html` into the folder, each whole or not at all."""
    write_rows(folder / "benchmark.json", [as_row(reading) for reading in readings])
    png = ratio_bars(readings)
    for name, content in (
        ("benchmark.png", png),
        ("benchmark.html", render(readings, settings, smoke, png).encode()),
    ):
        with atomic_write(folder / name) as file:
            file.write(content)


def render(readings: Sequence[Reading], settings: Mapping[str, Any], smoke: bool, png: bytes) -> str:
    """The page as HTML, with the figure's PNG bytes embedded."""
    devices = list(dict.fromkeys(reading.device for reading in readings if reading.device))
    where = devices[0] if devices else "nothing measured"
    listed = "".join(f"<li>{escape(line)}</li>" for line in remarks(readings))
    body = html.header(_TITLE, where, _QUESTION)
    if smoke:
        body.append(
            html.warning(
                "Smoke sizes: they show that every script runs, and say nothing about how fast anything is."
            )
        )
    body += [
        f"<section class=answer><p class=verdict>{escape(verdict(readings))}</p><ul>{listed}</ul></section>",
        html.figure(
            "ratios",
            "All ratios",
            "Bars begin at 1×, where both sides are equally fast; black ticks are targets other than that. Rows "
            "without a ratio are in the tables below alone.",
            png,
        ),
        "<section><h2>Rows</h2>",
    ]
    for kind, content in page_tables(readings).items():
        says = {reading.row.name: reading.row.says for reading in readings if reading.row.kind == kind}
        body += [f"<h3>{escape(kind)}</h3>", html.table(content), html.notes(says)]
    body += ["<h3>Terms</h3>", html.notes(_TERMS), "</section>"]
    machine = {f"device {i + 1}": device for i, device in enumerate(devices)} or {"device": "–"}
    environment = {}
    for reading in readings:
        environment |= reading.source.get("details", {}).get("environment", {})
    facts = {"Machine": machine, "Command": settings, "Environment": environment or {"variables": "none set"}}
    body += html.setting(facts, {reading.row.name: dict(reading.source) for reading in readings})
    return html.page(_TITLE, where, body)
