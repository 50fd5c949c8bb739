"""The page of an imported checkpoint: what it says of the data that it was trained on."""

import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.tables import Table, percent


def import_table(results: Mapping[str, Any]) -> Table:
    """Accuracies and the loss attack's AUC, with intervals, in percent."""
    model = results["models"]["original"]
    accuracy, intervals = model["accuracy"], model["accuracy_interval"]
    attack = model["attacks"]["loss_threshold"]
    header = ["Model", *(f"{part.capitalize()} %" for part in accuracy), "Loss attack, AUC %"]
    cells = [percent(accuracy[part], intervals[part]) for part in accuracy]
    return header, [["original", *cells, percent(attack["auc"], attack["interval"]["auc"])]]


def write_import_report(
    directory: pathlib.Path, results: Mapping[str, Any], config: Mapping[str, Any]
) -> pathlib.Path:
    """Write `report.html` in `directory`; returns its path."""
    return html.write_page(directory, {}, lambda _: render_import_page(results, config))


def render_import_page(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The page as HTML."""
    model, data = results["model"], results["data"]
    network = f"{model['name']} of width {model['width']}"
    where = f"{results['checkpoint']['path']} · {network} · {data['name']} · seed {results['seed']}"
    accuracy = results["models"]["original"]["accuracy"]
    verdict = f"It is right about {100 * accuracy['test']:.1f}% of {data['test']:,} test images"
    advice = (
        "Compare this with what the model did where it was trained: a wrong normalisation (data.mean, data.std), "
        "another order of channels or of classes, or another ε shows here, and nowhere later."
    )
    body = [
        *html.header("An imported model", where, results["question"]),
        *map(html.warning, html.data_warnings(data)),
        f"<section class=answer><p class=verdict>{escape(verdict)}</p><ul><li>{escape(advice)}</li></ul></section>",
        "<section><h2>Accuracy, and what betrays members</h2>",
        html.table(import_table(results)),
        html.notes(
            {
                "Loss attack": "who has a smaller loss is called a member: the chance that a training image has a "
                "smaller one than a test image."
            }
        ),
        "</section>",
        *html.setting(
            {
                "Data": data,
                "Model": model,
                "Checkpoint": {key: value or "–" for key, value in results["checkpoint"].items()},
                "Environment": results["environment"],
            },
            config,
        ),
    ]
    return html.page("An imported model", data["name"], body)
