"""Pieces that every report page is built of: one HTML file with all in it, no scripts, nothing fetched."""

import base64
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report.palette import Style
from mu_jax.evaluation.report.style import STYLE
from mu_jax.evaluation.report.tables import Table


def write_page(
    directory: pathlib.Path, images: Mapping[str, Callable[[], bytes]], render: Callable[[dict], str]
) -> pathlib.Path:
    """Write `figures/NAME.png` for each drawing and then `report.html` in `directory`; returns the page's path.

    `render` gets the PNG bytes by name. The page takes its place whole or not at all, and only after the figures.
    """
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, draw in images.items():
        drawn[name] = draw()
        (folder / f"{name}.png").write_bytes(drawn[name])
    path = directory / "report.html"
    temporary = directory / "report.html.partial"
    temporary.write_text(render(drawn), encoding="utf-8")
    os.replace(temporary, path)
    return path


def page(title: str, name: str, body: Iterable[str]) -> str:
    """The whole file around the body's HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: {escape(name)}</title><style>{STYLE}</style></head>"
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def header(title: str, where: str, question: str) -> list[str]:
    """The heading, a line of what was run on what, and the question the page answers."""
    return [
        f"<header><h1>{escape(title)}</h1><p class=where>{escape(where)}</p>",
        f"<p class=question>{escape(question)}</p></header>",
    ]


def warning(text: str) -> str:
    """A paragraph that stands before every figure."""
    return f"<p class=warning>{escape(text)}</p>"


def data_warnings(data: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the data before any figure, from `results["data"]`."""
    warnings = []
    if noise := data.get("label_noise", 0):
        warnings.append(
            f"Label noise: every label, of training and test images alike, was changed to another class with "
            f"probability {100 * noise:.3g}%. No classifier can get near 100% on images it has "
            "not seen, and memorised noise makes the attack easier than on clean labels."
        )
    if str(data["source"]).startswith("synthetic"):
        warnings.append("Synthetic data: good for tests of the program, and no evidence about real images.")
    return warnings


def table(
    content: Table, styles: Mapping[str, Style] | None = None, roles: Mapping[str, str] | None = None
) -> str:
    """A table whose first column names the rows: with a dot in the row's colour, its role in small print beneath."""
    columns, rows = content
    styles, roles = styles or {}, roles or {}
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in columns)
    lines = []
    for first, *cells in rows:
        dot = f'<i style="background:{styles[first].color}"></i>' if first in styles else ""
        role = f"<small>{roles[first]}</small>" if first in roles else ""
        lines.append(f"<tr><th scope=row>{dot}{escape(first)}{role}</th>{''.join(map(_cell, cells))}</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class=scroll tabindex=0><table>{body}</table></div>"


def _cell(text: str) -> str:
    """A figure with what follows it, an interval or a bracket, in small print beneath."""
    value, _, rest = text.partition(" ")
    if rest[:1] not in ("[", "("):
        return f"<td>{escape(text)}</td>"
    return f"<td>{escape(value)} <small>{escape(rest)}</small></td>"


def notes(terms: Mapping[str, str]) -> str:
    """What a table's terms mean."""
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f"<dl class=notes>{listed}</dl>"


def figure(name: str, heading: str, caption: str, png: bytes, shown: str = "") -> str:
    """A section of one figure; `shown` adds to the words that stand for the image where it cannot be seen."""
    source = base64.b64encode(png).decode("ascii")
    return (
        f'<section><h2>{escape(heading)}</h2><figure id="{name}"><div class=card>'
        f'<img alt="{escape(heading + shown)}" src="data:image/png;base64,{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure></section>"
    )


def setting(facts: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    """The section of what was run on what: columns of named facts, and the whole config to unfold."""
    return [
        "<section><h2>Setting</h2><div class=columns>",
        *(_facts(title, values) for title, values in facts.items()),
        "</div><details><summary>All settings</summary><pre>",
        escape(json.dumps(config, indent=2, ensure_ascii=False, default=str)),
        "</pre></details></section>",
    ]


def _facts(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(_fact(value))}</dd>"
        for key, value in values.items()
    )
    return f"<div><h3>{escape(title)}</h3><dl class=facts>{rows}</dl></div>"


def _fact(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " × ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
