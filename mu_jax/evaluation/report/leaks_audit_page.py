"""The page of an audit of a deletion: what two models say of the same examples, and who was deleted by it."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.attack_data import AttackReportData, AttackScores
from mu_jax.evaluation.report.attack_figures import attack_roc
from mu_jax.evaluation.report.tables import MISSING, Table, percent
from mu_jax.evaluation.roc import auc

Row = Mapping[str, Any]

OFTEN_TIED = 0.05
"""Of the examples that were never learned; from here on ties are worth a warning."""

_SHORT = {"logistic regression": "logistic", "decision tree": "tree", "random forest": "forest"}


@dataclasses.dataclass(frozen=True, eq=False)
class PairScores:
    """What the ROC figure is drawn of."""

    deleted: Bool[np.ndarray, "M"]
    pair: Mapping[tuple[str, str], Float64[np.ndarray, "M"]]
    """Confidences by feature and classifier."""
    classical: Float64[np.ndarray, "M"]


def write_leaks_audit_report(
    directory: pathlib.Path, results: Mapping[str, Any], config: Mapping[str, Any], scores: PairScores | None
) -> pathlib.Path:
    """Write `figures/roc.png`, where the truth is known, and then `report.html` in `directory`; the page's path."""
    drawings = {} if scores is None else {"roc": functools.partial(roc_figure, results, scores)}
    return html.write_page(directory, drawings, functools.partial(render_leaks_audit_page, results, config))


def roc_figure(results: Mapping[str, Any], scores: PairScores) -> bytes:
    """ROC curves of pair attacks and of the attack on the first model alone."""
    rows = {(row["feature"], row["classifier"]): row for row in results["tables"]["leaks"]}
    attacks = [
        AttackScores(
            {"attack": "pair: " + ", ".join(attack_words(rows[key])), "auc": rows[key]["auc"]}, one[None]
        )
        for key, one in scores.pair.items()
    ]
    first = results["tables"]["leaks"][0]
    area = auc(scores.classical, scores.deleted)
    name = f"before alone: {attack_words(first)[1]}"
    attacks.append(AttackScores({"attack": name, "auc": area}, scores.classical[None]))
    number = scores.deleted.size
    return attack_roc(
        AttackReportData(attacks, scores.deleted[None], np.full(number, np.nan), np.arange(number))
    )


def attack_words(row: Row) -> tuple[str, str]:
    """Feature and classifier in words."""
    return row["feature"].replace("_", " "), row["classifier"].replace("_", " ")


def leaks_audit_table(results: Mapping[str, Any], compact: bool = False) -> Table:
    """A row an attack, the chosen one first; without the target's truth, what can be said without it.

    `compact` leaves out what does not fit a terminal of 120 columns.
    """
    rows = results["tables"]["leaks"]
    if "auc" not in rows[0]:
        header = ["Feature", "Classifier", "Shadow AUC %", "Called deleted %", "Ties %"]
        return header, [
            [
                *attack_words(row),
                percent(row["selection_auc"]),
                percent(row["called_deleted"]),
                percent(row["ties"]["all"]),
            ]
            for row in rows
        ]
    rate = _shown_rate(results)
    alone = "Before %" if compact else "Before alone %"
    header = ["Feature", "Classifier", "AUC %", alone, "Gain pp", "DegCount %", "DegRate pp"]
    if rate:
        header.append(("TPR@{0:g}%" if compact else "TPR % at {0:g}% FPR").format(100 * float(rate)))
    if not compact:
        header += ["Accuracy %", "Before alone, accuracy %"]
    header.append("New %" if compact else "Newly exposed %")
    if not compact:
        header += ["Ties %: deleted", "never", "Shadow AUC %"]
    return header, [_cells(row, rate, compact) for row in rows]


