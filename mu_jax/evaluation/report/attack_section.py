"""The part of a page that is about membership attacks: the answer, tables, figures, and what their words mean."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import numpy as np

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.attack_answer import attack_answer, in_words, level
from mu_jax.evaluation.report.attack_data import AttackReportData, by_strength
from mu_jax.evaluation.report.attack_figures import FEW_TARGETS, attack_roc, attack_scores, attack_styles
from mu_jax.evaluation.report.attack_gallery import exposed_images, exposure_tables
from mu_jax.evaluation.report.attack_tables import (
    FEW_FALSE_POSITIVES,
    Row,
    attack_table,
    detail_table,
    learned_on,
    operating_table,
    short_name,
    transfer_table,
)
from mu_jax.evaluation.report.tables import count

SHOWN_TABLES = ("attacks", "exposed", "impossible_attacks")
"""Names in `results["tables"]` of what these sections show in their own way; a page prints only the other tables."""


def attack_figure_drawings(data: AttackReportData) -> dict[str, Callable[[], bytes]]:
    """What draws each figure, by its file's name; images of exposed examples only where there are any."""
    drawings = {"attack_roc": attack_roc, "attack_scores": attack_scores}
    if data.images is not None and np.any(~np.isnan(data.exposure)):
        drawings["attack_exposed"] = exposed_images
    return {name: functools.partial(draw, data) for name, draw in drawings.items()}


def attack_sections(
    data: AttackReportData, images: Mapping[str, bytes], impossible: Sequence[Row] = ()
) -> list[str]:
    """The HTML of the attacks, from the answer on; `images` holds the PNG bytes of each drawing by its name.

    `impossible`: the forms of attacks that were left out, each with its `reason`.
    """
    rows = [attack.row for attack in by_strength(data.attacks)]
    learned_from = learned_on(rows, len(data.is_member))
    table = functools.partial(html.table, styles=attack_styles(data))
    learned = transfer_table(rows)
    verdict, *details = attack_answer(rows)
    listed = "".join(f"<li>{escape(detail)}</li>" for detail in details)
    return [
        f"<section class=answer><p class=verdict>{escape(verdict)}</p>{f'<ul>{listed}</ul>' if listed else ''}"
        "</section>",
        "<section><h2>Attacks</h2>",
        table(attack_table(rows)),
        html.notes(_terms(data, rows)),
        *left_out(impossible),
        "</section>",
        html.figure("attack_roc", "ROC curves", _roc_caption(data), images["attack_roc"]),
        html.figure(
            "attack_scores",
            "Scores of members and non-members",
            _score_caption(data),
            images["attack_scores"],
        ),
        *_exposure(data, images),
        "<section><h2>Attacks, further numbers</h2>",
        "<h3>True-positive rates with their intervals</h3>",
        table(operating_table(rows)),
        *(
            []
            if learned is None
            else [
                f"<h3>With thresholds learned on {escape(learned_from)}</h3>",
                table(learned),
                "<p class=note>An attacker cannot see whom the target was trained on. Such a threshold is learned on "
                f"{escape(learned_from)}, so it meets the false-positive rate asked for only on average; in "
                "parentheses the rate that it had and how many false positives (FP) that was.</p>",
            ]
        ),
        "<h3>From target to target</h3>",
        table(detail_table(rows)),
        "<p class=note>The best threshold is judged by the scores it was chosen on, "
        "so it is optimistic. Advantage is the true-positive rate minus the false-positive rate, by thresholds learned "
        f"on {escape(learned_from)}. In the SD lies the chance of training and of who is a member together."
        "</p></section>",
    ]


