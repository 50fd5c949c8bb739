"""The page of a deletion from a saved model: the figures before and after it, with no retrained model beside them."""

import functools
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from mu_jax.evaluation.report import figures, html, tables
from mu_jax.evaluation.report.answer import Answer, auc_difference, interval_level
from mu_jax.evaluation.report.gallery import forgotten_images
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.evaluation.report.report_data import ReportData

# File, what draws it, heading, and what the reader should look for.
_FIGURES = (
    (
        "loss_histograms",
        figures.loss_histograms,
        "Loss of forgotten and unseen images",
        "Where forgotten images have lower losses than unseen ones, the filled histogram stands left of the outline; "
        "that is what the loss attack feeds on. Losses below 10⁻⁷ are shown there.",
    ),
    (
        "roc",
        figures.roc_figure,
        "ROC curves of the loss attack",
        "How many of the forgotten images the attack finds (true positives) at each rate of unseen images wrongly "
        "named (false positives). The lower ends of the logarithmic axes are half an image, where rates of zero are "
        "drawn.",
    ),
    (
        "forgotten_images",
        forgotten_images,
        "Forgotten images",
        "Forgotten training images drawn at random, under their labels, with the probability that each model gives to "
        "that label.",
    ),
    (
        "training_curves",
        figures.training_curves,
        "The method's run",
        "Loss and accuracy on the batches that the method visits, whatever labels it gives them, averaged over each "
        "chunk of steps; of scar, which learns distances besides, the accuracy means nothing. The original was trained "
        "elsewhere.",
    ),
)

_PARTS = {
    "forget": "forget",
    "retain": "retain",
    "test": "test",
    "test_retain": "test of the classes that stay",
    "test_forget": "test of those forgotten",
}


def write_saved_report(directory: pathlib.Path, data: ReportData) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {name: functools.partial(draw, data) for name, draw, _, _ in _shown(data.results)}
    return html.write_page(directory, drawings, functools.partial(render_saved_page, data))