def verdict(results: Mapping[str, Any]) -> str:
    """What was found, in one sentence."""
    row = results["tables"]["leaks"][0]
    words = ", ".join(attack_words(row))
    if "auc" not in row:
        return (
            f"The file does not say who was deleted; {words}, chosen on the shadow pairs (AUC "
            f"{percent(row['selection_auc'])}%), calls {percent(row['called_deleted'])}% of the target's "
            "examples deleted"
        )
    low, high = row["interval"]["auc_gain"]
    says = "helps" if low > 0 else "does harm" if high < 0 else "neither helps nor harms for certain"
    return (
        f"The pair of models gives deleted examples away with an AUC of {percent(row['auc'], row['interval']['auc'])}% "
        f"({words}, chosen on the shadow pairs), the first model alone with {percent(row['classical_auc'])}%: the "
        f"second answer {says} ({points(row['auc_gain'], row['interval']['auc_gain'])} points)"
    )


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the figures; empty where nothing is odd."""
    found, row = [], results["tables"]["leaks"][0]
    ties = row["ties"]
    if ties.get("never", 0.0) > OFTEN_TIED:
        found.append(
            f"{percent(ties['never'])}% of the examples that were never learned, and {percent(ties['deleted'])}% of "
            "the deleted ones, have exactly the same posteriors before and after: attacks by differences are stronger "
            "for it than they would be on models whose answers always move."
        )
    if row.get("resampled") == "pairs" and row["originals"] > 1:
        found.append(
            "All deleted examples, or all others, are of one original model: intervals resample pairs and say nothing "
            "of other models."
        )
    elif row.get("originals") == 1:
        found.append("All pairs are of one original model: intervals are of attacks on this model alone.")
    return found


def render_leaks_audit_page(
    results: Mapping[str, Any], config: Mapping[str, Any], images: Mapping[str, bytes]
) -> str:
    """The page as HTML, with the figure's PNG bytes embedded."""
    facts = results["data"]
    where = (
        f"{facts['name']} · {facts['classes']} classes · {facts['shadow_pairs']:,} shadow pairs · "
        f"{facts['target_pairs']:,} target pairs"
    )
    rest = "".join(f"<li>{escape(line)}</li>" for line in remarks(results))
    body = [
        *html.header("Audit of a deletion", where, results["question"]),
        f"<section class=answer><p class=verdict>{escape(verdict(results))}.</p><ul>{rest}</ul></section>",
        "<section><h2>Attacks</h2>",
        html.table(_named_by_both(leaks_audit_table(results))),
        html.notes(_terms(results)),
        "</section>",
    ]
    if "roc" in images:
        caption = (
            "Of each classifier the feature that does best on the shadow pairs, and the attack on the first model "
            "alone. Bands are 95% intervals of the true-positive rate that count pairs as independent."
        )
        body.append(html.figure("roc", "The pair beside the first model alone", caption, images["roc"]))
    shown = {key: MISSING if value is None else value for key, value in facts.items() if key != "shadow_ties"}
    body += html.setting({"Data": shown, "Environment": results["environment"]}, config)
    return html.page("Audit of a deletion", str(facts["name"]), body)


def points(value: float, bounds: Sequence[float] | None = None) -> str:
    """A difference of fractions in signed percentage points with one decimal, and its interval."""
    text = _signed(value)
    return text if bounds is None else f"{text} [{', '.join(map(_signed, bounds))}]"


def _signed(value: float) -> str:
    text = percent(abs(value))
    return text if text == "0.0" else f"{'−' if value < 0 else '+'}{text}"


def _shown_rate(results: Mapping[str, Any]) -> str | None:
    """The lowest FPR of 1% or more; the highest where there is none such, None where none was asked for."""
    rates = sorted(results["tables"]["leaks"][0]["tpr_at_fpr"], key=float)
    return next((rate for rate in rates if float(rate) >= 0.01), rates[-1] if rates else None)


def _cells(row: Row, rate: str | None, compact: bool) -> list[str]:
    bounds = row["interval"]
    of = (lambda name: None) if compact else bounds.get
    feature, classifier = attack_words(row)
    cells = [
        feature,
        _SHORT.get(classifier, classifier) if compact else classifier,
        percent(row["auc"], bounds["auc"]),
        percent(row["classical_auc"], of("classical_auc")),
        points(row["auc_gain"], of("auc_gain")),
        percent(row["deg_count"], of("deg_count")),
        points(row["deg_rate"], of("deg_rate")),
    ]
    if rate:
        cells.append(percent(row["tpr_at_fpr"][rate], None if compact else bounds["tpr_at_fpr"][rate]))
    if not compact:
        cells += [
            percent(row["accuracy"], bounds["accuracy"]),
            percent(row["classical_accuracy"], bounds["classical_accuracy"]),
        ]
    cells.append(percent(row["newly_exposed"], of("newly_exposed")))
    if not compact:
        cells += [
            percent(row["ties"]["deleted"]),
            percent(row["ties"]["never"]),
            percent(row["selection_auc"]),
        ]
    return cells


def _named_by_both(content: Table) -> Table:
    """The page's tables are named by their first column alone."""
    header, rows = content
    return ["Attack", *header[2:]], [
        [f"{feature}, {classifier}", *rest] for feature, classifier, *rest in rows
    ]


def _terms(results: Mapping[str, Any]) -> dict[str, str]:
    terms = {
        "Shadow AUC": "on shadow pairs that the classifier had not learned on, the mean over two halves; the attack "
        "with the highest one stands first, so that the target had no say in the choice.",
        "Ties": "pairs whose posteriors before and after are equal to the bit.",
    }
    if "auc" not in results["tables"]["leaks"][0]:
        return terms | {"Called deleted": "with a confidence above ½."}
    level = 100 * results["study"]["interval_level"]
    return {
        "AUC": "the probability that the attack on the pair gives a deleted example a higher confidence than one that "
        "neither model learned; 50% is a guess.",
        "Before alone": "the same classifier on the posteriors of the first model.",
        "Gain": "the difference of the two AUCs, in percentage points.",
        "DegCount": "share of examples of whose true answer the attack on the pair is surer than that on the first "
        "model.",
        "DegRate": "by how much it is surer, on average, in percentage points.",
        "TPR": "share of deleted examples found where at most so many of the others are taken for deleted.",
        "Newly exposed": "share of deleted examples that only the attack on the pair calls deleted.",
        "In brackets": f"{level:g}% intervals over {results['tables']['leaks'][0]['resampled']}, by a bootstrap.",
        **terms,
    }
