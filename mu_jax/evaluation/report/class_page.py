"""The page of class unlearning: who is nearest to models that never saw the class, by its images alone."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.class_answer import sentences, verdict
from mu_jax.evaluation.report.class_figures import nearest_neighbour_figure, ulira_figure
from mu_jax.evaluation.report.class_heat_maps import (
    MOST_PANELS,
    class_matrix_figure,
    confusion_figure,
    has_matrix,
)
from mu_jax.evaluation.report.class_remarks import alarm_limit, remarks
from mu_jax.evaluation.report.class_tables import (
    accuracy_table,
    classes_table,
    in_order,
    main_table,
    row_styles,
    runs_table,
)
from mu_jax.evaluation.report.drawing import as_png, drawing
from mu_jax.evaluation.report.tables import Table, count, duration

Row = Mapping[str, Any]

_ROLES = {"retrain": "gold standard: among themselves", "original": "before unlearning"}

# Heading, and what the reader should look for.
_FIGURES = {
    "confusion": (
        "What the forgotten class's images are taken for",
        "Test images of the class, in percent of them; a cell left blank rounds to 0. A model that never saw the class "
        "spreads its images over the classes that look like it: the first row. A row that spreads them otherwise gives "
        "away that the class was there, even where its own column is empty: this is what MIA-NN sees.",
    ),
    "class_matrix": (
        "Every class in turn",
        "Each row another forgotten class, in percent of its test images; the solid squares are the forgotten class "
        "itself, empty where it is no longer known. The more a matrix looks like the first one, the less gives away "
        "that a class was forgotten.",
    ),
    "nearest_neighbour": (
        "MIA-NN: how well forgotten images are told from their nearest class",
        "The dashed line and the band are the retrained models' mean ± one standard deviation: what a model that never "
        "saw the class allows. A row to its right still knows the class apart; a row to its left was pushed further "
        "than never having seen it would. Small points are single models or classes, strokes their means.",
    ),
    "ulira": (
        "U-LiRA: are they unlearned or retrained models?",
        "At 50%, the dashed line, the class's images do not tell; either side of it gives as much away. Lines are "
        "intervals, where there are any.",
    ),
}


def write_class_report(directory: pathlib.Path, results: Row, config: Row) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {name: functools.partial(_drawn, draw, results) for name, draw in figures_of(results).items()}
    return html.write_page(directory, drawings, functools.partial(render_class_page, results, config))


def _drawn(draw: Callable[[Row], Figure], results: Row) -> bytes:
    with drawing():
        return as_png(draw(results))


def figures_of(results: Row) -> dict[str, Callable[[Row], Figure]]:
    """What draws each figure that there is something to draw of."""
    any_class = bool(results["tables"]["classes"])
    wanted = {
        "confusion": (confusion_figure, bool(results["tables"]["confusion"])),
        "class_matrix": (class_matrix_figure, has_matrix(results) and bool(results["tables"]["confusion"])),
        "nearest_neighbour": (nearest_neighbour_figure, any_class),
        "ulira": (ulira_figure, any_class),
    }
    return {name: draw for name, (draw, shown) in wanted.items() if shown}


def render_class_page(results: Row, config: Row, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    facts, study, model = results["data"], results["study"], results["model"]
    where = (
        f"{facts['name']} · {model['name']} of width {model['width']} · {forgotten_words(results)} · "
        f"{study['models']} models of each row and class · {count(facts['train'])} training images · seed "
        f"{results['seed']}"
    )
    body = [
        *html.header("Forgetting a class, and its neighbours", where, results["question"]),
        *map(html.warning, html.data_warnings(facts)),
        _answer(results),
        "<section><h2>Methods, nearest to retraining first</h2>",
        _table(results, main_table(results)),
        html.notes(_terms(results)),
        "</section>",
        *_figure("confusion", images, _first_classes(results)),
        *_figure("class_matrix", images),
        *_figure("nearest_neighbour", images),
        *_figure("ulira", images),
        "<section><h2>Accuracy</h2>",
        _table(results, accuracy_table(results)),
        "<p class=note>The gap to retraining is the mean absolute difference of its four parts. The loss attack tells "
        "the class's training images from its test images.</p></section>",
        "<section><h2>Further numbers</h2>",
        _folded("Each forgotten class by itself", _table(results, classes_table(results))),
        _folded("All models", html.table(runs_table(results))),
        "</section>",
        "<section><h2>What was measured, and how</h2>",
        html.notes(_how(results)),
        "</section>",
        *html.setting(
            {
                "Data": _data_facts(facts),
                "Model": model,
                "Study": {
                    "models of each row and class": study["models"],
                    "forgotten in turn": ", ".join(facts["class_names"][label] for label in study["classes"]),
                    "compiling": duration(sum(study["compile_seconds"].values())),
                },
                "Environment": results["environment"],
            },
            config,
        ),
        "<p class=note>To run it again: <code>python -m mu_jax.main --config=configs/class_unlearning.py "
        "--workdir=DIR</code> with these settings; <code>config.json</code> beside this page has them too, and which "
        "of them the command line changed. The same command on the same folder goes on where it was cut off.</p>",
    ]
    return html.page("Class unlearning", facts["name"], body)


def forgotten_words(results: Row) -> str:
    """`class 8 forgotten`, or how many in turn."""
    facts, classes = results["data"], results["study"]["classes"]
    if len(classes) == 1:
        return f"class {facts['class_names'][classes[0]]} forgotten"
    whole = "all " if len(classes) == facts["classes"] else ""
    return f"{whole}{len(classes)} classes forgotten in turn"


def _answer(results: Row) -> str:
    said = "".join(f"<p>{escape(text)}.</p>" for text in sentences(results))
    lines = "".join(f"<li>{escape(text[0].upper() + text[1:])}.</li>" for text in remarks(results))
    return (
        f"<section class=answer><p class=verdict>{escape(verdict(results))}</p>{said}"
        f"{f'<ul>{lines}</ul>' if lines else ''}</section>"
    )


def _table(results: Row, content: Table) -> str:
    return html.table(content, styles=row_styles(in_order(results["models"])), roles=_ROLES)


def _figure(name: str, images: Mapping[str, bytes], note: str = "") -> list[str]:
    if name not in images:
        return []
    heading, caption = _FIGURES[name]
    return [html.figure(name, heading, caption + note, images[name])]


def _first_classes(results: Row) -> str:
    number = len(results["study"]["classes"])
    return "" if number <= MOST_PANELS else f" Of {number} forgotten classes, the first {MOST_PANELS}."


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _data_facts(facts: Row) -> dict[str, Any]:
    shown = {key: value for key, value in facts.items() if key not in ("class_names", "label_noise")}
    return shown | ({"label_noise": facts["label_noise"]} if facts.get("label_noise") else {})


def _terms(results: Row) -> dict[str, str]:
    study = results["study"]
    over = "forgotten classes" if len(study["classes"]) > 1 else "models"
    return {
        "retrain": "models that never saw the class. Its MIA-NN leak, total variation and KL are of each to the "
        "others, its U-LiRA is of one half of them against the other, where that leaves three a side: the noise floor, "
        "which no method can beat. Its gap is to itself.",
        "Mean rank": "mean of a method's ranks by MIA-NN's leak, by the distance of U-LiRA's AUC from 50% and by total "
        "variation; 1 is the nearest to retraining in all three. Methods ranked by these very figures look a little "
        "better than they are.",
        "MIA-NN accuracy": "of a classifier that tells the forgotten class's images from those of the class that "
        "retrained models take them for, by what the model says of the classes that stay. Never having seen the class "
        "does not make it 50%: retrained models have an accuracy of their own.",
        "MIA-NN leak": "its distance from the retrained models' mean accuracy, in percentage points; beside it the "
        "signed difference in standard deviations of theirs, above 0 where the class is told more easily. The alarm "
        f"sounds where it exceeds {alarm_limit(study['models'], study['interval_level']):.1f} in every class: one more "
        f"retrained model does so in {100 * (1 - study['interval_level']):.3g}% of cases (Student's t).",
        "U-LiRA AUC": "how well a likelihood ratio on the forgotten class's images tells this row's models from "
        "retrained ones; 50% is a guess, and either side of it a leak."
        + (" Intervals are in the table of classes." if len(study["classes"]) > 1 else ""),
        "Total variation, KL": "distance of a model's posterior on the forgotten class's test images from the mean "
        "posterior of the retrained models, mean over images.",
        "Gap to retrain": "mean absolute difference from retraining over three accuracies and the loss attack's AUC, "
        "which look at the true label alone and not at the classes that stay.",
        "±": f"standard deviation over {over}.",
        "Time": "of training and preparation, a model.",
    }


def _how(results: Row) -> dict[str, str]:
    study = results["study"]
    nearest, ulira = study["nearest_neighbour"], study["ulira"]
    against = {
        "nearest": "of the nearest class, where the mean posterior of the retrained models is largest",
        "every": "of every other class in turn; accuracies are means over them",
    }
    trained_on = {
        "own": "the outputs of the model under test",
        "retrained": "a retrained model's outputs, and applied to those of the model under test",
    }
    images = {"train": "the training images that were to be forgotten", "test": "test images of the class"}
    variance = {"per_example": "an image each", "global": "of one variance a side for all images"}
    other_side, learned = against[nearest["against"]], trained_on[nearest["trained_on"]]
    return {
        "Models": f"{study['models']} originals learn all classes; for each forgotten class {study['models']} models "
        "are trained without it, and every method forgets it on every original. All models keep the class's output.",
        "MIA-NN": f"A support-vector classifier with an RBF kernel on {nearest['features']} without the forgotten "
        f"class; its other side are images {other_side}. It learns from training images, from {learned}, and is "
        f"scored on test images; at most {count(nearest['max_each_side'])} images a side.",
        "U-LiRA": "Gaussians of φ, the logit of the class less those of all others together, one of unlearned and one "
        f"of retrained models, {variance[ulira['variance']]}; a model under test leaves its own side, and one model of "
        f"the other side leaves with it. Asked about {images[ulira['images']]}. Of the two sides the unlearned one "
        f"alone underwent unlearning. Intervals hold {100 * study['interval_level']:g}%.",
        "Heat maps": "share of the class's test images for which a class has the largest logit, all classes competing; "
        "mean over models.",
    }
