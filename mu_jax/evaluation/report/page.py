"""The report's page: one HTML file with everything in it, no scripts, nothing fetched."""

import base64
import json
import os
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import figures, tables
from mu_jax.evaluation.report.answer import Answer, answers, interval_level
from mu_jax.evaluation.report.gallery import forgotten_images
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.evaluation.report.report_data import ReportData
from mu_jax.evaluation.report.style import STYLE

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
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path.

    The page takes its place whole or not at all, and only after the figures.
    """
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, draw, _, _ in _FIGURES:
        images[name] = draw(data)
        (folder / f"{name}.png").write_bytes(images[name])
    path = directory / "report.html"
    temporary = directory / "report.html.partial"
    temporary.write_text(render_page(data, images), encoding="utf-8")
    os.replace(temporary, path)
    return path


def render_page(data: ReportData, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    results = data.results
    title = str(results["experiment"]).replace("_", " ").capitalize()
    name, forgotten = results["data"]["name"], results["data"]["forget"]
    where = f"{name} · {forgotten:,} examples forgotten · seed {results['seed']}"
    named = tables.named_tables(results)
    captions = [(key, heading, caption) for key, _, heading, caption in _FIGURES]
    labels = ", labelled " + ", ".join(data.gallery_labels)
    body = [
        f"<header><h1>{escape(title)}</h1><p class=where>{escape(where)}</p>",
        f"<p class=question>{escape(results['question'])}</p></header>",
        *(f"<p class=warning>{escape(warning)}</p>" for warning in _warnings(results["data"])),
        *map(_answer, answers(data)),
        "<section><h2>Models</h2>",
        _table(tables.comparison_table(results), results),
        _notes(results),
        "</section>",
        *(
            _figure(*figure, images[figure[0]], labels if figure[0] == "forgotten_images" else "")
            for figure in captions
        ),
        "<section><h2>Further numbers</h2>",
        "<h3>True-positive rates of the loss attack</h3>",
        _table(tables.operating_table(results), results),
        "<p class=note>In parentheses the number of unseen images wrongly named at that threshold.</p>",
        "<h3>Gap to retraining, in its parts</h3>",
        _table(tables.gap_table(results), results),
        "<h3>Attacks and compilation</h3>",
        _table(tables.attack_table(results), results),
        "<p class=note>The accuracy of the threshold attack is balanced, each half judged by the threshold "
        "that was best on the other; the best threshold is judged by the images it was chosen on, so it is "
        "optimistic. Advantage is the true-positive rate minus the false-positive rate.</p>",
        *(f"<h3>{escape(key)}</h3>{_table(table, results)}" for key, table in named.items()),
        "</section>",
        "<section><h2>Setting</h2><div class=columns>",
        _facts("Data", results["data"]),
        _facts("Model", results["model"]),
        _facts("Environment", results["environment"]),
        "</div><details><summary>All settings</summary><pre>",
        escape(json.dumps(data.config, indent=2, ensure_ascii=False, default=str)),
        "</pre></details></section>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: {escape(name)}</title><style>{STYLE}</style></head>"
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _warnings(data: Mapping[str, Any]) -> list[str]:
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


def _answer(answer: Answer) -> str:
    details = "".join(f"<li>{escape(detail)}</li>" for detail in answer.details)
    return (
        f"<section class=answer><p class=verdict>{escape(answer.method)}: {escape(answer.verdict)}</p>"
        f"<p>{escape(answer.sentence)}</p><ul>{details}</ul></section>"
    )


def _table(table: tables.Table, results: Mapping[str, Any]) -> str:
    header, rows = table
    styles = model_styles(results["models"])
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    lines = []
    for first, *cells in rows:
        dot = f'<i style="background:{styles[first].color}"></i>' if first in styles else ""
        role = f"<small>{_ROLES[first]}</small>" if first in _ROLES else ""
        lines.append(f"<tr><th scope=row>{dot}{escape(first)}{role}</th>{''.join(map(_cell, cells))}</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class=scroll tabindex=0><table>{body}</table></div>"


def _cell(text: str) -> str:
    """A figure with what follows it, an interval or a bracket, in small print beneath."""
    value, _, rest = text.partition(" ")
    if rest[:1] not in ("[", "("):
        return f"<td>{escape(text)}</td>"
    return f"<td>{escape(value)} <small>{escape(rest)}</small></td>"


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
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f"<dl class=notes>{listed}</dl>"


def _figure(name: str, heading: str, caption: str, png: bytes, shown: str) -> str:
    source = base64.b64encode(png).decode("ascii")
    return (
        f'<section><h2>{escape(heading)}</h2><figure id="{name}"><div class=card>'
        f'<img alt="{escape(heading + shown)}" src="data:image/png;base64,{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure></section>"
    )


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
