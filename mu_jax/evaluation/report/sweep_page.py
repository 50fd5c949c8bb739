"""The page of a sweep: what the shadow models are, what their signals show, and how fast they were made."""

import functools
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import html, sweep_figures
from mu_jax.evaluation.report.attack_section import (
    SHOWN_TABLES,
    attack_figure_drawings,
    attack_sections,
    attacks_in_brief,
)
from mu_jax.evaluation.report.sweep_data import SweepReportData
from mu_jax.evaluation.report.sweep_tables import (
    diverged,
    mean,
    over_models,
    rate,
    speed_table,
    summary_table,
)
from mu_jax.evaluation.report.tables import count, duration, named_tables, percent

# File, what draws it, heading, and what the reader should look for.
_FIGURES = (
    (
        "signals",
        sweep_figures.signal_histogram,
        "Signals of members and non-members",
        "The margin φ = log p − log(1 − p) of the probability p that a model gives to an image's label, the image "
        "as it is; over models and images, of very many a random sample. At 0 the label is as likely as all other "
        "classes together. An attack with one threshold for all images can use only how far the filled histogram "
        "lies to the right of the outline. The outermost 0.1% at each end are counted in the end bins.",
    ),
    (
        "examples",
        sweep_figures.example_means,
        "Each image, trained on and not",
        "The mean φ of every candidate over the models that trained on it, against that over the models that did "
        "not. Images far above the line are the exposed ones: a model that has seen them behaves differently on "
        "them, and attacks that judge each image by itself, such as LiRA, find that out. With few models on "
        "either side a mean is rough, and single images lie far off by chance. The two axes differ in scale; the "
        "outermost 0.1% are drawn at the edges.",
    ),
    (
        "accuracies",
        sweep_figures.accuracies,
        "Accuracy of each model",
        "On the images that the model trained on and on those that it did not; the two scales differ. All "
        "models follow one recipe, so one far off the others deserves a look before it is attacked.",
    ),
    (
        "training_losses",
        sweep_figures.training_losses,
        "Training",
        "Loss on the training batches, augmented where training was, averaged over each chunk of steps and over "
        "the models of a group that had not diverged by then. Where one model's loss runs away, the axis "
        "ends before it does.",
    ),
)

_ARCHITECTURES = {"resnet18": "ResNet-18", "cnn": "CNN", "mlp": "MLP"}
# Of more, the page names the first and counts the rest.
_NAMED_MODELS = 5


def write_sweep_report(directory: pathlib.Path, data: SweepReportData) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {name: functools.partial(draw, data) for name, draw, _, _ in _FIGURES}
    if data.attacks is not None:
        drawings |= attack_figure_drawings(data.attacks)
    return html.write_page(directory, drawings, functools.partial(render_sweep_page, data))


def render_sweep_page(data: SweepReportData, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    results = data.results
    facts, sweep = results["data"], results["sweep"]
    title = str(results["experiment"]).replace("_", " ").capitalize()
    where = (
        f"{facts['name']} · {_models(results)} · {facts['candidates']:,} of {facts['examples']:,} images "
        f"are candidates · seed {results['seed']}"
    )
    shown = {key: sweep[key] for key in ("models", "membership", "candidates", "queries") if key in sweep}
    body = [
        *html.header(title, where, results["question"]),
        *map(html.warning, html.data_warnings(facts) + _divergence(results)),
        f"<section class=answer><p>{escape(answer(results))}</p></section>",
        *_attacks(data, images),
        "<section><h2>Models</h2>",
        html.table(summary_table(results)),
        html.notes(_terms(results)),
        "</section>",
        *(html.figure(name, heading, caption, images[name]) for name, _, heading, caption in _FIGURES),
        "<section><h2>Speed</h2>",
        html.table(speed_table(results)),
        f"<p class=note>{escape(_timing(results))}</p></section>",
        *_further(data),
        *html.setting(
            {"Data": facts, "Model": results["model"], "Sweep": shown, "Environment": results["environment"]},
            data.config,
        ),
    ]
    return html.page(title, facts["name"], body)


def answer(results: Mapping[str, Any]) -> str:
    """What was made, how fast, and how differently the models treat what they trained on."""
    model, sweep = results["model"], results["sweep"]
    kind = _ARCHITECTURES.get(model["name"], model["name"])
    text = f"{_models(results)} of {kind} (width {model['width']})"
    if sweep.get("seconds") and sweep.get("models_per_minute"):
        text += f" in {duration(sweep['seconds'])}: {rate(sweep['models_per_minute'])} models per minute"
    member, nonmember = (mean(over_models(results, "accuracy", part)) for part in ("member", "nonmember"))
    if len(diverged(results)) == len(results["models"]):
        return f"{text}. All of them diverged, so there are no signals to attack with."
    if member is None or nonmember is None:
        return f"{text}."
    text += f". On what it trained on, a model is right on {percent(member)}%, and on the rest on {percent(nonmember)}%"
    # Below a point accuracy alone says little either way.
    if member - nonmember >= 0.01:
        return f"{text}: that gap is what membership attacks feed on."
    return f"{text}: no gap in accuracy to speak of, though attacks may find one in how sure the models are."


def _models(results: Mapping[str, Any]) -> str:
    number = len(results["models"])
    return f"{number:,} shadow model{'' if number == 1 else 's'}"


def _divergence(results: Mapping[str, Any]) -> list[str]:
    steps, total = diverged(results), len(results["models"])
    if not steps:
        return []
    named = ", ".join(f"{name} at step {step:,}" for name, step in list(steps.items())[:_NAMED_MODELS])
    more = len(steps) - _NAMED_MODELS
    if more > 0:
        named += f" and {more:,} more"
    return [
        f"{len(steps):,} of {total:,} models diverged and are left out of tables and figures; their rows among the "
        f"signals are kept and marked ({named}). Where many do, lower the learning rate or lengthen its warm-up."
    ]


def _terms(results: Mapping[str, Any]) -> dict[str, str]:
    sweep, data = results["sweep"], results["data"]
    queries = sweep["queries"]
    return {
        "Member of a model": f"an image that it trained on, from {data['candidates']:,} candidates "
        f"({sweep['candidates']} images); every model has members of its own.",
        "± SD": "standard deviation over the models: the chance of training and of who is a member together.",
        "Last training loss": "mean over a model's last chunk of steps.",
        "Signals": f"φ and p of every model on all {data['examples']:,} images, under {count(queries)} "
        f"quer{'y' if queries == 1 else 'ies'}, and who was a member of which model, lie in the folder "
        "signals beside this page.",
    }


def _timing(results: Mapping[str, Any]) -> str:
    device = results["environment"].get("device")
    where = f" on {device}" if device else ""
    return (
        f"Timings are of this run{where}; other machines, and this one under other load, give others. Training is "
        "without compilation and without querying, and the rates are of training alone."
    )


def _attacks(data: SweepReportData, images: Mapping[str, bytes]) -> list[str]:
    tables = data.results.get("tables", {})
    if data.attacks is None:
        return attacks_in_brief(tables)
    return attack_sections(data.attacks, images, tables.get("impossible_attacks") or ())


def _further(data: SweepReportData) -> list[str]:
    # The attacks have sections of their own; examples are in them only where the scores are at hand.
    hidden = set(SHOWN_TABLES) - ({"exposed"} if data.attacks is None else set())
    named = {name: table for name, table in named_tables(data.results).items() if name not in hidden}
    if not named:
        return []
    parts = (f"<h3>{escape(key)}</h3>{html.table(rows)}" for key, rows in named.items())
    return ["<section><h2>Further numbers</h2>", *parts, "</section>"]
