"""The page of an ensemble that deletes on request, for an auditor: what was deleted, when, and by which certificate."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.answer import Answer, interval_level
from mu_jax.evaluation.report.sisa_cost_figures import request_costs
from mu_jax.evaluation.report.sisa_figures import sisa_styles
from mu_jax.evaluation.report.sisa_page import answer_section
from mu_jax.evaluation.report.sisa_tables import Row, with_unit
from mu_jax.evaluation.report.tables import MISSING, Table, count, named_tables, percent, seconds

QUESTION = "What was deleted from this model and when, what did it take, and how accurate is the model now?"

_CAPTION = (
    "An example counts once for all the epochs that a model trains. A deletion costs the more, the earlier the slices "
    "are that hold the deleted examples, so a single one may lie far from what is expected, which is a mean over where "
    "they might lie."
)


def write_sisa_delete_report(
    directory: pathlib.Path, results: dict[str, Any], config: dict[str, Any]
) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    rows = request_rows(results)
    costs = [row for row in rows if row.get("examples_retrained") is not None]
    drawings = {"request_costs": functools.partial(request_costs, costs)} if costs else {}
    return html.write_page(directory, drawings, functools.partial(render_sisa_delete_page, results, config))


def render_sisa_delete_page(results: Row, config: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figure's PNG bytes embedded."""
    facts, sisa = results["data"], results["sisa"]
    title, rows = "Deletions from a SISA ensemble", request_rows(results)
    where = f"{facts['name']} · {sisa['shards']:,} shards × {sisa['slices']:,} slices"
    if "seed" in results:
        where += f" · seed {results['seed']}"
    further = {name: table for name, table in named_tables(results).items() if name != "requests"}
    body = [
        *html.header(title, where, results.get("question", QUESTION)),
        *map(html.warning, html.data_warnings(facts)),
        answer_section(delete_answer(results)),
        "<section><h2>Requests</h2>",
        *(
            [html.table(requests_table(rows)), html.notes(_terms())]
            if rows
            else ["<p class=note>None so far.</p>"]
        ),
        "</section>",
        *(
            [
                html.figure(
                    "request_costs",
                    "Cost of each request, counted and expected",
                    _CAPTION,
                    images["request_costs"],
                )
            ]
            if "request_costs" in images
            else []
        ),
        *_certificates(rows),
        "<section><h2>Accuracy now</h2>",
        html.table(accuracy_table(results), styles=sisa_styles(results["models"])),
        f"<p class=note>In brackets {100 * interval_level(results):g}% intervals over the choice of images, for these "
        "very models; the chance of training is not in them.</p></section>",
        *(
            f"<section><h2>{escape(name)}</h2>{html.table(content)}</section>"
            for name, content in further.items()
        ),
        *html.setting(
            {
                "Data": facts,
                "Model": results["model"],
                "SISA": sisa,
                "Environment": results.get("environment", {}),
            },
            config,
        ),
    ]
    return html.page(title, facts["name"], body)


def request_rows(results: Row) -> Sequence[Row]:
    """The requests that were carried out, in the order of their arrival."""
    return results.get("tables", {}).get("requests") or []


def delete_answer(results: Row) -> Answer:
    """How much was deleted at what cost, and how accurate the ensemble is now."""
    rows, question = request_rows(results), "What was deleted, and what did it take?"
    model = results["models"].get("sisa", {})
    test = with_unit(model.get("accuracy", {}).get("test"), model.get("accuracy_interval", {}).get("test"))
    now = f"The ensemble is now right on {test} of {count(results['data'].get('test'))} test images."
    if not rows:
        return Answer(question, "Nothing has been deleted yet", now, ())
    indices, cost, expected = (
        total(rows, key) for key in ("indices", "examples_retrained", "expected_examples")
    )
    requests = f"{len(rows):,} request{'' if len(rows) == 1 else 's'}"
    verdict = f"{count(indices)} example{'' if indices == 1 else 's'} in {requests}, each request with its certificate"
    if any(not row.get("certificate_sha256") for row in rows):
        verdict = verdict.partition(",")[0] + ", not every request with a certificate"
    first, last = (rows[place].get("certified") or MISSING for place in (0, -1))
    details = [f"The first was certified at {first}, the last at {last}."]
    if cost is not None:
        text = f"All together retrained {count(cost)} examples in {seconds(total(rows, 'seconds'))} s"
        if expected:
            text += f"; {count(expected)} were expected, so {percent(cost / expected)}% of that"
        details.append(text + ".")
    return Answer(question, verdict, now, tuple(details))


def total(rows: Sequence[Row], key: str) -> int | float | None:
    """The sum over the requests; None where one of them does not say."""
    values = [row.get(key) for row in rows]
    return None if None in values else sum(values)


def requests_table(rows: Sequence[Row]) -> Table:
    """What each request deleted, when, and at what cost."""
    header = [
        "Request",
        "Certified",
        "Examples deleted",
        "Shards retrained",
        "Steps retrained",
        "Examples retrained",
        "Expected",
        "Time, s",
    ]
    return header, [
        [
            str(row["request"]),
            str(row.get("certified") or MISSING),
            *(
                count(row.get(key))
                for key in ("indices", "shards", "steps", "examples_retrained", "expected_examples")
            ),
            seconds(row.get("seconds")),
        ]
        for row in rows
    ]


def accuracy_table(results: Row) -> Table:
    """How accurate the ensemble is after all deletions."""
    rows = []
    for name, model in results["models"].items():
        accuracy, bounds = model.get("accuracy", {}), model.get("accuracy_interval", {})
        rows.append([name, *(percent(accuracy.get(part), bounds.get(part)) for part in ("retain", "test"))])
    return ["Model", "Retained %", "Test %"], rows


def _certificates(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    content = [
        [str(row["request"]), _file(row["request"]), row.get("certificate_sha256") or MISSING] for row in rows
    ]
    return [
        "<section><h2>Certificates</h2>",
        html.table((["Request", "File in the ensemble's folder", "SHA-256"], content)),
        "<p class=note>A certificate names the deleted positions, the steps that were retrained, what was removed, "
        "and the hashes of the shards' parameters before and after. As long as nobody has changed the file, its "
        "SHA-256, which sha256sum prints, is the one above.</p></section>",
    ]


def _file(number: int) -> str:
    return f"certificates/request_{number:06d}.json"


def _terms() -> dict[str, str]:
    return {
        "Certified": "when the retraining was done and the certificate was written, with its time zone.",
        "Shards, steps retrained": "a shard is a part of the data with a model of its own, learned in steps, one a "
        "slice. The steps that had seen a deleted example were trained again without it, and no other has seen it.",
        "Examples retrained": "each counted once for all the epochs that a model trains; a pass of a slice counts its "
        "share of them.",
        "Expected": "the mean over where the deleted examples might lie, all places being equally likely.",
        "Time": "seconds of training, compilation apart.",
    }
