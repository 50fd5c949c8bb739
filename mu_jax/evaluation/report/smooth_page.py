"""The page of the study of smooth models: one line a kind, what clipping does, and the norms over training."""

import functools
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.smooth_figures import histories_figure, study_figure
from mu_jax.evaluation.report.smooth_tables import (
    NORMS,
    clip_words,
    kinds_table,
    layers_table,
    remarks,
    runs_table,
)
from mu_jax.evaluation.report.tables import MISSING


def write_smooth_report(
    directory: pathlib.Path,
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    histories: Mapping[str, Any],
) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {
        "study": functools.partial(study_figure, results),
        "norms_over_training": functools.partial(histories_figure, histories),
    }
    return html.write_page(directory, drawings, functools.partial(render_smooth_page, results, config))


def render_smooth_page(
    results: Mapping[str, Any], config: Mapping[str, Any], images: Mapping[str, bytes]
) -> str:
    """The page as HTML, with the figures' PNG bytes embedded."""
    facts, study = results["data"], results["study"]
    where = (
        f"{facts['name']} · ResNet-18 of width {results['model']['width']} · {len(results['tables']['kinds'])} kinds "
        f"of {study['models']} models · {facts['forget']:,} of {facts['train']:,} training images forgotten · seed "
        f"{results['seed']}"
    )
    body = [
        *html.header("Smooth models and AMUN", where, results["question"]),
        *map(html.warning, html.data_warnings(facts)),
        _answer(results),
        "<section><h2>Kinds of models</h2>",
        html.table(kinds_table(results)),
        html.notes(_terms(results)),
        "</section>",
        html.figure(
            "study",
            "What clipping does",
            "From no clipping, at the left, to the tightest; means over the models of a kind, bars of one standard "
            "deviation. In the last panel the dotted lines are the gaps between two retrainings: what no method can "
            "beat.",
            images["study"],
        ),
        html.figure(
            "norms_over_training",
            "Norms of the layers over training",
            "Of each kind's first model, every layer by itself as it was tracked, from the first layer (dark) to the "
            "last (light); dashed, the norm to clip at. Axes are logarithmic and shared.",
            images["norms_over_training"],
        ),
        "<section><h2>Further numbers</h2><details><summary>Measured norms of all layers (in parentheses with "
        "batch-norm)</summary>",
        html.table(layers_table(results)),
        "</details><details><summary>All models</summary>",
        html.table(runs_table(results)),
        "</details></section>",
        *html.setting(
            {"Data": facts, "Model": results["model"], "Environment": results["environment"]}, config
        ),
    ]
    return html.page("Smooth models", facts["name"], body)


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What came of clipping, a sentence a norm: from the loosest to the tightest kind that did not diverge."""
    found = []
    for norm in results["study"]["norms"]:
        rows = [row for row in results["tables"]["kinds"] if row["norm"] == norm and row["test"] is not None]
        if len(rows) < 2:
            continue
        rows.sort(key=lambda row: -(row["clip"] or float("inf")))
        first, last = rows[0], rows[-1]

        def change(key: str, scale: float, digits: int, first: Any = first, last: Any = last) -> str:
            values = (first[key], last[key])
            return " → ".join(MISSING if value is None else f"{scale * value:.{digits}f}" for value in values)

        found.append(
            f"{NORMS[norm]}, clip {clip_words(first['clip'])} → {clip_words(last['clip'])}: test accuracy "
            f"{change('test', 100.0, 1)}%, robust {change('robust_accuracy', 100.0, 1)}%, transfer "
            f"{change('transfer', 100.0, 1)}%, δ {change('distance', 1.0, 3)}, AMUN's gap "
            f"{change('gap_amun', 100.0, 2)} points"
        )
    return found


def _answer(results: Mapping[str, Any]) -> str:
    rows = [row for row in results["tables"]["kinds"] if row["gap_amun"] is not None]
    if not rows:
        verdict = "No gap of AMUN could be measured"
    else:
        best = min(rows, key=lambda row: row["gap_amun"])
        verdict = (
            f"AMUN came nearest to retraining on models with {NORMS[best['norm']]}, clipped at "
            f"{clip_words(best['clip'])}: {100 * best['gap_amun']:.2f} points"
        )
        verdict = verdict.replace("with no norm", "without batch-norm").replace(
            "clipped at none", "not clipped"
        )
    lines = "".join(
        f"<li>{escape(text[0].upper() + text[1:])}.</li>" for text in [*sentences(results), *remarks(results)]
    )
    return f"<section class=answer><p class=verdict>{escape(verdict)}</p><ul>{lines}</ul></section>"


def _terms(results: Mapping[str, Any]) -> dict[str, str]:
    study = results["study"]
    return {
        "Largest layer norm": "operator norm of the layer as the linear map that it is, stride and padding included, "
        "measured after training; with batch-norm, composed with the one behind it in eval mode.",
        "Lipschitz bound": "product of the layers' norms, with batch-norm where there is one, for normalised images in "
        "ℓ2: a bound, usually far above the true constant.",
        "Robust %": f"test images that are right and stay so under PGD ({study['robust']}).",
        "Transfer %": "of the test images that two models of a kind have right and PGD on one flips "
        f"({study['transfer']}), those that the other gives a wrong label too; same label: the very one. Attack's "
        "success: of those that the attacked model had right, how many it flips.",
        "δ of neighbours": "mean distance, in units of a pixel's range, from forgotten images to AMUN's adversarial "
        "neighbours, without images that were misclassified to begin with.",
        "Failed": "models whose training diverged, or that are right at most twice as often as chance on the retained "
        "images; they are left out of the means, and so is a gap to a retrained model that failed.",
        "Gaps": "mean absolute difference from the retrained model of the same kind over forget, retain and test "
        "accuracy and the AUC of the loss attack, in percentage points; two retrainings: the noise floor.",
    }
