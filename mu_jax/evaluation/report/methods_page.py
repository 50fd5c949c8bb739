"""The page of the comparison of unlearning methods: who is nearest to retraining, at what cost, and perhaps why."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from html import escape

from matplotlib.figure import Figure

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report import methods_tables as tables
from mu_jax.evaluation.report.answer import Answer
from mu_jax.evaluation.report.drawing import as_png, drawing
from mu_jax.evaluation.report.methods_answer import methods_answer
from mu_jax.evaluation.report.methods_bound_figures import (
    bound_panels,
    bound_terms_figure,
    epsilon_histogram,
    neighbour_gallery,
)
from mu_jax.evaluation.report.methods_data import MethodsReportData
from mu_jax.evaluation.report.methods_figures import (
    gap_against_time,
    gap_by_method,
    requests_in_turn,
    training,
)
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.evaluation.report.tables import REFERENCES, Table, count, named_tables, percent

_ROLES = {
    "retrain": "gold standard",
    "retrain_again": "noise floor",
    "original": "before unlearning",
}

# What this page shows in its own way.
_SHOWN = ("runs", "bound", "requests", "diverged", "left_out")
_MOST_NAMED = 5

# Heading, and what the reader should look for.
_FIGURES = {
    "gap_by_method": (
        "Gap to retraining",
        "The shorter the bar, the more the model behaves like one that never saw the deleted images. Its colours say "
        "in what it differs: the gap is the mean of four differences, so each gives a quarter of its own. A bar left "
        "of the dotted line is within what two retrainings differ by, and cannot be told from retraining. A bar that "
        "ends in » is cut; its number holds. Whiskers and the band are standard deviations, where there were several "
        "runs.",
    ),
    "gap_against_time": (
        "Gap against time",
        "The best place is at the lower left: near to retraining, for little time. Right of the dashed line retraining "
        "itself would have been faster. The dotted tail of a point is what had to be made before training, as AMUN's "
        "neighbours; compiling is not counted.",
    ),
    "requests": (
        "One request after another",
        "Each request to forget starts from the model that the last one left, by AMUN's neighbours of the original "
        "model or of the current one. One base model and one order of requests, so there is no spread.",
    ),
    "neighbours": (
        "Forgotten images and their neighbours",
        "A forgotten image, its adversarial neighbour, and the change between them, stretched until it can be seen. "
        "Above them the true class, and the class that the original model gives the neighbour: AMUN trains on the "
        "neighbour with that class.",
    ),
    "epsilon": (
        "How near the neighbours are",
        "The search doubles the radius ε until the label flips. Images that the original model gets wrong are their "
        "own neighbours. Left out of the neighbours, though still forgotten, are images whose label did not flip "
        "within the largest ε, and those whose neighbour had its true label again when it was stored.",
    ),
    "bound": (
        "The theorem's terms against the gap",
        "AMUN's Theorem 4.1 bounds how far the unlearned model θ′ ends from the retrained one u. The bound is the "
        "lower, the smaller the distance δ to the neighbours x′ and the larger C = ℓ(f_o(x′), y) + ℓ(f_θ′(x′), y′) − "
        "ℓ(f_u(x), y) − ℓ(f_u(x′), y′). It is proved for convex risks and one step, so for these networks it "
        "is a picture and no bound. Large points are means of a model, small ones its runs; hollow ones lie beyond the "
        "edge, and the dashed line is where retrain itself stands. Terms without θ′ are the same for all models of a "
        "forget set and base model: there small points alone are drawn.",
    ),
    "training": (
        "Training",
        "Loss and accuracy on the training batches, augmented where training was, averaged over each chunk of steps. "
        "Methods may train on changed labels, so a high loss need not be a fault.",
    ),
}

_REQUESTS_NOTE = (
    " FR AUC says how well retained images are told from this request's forgotten ones, FT AUC how well the forgotten "
    "ones are told from test images: their difference is large where much was forgotten, and falls where the method "
    "wears out."
)


def write_methods_report(directory: pathlib.Path, data: MethodsReportData) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {name: functools.partial(_drawn, draw, data) for name, draw in figures_of(data).items()}
    return html.write_page(directory, drawings, functools.partial(render_methods_page, data))


def _drawn(draw: Callable[[MethodsReportData], Figure], data: MethodsReportData) -> bytes:
    with drawing():
        return as_png(draw(data))


def figures_of(data: MethodsReportData) -> dict[str, Callable[[MethodsReportData], Figure]]:
    """What draws each figure that there is something to draw of."""
    results = data.results
    compared = tables.methods_by_gap(results["models"])
    requests = tables.rows_of(results, "requests")
    wanted = {
        "gap_by_method": (gap_by_method, compared),
        "gap_against_time": (gap_against_time, compared),
        "requests": (requests_in_turn, any(row.get("test") is not None for row in requests)),
        "neighbours": (neighbour_gallery, data.gallery),
        "epsilon": (epsilon_histogram, results.get("neighbours")),
        "bound": (bound_terms_figure, bound_panels(data)),
        "training": (training, data.curves),
    }
    return {name: draw for name, (draw, shown) in wanted.items() if shown}


def render_methods_page(data: MethodsReportData, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    results = data.results
    facts, study = results["data"], results.get("study", {})
    methods = tables.methods_by_gap(results["models"])
    where = (
        f"{facts['name']} · {count(facts['forget'])} of {count(facts['train'])} training images deleted · "
        f"{_number(len(methods), 'method')} · {_study(study)} · seed {results['seed']}"
    )
    shown = ", ".join(f"{pair.label} as {pair.adversarial_label}" for pair in data.gallery)
    body = [
        *html.header("Unlearning methods beside retraining", where, results["question"]),
        *map(html.warning, html.data_warnings(facts) + _warnings(results)),
        _answer_section(methods_answer(results)),
        "<section><h2>Methods, nearest to retraining first</h2>",
        _table(results, tables.methods_table(results)),
        html.notes(_terms(results)),
        "</section>",
        *_figure("gap_by_method", images),
        *_figure("gap_against_time", images),
        *_figure("requests", images, note=_REQUESTS_NOTE if tables.has_pool(results) else ""),
        *_figure("neighbours", images, f": {shown}"),
        *_figure("epsilon", images),
        *_figure("bound", images, note=_the_same(data)),
        *_further(results),
        *_folded("Training curves", "".join(_figure("training", images))),
        *html.setting(
            {
                "Data": facts,
                "Model": results["model"],
                "Study": study,
                **({"Pool of references": results["pool"]} if results.get("pool") else {}),
                "Environment": results.get("environment", {}),
            },
            data.config,
        ),
    ]
    return html.page("Unlearning methods", facts["name"], body)


def _answer_section(answer: Answer) -> str:
    details = "".join(f"<li>{escape(detail)}</li>" for detail in answer.details)
    return (
        f"<section class=answer><p>{escape(answer.method)}</p><p class=verdict>{escape(answer.verdict)}</p>"
        f"<p>{escape(answer.sentence)}</p>{f'<ul>{details}</ul>' if details else ''}</section>"
    )


def _number(value: int, what: str) -> str:
    return f"{value:,} {what}{'' if value == 1 else 's'}"


def _study(study: Mapping) -> str:
    """How often everything was done: n is the product."""
    kinds = {"base_models": "base model", "forget_sets": "forget set", "runs": "run"}
    shown = " × ".join(_number(study[key], what) for key, what in kinds.items() if key in study)
    return shown + ("" if study.get("retained_data", True) else " · methods see the deleted images alone")


def _warnings(results: Mapping) -> list[str]:
    """What must be known before the figures are believed."""
    found = []
    lost = tables.by_name(tables.rows_of(results, "diverged"), "method")
    if lost:
        named = ", ".join(f"{name} ({_number(len(rows), 'run')})" for name, rows in lost.items())
        found.append(f"Diverged, and without figures: {named}. Means are over the runs that did not.")
    lacking = tables.by_name(tables.rows_of(results, "left_out"), "method")
    if lacking:
        named = ", ".join(f"{name} ({_number(len(rows), 'run')})" for name, rows in lacking.items())
        found.append(
            f"Left out, because no image of the forget set has an adversarial neighbour: {named}. Means are over the "
            "other forget sets."
        )
    left_out = {
        row
        for made in results.get("neighbours") or ()
        for row in (*made["not_flipped"], *made["flipped_back"])
    }
    forgotten = sum(_asked(made) for made in results.get("neighbours") or ())
    missing = sum(_asked(made) - made["examples"] for made in results.get("neighbours") or ())
    if left_out and missing > 0.05 * forgotten:
        named = ", ".join(map(str, sorted(left_out)[:_MOST_NAMED]))
        more = f" and {len(left_out) - _MOST_NAMED:,} more" if len(left_out) > _MOST_NAMED else ""
        found.append(
            f"{percent(missing / forgotten)}% of the forgotten images have no neighbour (training images "
            f"{named}{more}), and AMUN works without one for them. A larger neighbours.max_epsilon may find more."
        )
    return found


def _asked(made: Mapping) -> int:
    return made["examples"] + len(made["not_flipped"]) + len(made["flipped_back"])


def _the_same(data: MethodsReportData) -> str:
    """The terms that are no panel, because all models share them: their values."""
    rows, drawn = tables.rows_of(data.results, "bound"), bound_panels(data)
    words = {
        "distance": ("δ", "{:.3g}"),
        "transfer": ("transfer", "{:.0%}"),
        "loss_retrained_adversarial": ("ℓ(f_u(x′), y′)", "{:.3g} nats"),
    }
    found = []
    for key, (name, form) in words.items():
        value = tables.mean(rows, key)
        if key not in drawn and value is not None:
            found.append(f"{name} = {form.format(value)}")
    return f" Here, with one forget set, all share {', '.join(found)}." if found else ""


def _table(results: Mapping, content: Table) -> str:
    """A table in the order of `in_order`, with a double line between the references and the methods."""
    rows = html.table(content, styles=model_styles(results["models"]), roles=_ROLES).split("<tr>")
    # The text before the header's row, the header's, and then a part a row.
    first = 2 + sum(row[0] in REFERENCES for row in content[1])
    head, tail = "<tr>".join(rows[:first]), "<tr>".join(rows[first:])
    return f'{head}<tr style="border-top: 3px double var(--dim)">{tail}' if tail else head


def _figure(name: str, images: Mapping[str, bytes], shown: str = "", note: str = "") -> list[str]:
    if name not in images:
        return []
    heading, caption = _FIGURES[name]
    return [html.figure(name, heading, caption + note, images[name], shown)]


def _folded(summary: str, content: str) -> list[str]:
    return [f"<details><summary>{escape(summary)}</summary>{content}</details>"] if content else []


def _terms(results: Mapping) -> dict[str, str]:
    sizes, pool = results["data"], results.get("pool")
    terms = {
        "Gap to retrain": "mean absolute difference from retrain over unlearn, retain and test accuracy and "
        f"{'FT AUC' if tables.has_pool(results) else 'the AUC of the loss attack'}, in percentage points, each model "
        "beside the retrained model of its own base model and forget set. Forgetting too much counts like too little.",
        "retrain_again": "retrained with other random numbers. Its gap is the noise floor: a method whose gap is no "
        "larger cannot be told from retraining by it.",
        "n, ±": "models behind a figure, and their standard deviation. Nothing is ± where n is 1. The method that "
        "comes first was picked for its gap on these very forget sets, which flatters it.",
        "Unlearn, Retain, Test": f"accuracy in percent on the {count(sizes['forget'])} training images deleted, the "
        f"{count(sizes['retain'])} kept and the {count(sizes['test'])} test images. Unlearn accuracy should be "
        "retrain's, which is about test accuracy, and not 0.",
    }
    if tables.has_pool(results):
        models = f" with {count(pool['models'])} reference models" if pool else ""
        terms |= {
            "FT AUC": f"RMIA{models} telling forgotten images (as members) from test images; 50% where nothing of them "
            "is left.",
            "FR AUC": "retained images (as members) from forgotten ones: the RT AUC where nothing is left of them.",
            "RT AUC": "retained from test images: what the attack makes of members of this model at all.",
        }
    else:
        terms["Loss AUC"] = (
            "chance that of a forgotten and a test image the forgotten one has the lower loss; 50% is a guess, and "
            "below 50% leaks as well. There is no pool of references, so no RMIA."
        )
    terms["SVC"] = (
        "share of the forgotten images that a support-vector classifier, trained on this model's confidence on "
        "retained and test images, calls non-members. It should be retrain's, and not 100%."
    )
    if any(model.get("robust_accuracy") is not None for model in results["models"].values()):
        terms["Robust"] = "accuracy on test images under a PGD attack on this very model."
    terms["Time"] = (
        "seconds of training, and of what a method needs before its first step: AMUN's neighbours, SalUn's mask, "
        "reading the original. Compiling is not counted."
    )
    return terms


def _further(results: Mapping) -> list[str]:
    parts: list[tuple[str, str]] = [
        ("Gap to retraining, in its parts", _table(results, tables.parts_table(results))),
        ("Further attacks", _table(results, tables.attacks_table(results)) + _svc_note()),
        ("Cost", _table(results, tables.cost_table(results))),
    ]
    if tables.rows_of(results, "requests"):
        parts.append(("Requests in turn", html.table(tables.requests_table(results))))
    if results.get("neighbours"):
        parts.append(("Sets of neighbours", html.table(tables.neighbours_table(results))))
    if tables.rows_of(results, "bound"):
        parts.append(("The theorem's terms", _table(results, tables.bound_table(results))))
    parts += [
        (name, html.table(content)) for name, content in named_tables(results).items() if name not in _SHOWN
    ]
    for key, heading in (("diverged", "Diverged runs"), ("left_out", "Runs without adversarial neighbours")):
        if lost := tables.rows_of(results, key):
            parts.append((heading, html.table(named_tables({"tables": {key: lost}})[key])))
    shown = (f"<h3>{escape(heading)}</h3>{content}" for heading, content in parts)
    runs = tables.runs_table(results)
    every = _folded(
        f"Every model by itself ({len(runs[1]):,})",
        html.table(runs, model_styles(results["models"])) if runs[1] else "",
    )
    return ["<section><h2>Further numbers</h2>", *shown, *every, "</section>"]


def _svc_note() -> str:
    return (
        "<p class=note>SVC scores are the share of forgotten images called non-members, by one feature each; "
        "correctness looks only at whether the answer is right. None has an ideal of its own: compare with retrain.</p>"
    )