def attacks_in_brief(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """The HTML of the attacks where `results["tables"]` is all that there is of them; empty where it holds none."""
    rows, impossible = tables.get("attacks") or (), tables.get("impossible_attacks") or ()
    if not rows and not impossible:
        return []
    shown = [html.table(attack_table(rows))] if rows else []
    return ["<section><h2>Attacks</h2>", *shown, *left_out(impossible), "</section>"]


def left_out(impossible: Iterable[Row]) -> list[str]:
    """A note on the attacks that the signals do not allow, a paragraph for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in impossible:
        reasons.setdefault(str(row.get("reason") or "no reason was given."), []).append(short_name(row))
    return [
        f"<p class=note>Left out: {escape('; '.join(names))}: {escape(reason)}</p>"
        for reason, names in reasons.items()
    ]


def _terms(data: AttackReportData, rows: Sequence[Row]) -> dict[str, str]:
    targets, examples = data.is_member.shape
    members = int(data.is_member.sum())
    nonmembers = data.is_member.size - members
    learned = f"learned on {learned_on(rows, targets)}"
    chance = (
        "the targets and the examples" if targets > 1 else "the examples; the one target is taken as it is"
    )
    terms = {
        "Pooled": f"all figures are taken over the pairs of {_targets(targets)} and {count(examples)} examples: "
        f"{count(members)} in which the target trained on the example and {count(nonmembers)} in which it did not.",
        "AUC": "chance that of a member and a non-member the member has the higher score; 50% is a guess. Below 50% "
        "leaks too: an attacker only has to turn the answer round.",
        "Brackets [ ]": f"{100 * level(rows):g}% intervals; they resample {chance}.",
        "TPR at an FPR": "share of the members found when at most that share of the non-members may be called members "
        "wrongly. A guess finds as many percent as it may call wrongly. Beneath stands how many were, the false "
        f"positives (FP): below {FEW_FALSE_POSITIVES} a rate is a rough figure. The threshold is the best for these "
        "very pairs.",
        "Balanced accuracy": "share of right answers if members and non-members were equally many, by a threshold "
        f"{learned}; 50% is a guess.",
    }
    if any(row.get("ppv") for row in rows):
        terms["PPV"] = (
            "of the examples called members at that false-positive rate, the share that are, where members make up "
            "1%, 10% or 50% (the prior) of all that the attacker looks at. An attack may look strong at 50% and be "
            "mostly wrong at 1%."
        )
        terms["PPV"] += (
            " The threshold is the best for these very pairs."
            if transfer_table(rows) is None
            else f" It is that of a threshold {learned}, where there is one."
        )
        terms["PPV"] += (
            " – stands where it has no false positive: the share would be 100% whatever the prior, on no evidence. "
            f"Below {FEW_FALSE_POSITIVES} false positives the share is a rough figure and begins with ~."
        )
    return terms


def _roc_caption(data: AttackReportData) -> str:
    if len(data.is_member) >= FEW_TARGETS:
        bands = (
            "bands span the middle 90% of the curves of single targets, each of which is flat where it has no false "
            "positive yet"
        )
    else:
        bands = "bands are pointwise 95% intervals of the true-positive rate, from its count of members alone"
    return (
        f"Pooled over {_targets(len(data.is_member))}; {bands}. The logarithmic axes show what an attacker can do who "
        "must be nearly sure. Where the ground is gray, less than one false positive would be allowed: nothing is "
        "measured there but the members that score above every non-member."
    )


def _score_caption(data: AttackReportData) -> str:
    return (
        f"The attack {in_words(data.attacks[0].row)}, over {_targets(len(data.is_member))}. What it can use is how far "
        "the filled histogram lies to the right of the outline. The outermost 0.1% at each end, and infinite scores, "
        "are counted in the end bins."
    )


def _exposure(data: AttackReportData, images: Mapping[str, bytes]) -> list[str]:
    """The most and the least exposed examples, with what exposure is."""
    heading = "Most and least exposed examples"
    known = int(np.sum(~np.isnan(data.exposure)))
    if not known:
        text = "No example is both in one target and out of another, so none has an exposure."
        return [f"<section><h2>{heading}</h2><p class=note>{text}</p></section>"]
    caption = _exposure_caption(data, known)
    if "attack_exposed" in images:
        return [html.figure("attack_exposed", heading, caption, images["attack_exposed"])]
    titles = ("Most exposed", "Least exposed")
    columns = (
        f"<div><h3>{title}</h3>{html.table(table)}</div>"
        for title, table in zip(titles, exposure_tables(data), strict=True)
        if table[1]
    )
    return [
        f"<section><h2>{heading}</h2><div class=columns>",
        *columns,
        f"</div><p class=note>{escape(caption)}</p></section>",
    ]


def _exposure_caption(data: AttackReportData, known: int) -> str:
    row = data.attacks[0].row
    tied = int(np.sum(data.exposure == np.nanmax(data.exposure)))
    text = (
        f"Exposure says how far training on an example lifts its score by the attack {in_words(row)}: its mean rank "
        "among the non-members of targets that trained on it, from 0 (lowest) to 1, less that of targets that did not. "
        "At 1 it goes from the lowest to the highest, at 0 training on it changes nothing, and below 0 it sinks. These "
        f"are the extremes of {known:,} examples over {_targets(len(data.is_member))}, so chance has put some here."
    )
    if tied > 1:
        text += f" The highest exposure is shared by {tied:,}; they stand in order of their index."
    stability = row.get("stability") or {}
    rank = stability.get("rank_correlation")
    overlap = stability.get("top_jaccard", stability.get("top_overlap"))
    if rank is not None:
        text += (
            f" How stable that is: between exposures by two halves of the targets the rank correlation is {rank:.2f} "
            "(1: the same order, 0: none in common)."
        )
    if overlap is not None:
        text += f" Of the examples that are among the most exposed of either half, {100 * overlap:.0f}% are in both."
    return text


def _targets(number: int) -> str:
    return f"{number:,} target{'' if number == 1 else 's'}"
