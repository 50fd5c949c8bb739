"""The page of an audit: what membership attacks find out from scores of models that were made elsewhere."""

import functools
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.attack_data import AttackReportData
from mu_jax.evaluation.report.attack_section import SHOWN_TABLES, attack_figure_drawings, attack_sections
from mu_jax.evaluation.report.tables import count, named_tables

# What the page shows in another place.
_SHOWN = ("experiment", "question", "data", "environment", "tables")


def write_audit_report(
    directory: pathlib.Path, data: AttackReportData, results: dict[str, Any]
) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path.

    `results` is what results.json holds: `experiment`, `question`, `data` (with `name`, `examples`, `targets`,
    `shadows` and whatever else says what was audited), `environment`, and all else a page may show.
    """
    return html.write_page(
        directory, attack_figure_drawings(data), functools.partial(render_audit_page, data, results)
    )


def render_audit_page(data: AttackReportData, results: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    facts = results["data"]
    title = str(results["experiment"]).replace("_", " ").capitalize()
    counted = [
        f"{count(facts[key])} {singular if facts[key] == 1 else singular + 's'}"
        for key, singular in (("examples", "example"), ("targets", "target"), ("shadows", "shadow model"))
        if facts.get(key) is not None
    ]
    others = {name: rows for name, rows in named_tables(results).items() if name not in SHOWN_TABLES}
    settings = {key: value for key, value in results.items() if key not in _SHOWN}
    body = [
        *html.header(title, " · ".join([str(facts["name"]), *counted]), results["question"]),
        *map(html.warning, html.data_warnings({"source": "", **facts})),
        *attack_sections(data, images, results.get("tables", {}).get("impossible_attacks") or ()),
        *(f"<section><h2>{escape(name)}</h2>{html.table(rows)}</section>" for name, rows in others.items()),
        *html.setting({"Data": facts, "Environment": results.get("environment", {})}, settings),
    ]
    return html.page(title, str(facts["name"]), body)
