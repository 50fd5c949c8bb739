"""The page of the attack on pairs of models: does a deletion give away who was deleted, where, and what helps?"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.drawing import as_png, drawing
from mu_jax.evaluation.report.leaks_answer import sentences, verdict
from mu_jax.evaluation.report.leaks_figures import (
    MOST_ARMS,
    MOST_CURVES,
    curves_of,
    features_figure,
    has_overfitting,
    overfitting_figure,
    roc_figure,
)
from mu_jax.evaluation.report.leaks_remarks import remarks
from mu_jax.evaluation.report.leaks_rows import (
    arms_words,
    base_labels,
    base_of,
    by_defense,
    headline,
    plain_rows,
    scenario_words,
    scenarios,
    target_words,
)
from mu_jax.evaluation.report.leaks_study_figures import MOST_ARMS as MOST_LINES
from mu_jax.evaluation.report.leaks_study_figures import (
    MOST_BASES,
    defenses_figure,
    has_defenses,
    scenarios_figure,
)
from mu_jax.evaluation.report.leaks_tables import (
    attacks_table,
    defenses_table,
    main_table,
    models_table,
    scenario_table,
    transfer_table,
)
from mu_jax.evaluation.report.leaks_terms import defense_terms, how, scenario_terms, terms
from mu_jax.evaluation.report.tables import count, duration

Row = Mapping[str, Any]

# Heading, and what the reader should look for.
_FIGURES = {
    "roc": (
        "Both attacks at every threshold",
        "The attack on pairs and the classical attack with the same classifier; the dotted line is a guess. Where the "
        "solid curve is above the dashed one, the deletion gave something away that the first model did not.",
    ),
    "features": (
        "How a pair becomes features",
        "Each construction with the classifier that did best with it on shadow pairs, and its interval; filled: the "
        "chosen one. The black stroke is the classical attack beside the chosen one, the dotted line a guess.",
    ),
    "overfitting": (
        "Leak by overfitting",
        "A point a kind of model: its originals' training less test accuracy, and the chosen attack with its interval. "
        "Above 0 on the left, the pair makes the attacker surer of the truth than the first model alone does. Points "
        "are set aside a little so that ways to delete do not hide one another.",
    ),
    "scenarios": (
        "By scenario, size of groups, and number of intermediate models",
        "The chosen attack on each scenario without a defence; bars are intervals, the dotted line a guess.",
    ),
    "defenses": (
        "Defences: what is left of the attack, and of the models",
        "Lower is safer; further right in the left panel, and further left in the right one, the models are of more "
        "use. Shadow models have the defence too. Bars are intervals, the dotted line a guess; points of equal use "
        "stand side by side.",
    ),
}


def write_leaks_report(directory: pathlib.Path, results: Row, config: Row) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {name: functools.partial(_drawn, draw, results) for name, draw in figures_of(results).items()}
    return html.write_page(directory, drawings, functools.partial(render_leaks_page, results, config))


def _drawn(draw: Callable[[Row], Figure], results: Row) -> bytes:
    with drawing():
        return as_png(draw(results))


def figures_of(results: Row) -> dict[str, Callable[[Row], Figure]]:
    """What draws each figure that there is something to draw of."""
    features = {row["feature"] for row in results["tables"]["leaks"]}
    plain = any(row["defense"] == "none" for row in plain_rows(results))
    wanted = {
        "roc": (roc_figure, bool(curves_of(results))),
        "features": (features_figure, len(features) > 1),
        "overfitting": (overfitting_figure, has_overfitting(results)),
        "scenarios": (scenarios_figure, plain and len(scenarios(results)) > 1),
        "defenses": (defenses_figure, has_defenses(results)),
    }
    return {name: draw for name, (draw, shown) in wanted.items() if shown}


def study_words(results: Row) -> str:
    """`3 kinds of models, 10 originals a side, 20 deleted and 20 never learned examples of each`."""
    study, targets = results["study"], {base_of(row)[0] for row in results["tables"]["leaks"]}
    words = arms_words(results, len(base_labels(results)))
    # Where there is one kind of models, its name stands here alone.
    words += f" from {target_words(targets.pop())}" if "delete" in words else ""
    return (
        f"{words}, {study['originals']} originals a side, "
        f"{study['unlearned']} deleted and {study['unlearned']} never learned examples of each"
    )


def render_leaks_page(results: Row, config: Row, images: Mapping[str, bytes]) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    facts, study, tables = results["data"], results["study"], results["tables"]
    where = (
        f"{facts['name']} · {study_words(results)} · {count(facts['training_examples'])} training examples each · "
        f"{count(study['models'])} models · seed {results['seed']}"
    )
    body = [
        *html.header("When unlearning leaks", where, results["question"]),
        *map(html.warning, html.data_warnings(facts)),
        _answer(results),
        f"<section><h2>The chosen attack: {escape(scenario_words(*headline(results)))}</h2>",
        html.table(main_table(results)),
        html.notes(terms(results)),
        "</section>",
        *_figure("roc", images, _only(results, MOST_CURVES)),
        *_figure("features", images, _only(results, MOST_ARMS)),
        *_figure("overfitting", images),
    ]
    if len(scenarios(results)) > 1:
        body += [
            *_figure("scenarios", images, _only(results, MOST_LINES)),
            _section("Scenarios", html.table(scenario_table(results)) + html.notes(scenario_terms(results))),
        ]
    if has_defenses(results):
        body += [
            *_figure("defenses", images, _first_bases(results)),
            _section("Defences", html.table(defenses_table(results)) + html.notes(defense_terms())),
        ]
    if tables.get("transfer"):
        body.append(_section("Transfer", html.table(transfer_table(results)) + _TRANSFER))
    body += [
        _section("What was measured, and how", html.notes(how(results, config))),
        "<section><h2>Further numbers</h2>",
        _folded(
            "Every feature construction with every classifier", html.table(attacks_table(results)) + _CHOSEN
        ),
        _folded("Models under attack", html.table(models_table(results))),
        "</section>",
        *html.setting(_facts(results), config),
        f"<p class=note>To run it again: <code>python -m mu_jax.main --config=configs/{escape(results['experiment'])}"
        ".py --workdir=DIR</code> with these settings; <code>config.json</code> beside this page has them too, and "
        "which of them the command line changed. <code>results.json</code> has every attack on every scenario.</p>",
    ]
    return html.page("When unlearning leaks", facts["name"], body)


_TRANSFER = (
    "<p class=note>The attacker's shadow models are of another kind than the target's, or learned other data; features "
    "and classifier are those chosen on his own shadow. Beside it stands the attack by a shadow that is like the "
    "target.</p>"
)
_CHOSEN = (
    "<p class=note>The dot marks the attack that is shown above: the best AUC on shadow pairs, of which each half of "
    "the shadow's originals is attacked by what was learned on the other. The best AUC on the target would flatter the "
    "attacker, who does not know it.</p>"
)


def _answer(results: Row) -> str:
    lines = "".join(f"<li>{escape(_upper(text))}.</li>" for text in remarks(results))
    said = "".join(f"<p>{escape(text)}.</p>" for text in sentences(results))
    return (
        f"<section class=answer><p class=verdict>{escape(verdict(results))}</p>{said}"
        f"{f'<ul>{lines}</ul>' if lines else ''}</section>"
    )


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _figure(name: str, images: Mapping[str, bytes], note: str = "") -> list[str]:
    if name not in images:
        return []
    heading, caption = _FIGURES[name]
    return [html.figure(name, heading, caption + note, images[name])]


def _only(results: Row, most: int) -> str:
    number = len(plain_rows(results))
    return "" if number <= most else f" Of {arms_words(results, number)}, the {most} with the highest AUC."


def _first_bases(results: Row) -> str:
    number = len([rows for rows in by_defense(results).values() if len(rows) > 1])
    return "" if number <= MOST_BASES else f" Of {arms_words(results, number)}, the first {MOST_BASES}."


def _facts(results: Row) -> dict[str, dict[str, Any]]:
    study, facts = results["study"], results["data"]
    data = {
        key: value
        for key, value in facts.items()
        if key not in ("class_names", "label_noise", "other_source")
    }
    data |= {key: facts[key] for key in ("label_noise", "other_source") if facts.get(key)}
    work = {
        "models": study["models"],
        "training": duration(sum(study["seconds"].values())),
        "compiling": duration(sum(study["compile_seconds"].values())),
        "examples trained": sum(study["trained_samples"].values()),
    }
    targets = {
        target["name"]: ", ".join(
            f"{key.replace('_', ' ')} {value:,}"
            if isinstance(value, int)
            else f"{key.replace('_', ' ')} {value}"
            for key, value in target.items()
            if key != "name"
        )
        for target in study["targets"]
    }
    return {"Data": data, "Kinds of models": targets, "Work": work, "Environment": results["environment"]}
