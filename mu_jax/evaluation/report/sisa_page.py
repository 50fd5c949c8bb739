"""The page of a SISA experiment: what cheap deletion costs, what it saves, and what attackers still see."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report import sisa_tables as tables
from mu_jax.evaluation.report.answer import Answer, interval_level
from mu_jax.evaluation.report.sisa_answer import sisa_answers
from mu_jax.evaluation.report.sisa_attack_answer import unequal
from mu_jax.evaluation.report.sisa_cost_figures import deletion_cost, plan
from mu_jax.evaluation.report.sisa_data import SisaReportData
from mu_jax.evaluation.report.sisa_figures import (
    HISTOGRAMS,
    accuracy_by_shards,
    posterior_histograms,
    sisa_styles,
)
from mu_jax.evaluation.report.tables import count, gap_table, named_tables, operating_table, percent

_ROLES = {
    "base": "one model, on all",
    "base_retrained": "one model, without the deleted",
    "sisa": "the ensemble, on all",
    "sisa_unlearned": "the ensemble after the deletion",
    "sisa_retrained": "fitted without the deleted",
    "sisa_retrained_again": "the same, another seed",
}

# What this page shows in its own way.
_SHOWN = ("accuracy_by_shards", "constituents", "deletion_cost", "expected_speed_up")

# Heading, and what the reader should look for.
_FIGURES = {
    "accuracy_by_shards": (
        "Accuracy against shards",
        "The more shards, the fewer examples each shard's model is trained on; gray is their mean, and the coloured "
        "lines join their answers. How far a coloured line lies below the dashed one of a single model is the price of "
        "cheap deletion. Bars and the band are intervals over the choice of test images; the gray shade is "
        "the standard deviation over shards.",
    ),
    "deletion_cost": (
        "Cost against requests",
        "How many times less retraining a batch of deletions takes than training one model anew. More shards help "
        "while the requests are few and strike few of them; more slices help where the struck slices are late ones. "
        "The gain is gone where nearly every shard is struck in an early slice. Points were counted on shards of this "
        "data, curves are expected values for examples that are all equally likely to be deleted.",
    ),
    "plan": (
        "The plan for more data",
        "The same expected speed-up for data far beyond this run. Nothing was trained for it. More shards give more, "
        "but each model sees fewer examples, and this figure does not show what that costs in accuracy.",
    ),
    "posterior_histograms": (
        "How sure the models are",
        "The largest posterior, which is how sure a model is of its answer. Where deleted images (filled) look like "
        "test images (solid outline), this alone does not give them away; where they look like retained ones (dashed), "
        "it does. The scale stretches the sure end: each further digit of certainty has the same width.",
    ),
}


def write_sisa_report(directory: pathlib.Path, data: SisaReportData) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    return html.write_page(directory, _drawings(data), functools.partial(render_sisa_page, data))


def _drawings(data: SisaReportData) -> dict[str, Callable[[], bytes]]:
    """What draws each figure that there is something to draw of."""
    rows = data.results.get("tables", {})
    wanted = {
        "accuracy_by_shards": (accuracy_by_shards, rows.get("accuracy_by_shards")),
        "deletion_cost": (deletion_cost, rows.get("deletion_cost") or tables.expected_for(data.results)),
        "plan": (plan, tables.planned(data.results)),
        "posterior_histograms": (posterior_histograms, data.largest_posterior.keys() & set(HISTOGRAMS)),
    }
    return {name: functools.partial(draw, data) for name, (draw, shown) in wanted.items() if shown}


def render_sisa_page(data: SisaReportData, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    results = data.results
    facts, sisa = results["data"], results["sisa"]
    title = "SISA: deletion by shards and slices"
    where = (
        f"{facts['name']} · {sisa['shards']:,} shards × {sisa['slices']:,} slices · {count(facts['forget'])} of "
        f"{count(facts['train'])} training images deleted · seed {results['seed']}"
    )
    body = [
        *html.header(title, where, results["question"]),
        *map(html.warning, html.data_warnings(facts) + _inexact(data)),
        *map(answer_section, sisa_answers(data)),
        "<section><h2>Models</h2>",
        _table(results, tables.models_table(results)),
        html.notes(_model_terms(results)),
        "</section>",
        *_figure("accuracy_by_shards", images),
        *_figure("deletion_cost", images),
        *_figure("plan", images),
        *_attacks(results),
        *_figure("posterior_histograms", images),
        *_further(results),
        *html.setting(
            {
                "Data": facts,
                "Model": results["model"],
                "SISA": sisa,
                "Environment": results.get("environment", {}),
            },
            data.config,
        ),
    ]
    return html.page(title, facts["name"], body)


def answer_section(answer: Answer) -> str:
    """A question with its answer in a few words, the sentence with the figures, and what qualifies it."""
    details = "".join(f"<li>{escape(detail)}</li>" for detail in answer.details)
    return (
        f"<section class=answer><p>{escape(answer.method)}</p><p class=verdict>{escape(answer.verdict)}</p>"
        f"<p>{escape(answer.sentence)}</p>{f'<ul>{details}</ul>' if details else ''}</section>"
    )


def _inexact(data: SisaReportData) -> list[str]:
    differs = unequal(data)
    if not differs:
        return []
    return [
        f"The ensemble after the deletion differs from the one fitted without the deleted images in {len(differs):,} "
        "figures. SISA deletes exactly, so they should be equal to the last bit: something went wrong, unless the two "
        "were trained on different machines or package versions."
    ]


def _table(results: Mapping[str, Any], content: tables.Table) -> str:
    return html.table(content, styles=sisa_styles(results["models"]), roles=_ROLES)


def _figure(name: str, images: Mapping[str, bytes]) -> list[str]:
    return [html.figure(name, *_FIGURES[name], images[name])] if name in images else []


def _model_terms(results: Mapping[str, Any]) -> dict[str, str]:
    sizes, level = results["data"], f"{100 * interval_level(results):g}%"
    return {
        "Retained, Deleted, Test": f"accuracy in percent on the {count(sizes['retain'])} training images kept, the "
        f"{count(sizes['forget'])} deleted and the {count(sizes['test'])} test images. base and sisa were trained on "
        "the deleted ones too.",
        "Shards × slices": "the training images are dealt to shards with a model each, and each shard is learned slice "
        "after slice with a checkpoint between. To delete an image, its shard goes back to the checkpoint before the "
        "image's slice and learns on without it; nothing else has seen the image.",
        "Brackets [ ]": f"{level} intervals over the choice of images, for these very models; the chance of training "
        "is not in them. The interval of a difference in accuracy is Newcombe's, from those of both models as if on "
        "separate images, so it is wide where both err on the same ones.",
        "Gap to retrained": "mean absolute difference over deleted, retained and test accuracy and the AUC of deleted "
        "against test images, in percentage points: of base from base_retrained, of ensembles from sisa_retrained.",
        "sisa_retrained_again": "its gap is the noise floor: what other random numbers alone change.",
        "Examples trained": "images that went through gradient steps, each as often as it did; of sisa_unlearned those "
        "of the deletion alone, as is its time.",
        "Time": "seconds of training on this run's machine, compilation apart.",
    }


def _attacks(results: Mapping[str, Any]) -> list[str]:
    names = tables.attack_names(results["models"])
    if not names:
        return []
    main = names[0]
    retained = tables.auc_table(results, retained=True)
    return [
        f"<section><h2>Attacks</h2><h3>Deleted against test images: {escape(tables.attack_title(main))}</h3>",
        _table(results, tables.attack_table(results, main)),
        html.notes(_attack_terms(results, main)),
        "<h3>Deleted against test images: AUC of all attacks, in percent</h3>",
        _table(results, tables.auc_table(results)),
        *(
            [
                "<h3>Retained against test images: AUC of all attacks, in percent</h3>",
                _table(results, retained),
                "<p class=note>Retained images are in training with every model of this table, so here an AUC above "
                "50% is what the models give away of their training images in general.</p>",
            ]
            if retained[1]
            else []
        ),
        "</section>",
    ]


def _attack_terms(results: Mapping[str, Any], attack: str) -> dict[str, str]:
    models, facts = results["models"], results["data"]
    terms = {
        "The question": "was this image deleted, or is it a test image? base and sisa were trained on the deleted ones "
        "and may remember them, the others not. Who is a member in the terms below was deleted."
    }
    block = next(
        (model["attacks"][attack] for model in models.values() if attack in model.get("attacks", {})), {}
    )
    if block.get("members") and block.get("nonmembers"):
        members, nonmembers = block["members"], block["nonmembers"]
        larger = percent(max(members, nonmembers) / (members + nonmembers))
        terms["Accuracy"] = (
            f"share of right answers over {members:,} deleted and {nonmembers:,} test images. Always naming the larger "
            f"side gives {larger}%, and tells nothing."
        )
        terms["Precision"] = (
            "of the images called members, the share that are; it rests on how many of either side there are. "
            "– stands where nobody was called a member."
        )
    terms |= {
        "Balanced accuracy": "as if both sides were equally many: 50% is a guess.",
        "Advantage": "true-positive rate less false-positive rate, which is twice what balanced accuracy has above "
        "50%; 0 is a guess.",
        "Recall": "share of the members that are called so, the true-positive rate.",
        "AUC": "chance that of a member and a test image the member has the higher score; 50% is a guess, and below "
        "50% leaks as well: an attacker only has to turn the answer round.",
        "Adversary 1": "trains a model of its own (or an ensemble, as the target was) on "
        f"{count(facts.get('shadow_members'))} images of the same kind, holds {count(facts.get('shadow_nonmembers'))} "
        "out, and learns how their posteriors differ.",
        "Adversary 2": "the same with images of another kind.",
        "Adversary 3": "looks at the largest posterior alone, with the threshold that is best on adversary 1's own "
        "model.",
        "Loss": "looks at the loss, for which it needs the image's label; thresholds are cross-fitted on the images "
        "at hand.",
    }
    present = {name[: len("posterior_1")] for name in tables.attack_names(models)}
    for key, term in (
        ("posterior_1", "Adversary 1"),
        ("posterior_2", "Adversary 2"),
        ("posterior_3", "Adversary 3"),
    ):
        if key not in present:
            del terms[term]
    if "loss_threshold" not in tables.attack_names(models):
        del terms["Loss"]
    return terms


def _further(results: Mapping[str, Any]) -> list[str]:
    rows, models = results.get("tables", {}), results["models"]
    parts: list[tuple[str, str]] = []
    if rows.get("accuracy_by_shards"):
        parts.append(("Accuracy by shards", html.table(tables.shards_table(rows["accuracy_by_shards"]))))
    if rows.get("constituents"):
        parts.append(("The shards' models", html.table(tables.constituents_table(rows["constituents"]))))
    if rows.get("deletion_cost"):
        parts.append(
            ("Cost of deletions", html.table(tables.cost_table(rows["deletion_cost"])) + _cost_note())
        )
    for curve in (tables.expected_for(results), tables.planned(results)):
        if curve:
            heading = f"Expected speed-up, {curve[0]['examples']:,} examples"
            parts.append((heading, html.table(tables.speed_up_pivot(curve))))
    parts.append(("Gap to retrained, in its parts", _table(results, gap_table(results))))
    for retained in (False, True):
        names = tables.attack_names(models, retained=retained)
        who = "Retained" if retained else "Deleted"
        # The first on deleted images stands above.
        for name in names if retained else names[1:]:
            heading = f"{who} against test images: {tables.attack_title(name)}"
            parts.append((heading, _table(results, tables.attack_table(results, name))))
    if any("loss_threshold" in model.get("attacks", {}) for model in models.values()):
        content = operating_table(results)
        if len(content[0]) > 1:
            parts.append(
                (
                    "Deleted against test images: true-positive rates of the loss attack",
                    _table(results, content),
                )
            )
    parts += [
        (name, html.table(content)) for name, content in named_tables(results).items() if name not in _SHOWN
    ]
    shown = (f"<h3>{escape(heading)}</h3>{content}" for heading, content in parts)
    return ["<section><h2>Further numbers</h2>", *shown, "</section>"]


def _cost_note() -> str:
    return (
        "<p class=note>The unit is one example in training for all the epochs that one model trains; a pass of a slice "
        "counts its share of them. Draws are deletions chosen at random and counted on the ensemble's own shards "
        "without training; SD is over the draws.</p>"
    )