def render_saved_page(data: ReportData, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    results = data.results
    name, method = results["data"]["name"], results["method"]
    title = f"Deleting by {method}"
    where = f"{name} · {results['data']['forget']:,} examples forgotten · seed {results['seed']}"
    table = functools.partial(html.table, styles=model_styles(results["models"]))
    body = [
        *html.header(title, where, results["question"]),
        *map(html.warning, html.data_warnings(results["data"])),
        _section(answer(data)),
        "<section><h2>Models</h2>",
        table(before_and_after(results)),
        _notes(results),
        "</section>",
        *(
            html.figure(
                key, heading, caption, images[key], _labels(data) if key == "forgotten_images" else ""
            )
            for key, _, heading, caption in _shown(results)
        ),
        "<section><h2>Further numbers</h2>",
        "<h3>True-positive rates of the loss attack</h3>",
        table(tables.operating_table(results)),
        "<p class=note>In parentheses the number of unseen images wrongly named at that threshold.</p>",
        "<h3>Attacks and compilation</h3>",
        table(tables.attack_table(results)),
        *_neighbours(results),
        "</section>",
        *html.setting(
            {
                "Checkpoint": results["checkpoint"],
                "Data": results["data"],
                "Model": results["model"],
                "Environment": results["environment"],
            },
            data.config,
        ),
    ]
    return html.page(title, name, body)


def _shown(results: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The figures; without the run's curves where the method does not train."""
    trains = results["models"][results["method"]]["trained_samples"] > 0
    return [figure for figure in _FIGURES if trains or figure[0] != "training_curves"]


def before_and_after(results: Mapping[str, Any], compact: bool = False) -> tables.Table:
    """The table of a comparison, less the gap to a retrained model, of which there is none."""
    header, rows = tables.comparison_table(results, compact)
    kept = [place for place, name in enumerate(header) if not name.startswith("Gap")]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def answer(data: ReportData) -> Answer:
    """What the method changed, with the interval of the change."""
    results = data.results
    method, models = results["method"], results["models"]
    before, after = (models[name]["attacks"]["loss_threshold"] for name in ("original", method))
    change = auc_difference(
        *(
            scores[name].astype(np.float64)
            for name in (method, "original")
            for scores in (data.member_scores, data.nonmember_scores)
        ),
        level=interval_level(results),
    )
    verdict = "No change found by this attack"
    if change.found:
        verdict = (
            "The attack tells less than before" if change.value < 0 else "The attack tells more than before"
        )
        # An AUC below one half gives the forgotten away too.
        if (change.value < 0) != (after["auc_distance"] < before["auc_distance"]):
            verdict = "The attack tells other things than before"
    aucs = [tables.percent(one["auc"], one["interval"]["auc"]) for one in (before, after)]
    points = [f"{100 * value:+.1f}".replace("-", "−") for value in (change.value, change.low, change.high)]
    sentence = (
        f"The loss attack tells forgotten from unseen images with AUC {aucs[1]} after {method}, and {aucs[0]} before "
        f"(%; {points[0]} points [{points[1]}, {points[2]}])."
    )
    return Answer(method, verdict, sentence, (accuracy_line(results), results["note"]))


def accuracy_line(results: Mapping[str, Any]) -> str:
    """Accuracies before and after; where whole classes are forgotten, on test images of either kind too."""
    before, after = (results["models"][name]["accuracy"] for name in ("original", results["method"]))
    moved = "; ".join(
        f"{name} {tables.percent(before[part])} → {tables.percent(after[part])}"
        for part, name in _PARTS.items()
        if part in before
    )
    return f"Accuracy, %: {moved}."


def _section(one: Answer) -> str:
    details = "".join(f"<li>{escape(detail)}</li>" for detail in one.details)
    return (
        f"<section class=answer><p class=verdict>{escape(one.method)}: {escape(one.verdict)}</p>"
        f"<p>{escape(one.sentence)}</p><ul>{details}</ul></section>"
    )


def _labels(data: ReportData) -> str:
    return ", labelled " + ", ".join(data.gallery_labels)


def _neighbours(results: Mapping[str, Any]) -> list[str]:
    pieces = []
    for one in results["neighbours"]:
        left_out = len(one["not_flipped"]) + len(one["flipped_back"])
        strange = len(one.get("not_covered", []))
        uncovered = (
            f" The ready set says nothing of {strange:,}, which are visited without one too."
            if strange
            else ""
        )
        pieces += [
            "<h3>Adversarial neighbours</h3>",
            f"<p>{one['examples']:,} examples have one, at a mean distance of {one['mean_distance']:.3g} "
            f"({escape(one['norm'])}, pixels in [0, 1]); {one['misclassified']:,} of them were misclassified as they "
            f"are, and stand for themselves. {left_out:,} did not flip, and are visited without a neighbour."
            f"{uncovered}</p>",
        ]
    return pieces


def _notes(results: Mapping[str, Any]) -> str:
    level, sizes = f"{100 * interval_level(results):g}%", results["data"]
    terms = {
        "Retain, Forget, Test": f"accuracy in percent on the {sizes['retain']:,} training images kept, the "
        f"{sizes['forget']:,} deleted and the {sizes['test']:,} test images.",
        "Brackets [ ]": f"{level} intervals over the choice of images, for these very models.",
        "Attack accuracy": "share of right answers of a logistic regression on the loss, asked whether an image was "
        "forgotten or unseen, as many of each; 50% is a guess.",
        "Attack AUC": "chance that of a forgotten and an unseen image the forgotten one has the lower loss, from "
        f"{sizes['forget']:,} and {sizes['nonmembers']:,} of them; 50% is a guess, and |AUC−50| the leak.",
        "Time": "seconds of training, without compilation and preparation, or of all the work of a method that does "
        "not train; a dash where it is not known.",
    }
    return html.notes(terms)
