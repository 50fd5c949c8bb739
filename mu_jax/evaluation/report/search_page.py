"""The page of a search for settings: the best of each method, how the gap depends on them, and all that was tried."""

import functools
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.evaluation.report.search_figures import gap_by_learning_rate
from mu_jax.evaluation.report.search_tables import (
    best_table,
    remarks,
    schedule,
    setting_cells,
    settings_table,
)
from mu_jax.evaluation.report.tables import MISSING, gap_table, percent

_ROLES = {"retrain": "gold standard", "retrain_again": "noise floor", "original": "nothing done"}


def write_search_report(
    directory: pathlib.Path, results: Mapping[str, Any], config: Mapping[str, Any]
) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {"gap_by_learning_rate": functools.partial(gap_by_learning_rate, results)}
    return html.write_page(directory, drawings, functools.partial(render_search_page, results, config))


def render_search_page(
    results: Mapping[str, Any], config: Mapping[str, Any], images: Mapping[str, bytes]
) -> str:
    """The page as HTML, with the figure's PNG bytes embedded."""
    facts, search = results["data"], results["search"]
    where = (
        f"{facts['name']} · {search['settings']:,} settings · {facts['forget']:,} of {facts['train']:,} training "
        f"images forgotten, none of the {facts['to_be_scored']:,} to be scored · seed {results['seed']}"
    )
    styles = model_styles(results["models"])
    flags = "\n".join(flag for best in results["best"].values() for flag in best["overrides"])
    body = [
        *html.header("Search for settings of unlearning methods", where, results["question"]),
        *map(html.warning, html.data_warnings(facts)),
        _answer(results),
        "<section><h2>The best setting of each method</h2>",
        html.table(best_table(results), styles=styles, roles=_ROLES),
        html.notes(_terms(results)),
        "</section>",
        html.figure(
            "gap_by_learning_rate",
            "Gap against learning rate",
            "Gap to retraining of every setting, each one run. Far to the left a method changes nothing and stays at "
            "the original's gap; far to the right it ruins the model. A smooth valley is a reason to believe its "
            "lowest point, a lone dip is not. Axes are logarithmic.",
            images["gap_by_learning_rate"],
        ),
        "<section><h2>Flags for a run on the set to be scored</h2>",
        f"<pre>{escape(flags) or MISSING}</pre>",
        "<p class=note>The settings that were searched, and those of this search that are not the default, for an "
        "unlearning_methods run (configs/amun.py); by method in best.json beside this page.</p></section>",
        "<section><h2>Further numbers</h2><h3>Gap to retraining, in its parts</h3>",
        html.table(gap_table(results), styles=styles, roles=_ROLES),
        "<details><summary>All settings, by their gap</summary>",
        html.table(settings_table(results)),
        "</details></section>",
        *html.setting(
            {"Data": facts, "Model": results["model"], "Environment": results["environment"]}, config
        ),
    ]
    return html.page("Search for settings", facts["name"], body)


def _answer(results: Mapping[str, Any]) -> str:
    found = {name: best for name, best in results["best"].items() if best["setting"] is not None}
    details = "".join(f"<li>{escape(remark[0].upper() + remark[1:])}.</li>" for remark in remarks(results))
    if not found:
        verdict, sentence = "No setting survived", "Every setting diverged: try lower learning rates."
    else:
        name = min(found, key=lambda method: found[method]["gap"])
        best = found[name]
        rate, _, epochs, knob = setting_cells(best)
        floor = results["models"]["retrain_again"]["gap_to_retrain"]
        verdict = f"Nearest to retraining here: {name}, {percent(best['gap'])} points away"
        sentence = (
            f"With a learning rate of {rate}, {schedule(best['step_epochs'])}, for {epochs} epochs"
            f"{'' if knob == MISSING else f', {knob}'}. A second retraining is {percent(floor)} points away."
        )
    return (
        f"<section class=answer><p class=verdict>{escape(verdict)}</p><p>{escape(sentence)}</p>"
        f"<ul>{details}</ul></section>"
    )


def _terms(results: Mapping[str, Any]) -> dict[str, str]:
    facts = results["data"]
    return {
        "Gap to retrain": "mean absolute difference from retrain over forget, retain and test accuracy and the AUC of "
        "the loss attack, in percentage points; one run of each setting. A study has RMIA's AUC in its place where it "
        "has a pool of references.",
        "Retain, Forget, Test": f"accuracy in percent on {facts['retain']:,} training images kept, {facts['forget']:,} "
        f"deleted and {facts['test']:,} test images.",
        "Loss attack's AUC": "chance that of a forgotten and a test image the forgotten one has the lower loss.",
        "Divided every": "epochs after which the learning rate is multiplied by the method's step_factor, again and "
        "again.",
        "Tried": "settings of the method; in parentheses how many diverged, and so cannot win.",
    }
