"""The page of a comparison: what each method's models show, in words, tables and figures."""

import functools
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import figures, html, tables
from mu_jax.evaluation.report.answer import Answer, answers, interval_level
from mu_jax.evaluation.report.gallery import forgotten_images
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.evaluation.report.report_data import ReportData

# File, what draws it, heading, and what the reader should look for.
_FIGURES = (
    (
        "loss_histograms",
        figures.loss_histograms,
        "Loss of forgotten and unseen images",
        "Where a model never saw the forgotten images, the filled histogram follows the outline of the "
        "unseen ones; a shift to the left is what the loss attack feeds on. Losses below 10⁻⁷ are shown "
        "there.",
    ),
    (
        "roc",
        figures.roc_figure,
        "ROC curves of the loss attack",
        "How many of the forgotten images the attack finds (true positives) at each rate of unseen images "
        "wrongly named (false positives). The logarithmic axes show what an attacker can do who must be "
        "nearly sure; their lower ends are half an image, where rates of zero are drawn.",
    ),
    (
        "forgotten_images",
        forgotten_images,
        "Forgotten images",
        "Forgotten training images drawn at random, under their labels, with the probability that each model "
        "gives to that label.",
    ),
    (
        "training_curves",
        figures.training_curves,
        "Training",
        "Loss and accuracy on the training batches, augmented where training was, averaged over each chunk "
        "of steps, over the epochs of each model's own run.",
    ),
)

_ROLES = {"retrain": "gold standard", "retrain_again": "noise floor"}


def write_report(directory: pathlib.Path, data: ReportData) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {name: functools.partial(draw, data) for name, draw, _, _ in _FIGURES}
    return html.write_page(directory, drawings, functools.partial(render_page, data))


def render_page(data: ReportData, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    results = data.results
    title = str(results["experiment"]).replace("_", " ").capitalize()
    name, forgotten = results["data"]["name"], results["data"]["forget"]
    where = f"{name} · {forgotten:,} examples forgotten · seed {results['seed']}"
    named = tables.named_tables(results)
    captions = [(key, heading, caption) for key, _, heading, caption in _FIGURES]
    labels = ", labelled " + ", ".join(data.gallery_labels)
    table = functools.partial(html.table, styles=model_styles(results["models"]), roles=_ROLES)
    body = [
        *html.header(title, where, results["question"]),
        *map(html.warning, html.data_warnings(results["data"])),
        *map(_answer, answers(data)),
        "<section><h2>Models</h2>",
        table(tables.comparison_table(results)),
        _notes(results),
        "</section>",
        *(
            html.figure(*figure, images[figure[0]], labels if figure[0] == "forgotten_images" else "")
            for figure in captions
        ),
        "<section><h2>Further numbers</h2>",
        "<h3>True-positive rates of the loss attack</h3>",
        table(tables.operating_table(results)),
        "<p class=note>In parentheses the number of unseen images wrongly named at that threshold.</p>",
        "<h3>Gap to retraining, in its parts</h3>",
        table(tables.gap_table(results)),
        "<h3>Attacks and compilation</h3>",
        table(tables.attack_table(results)),
        "<p class=note>The accuracy of the threshold attack is balanced, each half judged by the threshold "
        "that was best on the other; the best threshold is judged by the images it was chosen on, so it is "
        "optimistic. Advantage is the true-positive rate minus the false-positive rate.</p>",
        *(f"<h3>{escape(key)}</h3>{table(rows)}" for key, rows in named.items()),
        "</section>",
        *html.setting(
            {"Data": results["data"], "Model": results["model"], "Environment": results["environment"]},
            data.config,
        ),
    ]
    return html.page(title, name, body)


def _answer(answer: Answer) -> str:
    details = "".join(f"<li>{escape(detail)}</li>" for detail in answer.details)
    return (
        f"<section class=answer><p class=verdict>{escape(answer.method)}: {escape(answer.verdict)}</p>"
        f"<p>{escape(answer.sentence)}</p><ul>{details}</ul></section>"
    )


def _notes(results: Mapping[str, Any]) -> str:
    level = f"{100 * interval_level(results):g}%"
    sizes = results["data"]
    terms = {
        "Retain, Forget, Test": f"accuracy in percent on the {sizes['retain']:,} training images kept, the "
        f"{sizes['forget']:,} deleted and the {sizes['test']:,} test images.",
        "Brackets [ ]": f"{level} intervals over the choice of images, for these very models; the "
        "chance of training is not in them.",
        "Attack accuracy": "share of right answers of a logistic regression on the loss, asked whether an "
        "image was forgotten or unseen, as many of each; 50% is a guess.",
        "Attack AUC": "chance that of a forgotten and an unseen image the forgotten one has the lower loss, "
        f"from {sizes['forget']:,} and {sizes['nonmembers']:,} of them; 50% is a guess. Below 50 leaks too: "
        "an attacker only has to turn the answer round. So |AUC−50| is the leak.",
        "TPR at a low FPR": "share of forgotten images found when at most so many unseen images may be "
        "named wrongly; in parentheses how many were. A handful of them makes a rough figure.",
        "Gap to retrain": "mean absolute difference from retrain over forget, retain and test accuracy and "
        "AUC, in percentage points.",
        "retrain": "trained anew without the forgotten images: what unlearning should equal.",
        "retrain_again": "the same with other random numbers. Its gap is the noise floor: a method whose gap "
        "is no larger cannot be told from retraining by it.",
        "Time": "seconds of training, compilation apart; in parentheses how many times faster than retrain.",
        "Examples trained": "images that went through gradient steps, each as often as it did.",
    }
    return html.notes(terms)
