"""The attack on pairs of models beside the classical one: ROC curves, feature constructions, and overfitting.

Each function returns a figure; draw it within `drawing()`.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mu_jax.evaluation.report.class_tables import known, short_name
from mu_jax.evaluation.report.drawing import WIDTH, printable
from mu_jax.evaluation.report.leaks_rows import (
    FEATURES,
    arm_labels,
    best_of,
    bounds,
    feature_words,
    overfitting,
    plain_rows,
    strongest,
)
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.evaluation.report.tables import percent

Row = Mapping[str, Any]

MOST_CURVES, MOST_ARMS = 6, 16
"""Panels of ROC curves, and rows of the features' figure, that a page has room for."""
PAIR, CLASSICAL = "#0072b2", "#222222"
_COLUMNS = 3
_GUESS = {"color": "#888888", "linewidth": 1.1, "linestyle": (0, (1, 2)), "zorder": 1}
_MARKERS = ("o", "s", "^", "D", "v")


def curves_of(results: Row) -> dict[str, dict[str, Row]]:
    """`pair` and `classical` ROC of the undefended arms on the headline scenario, by arm; of the strongest ones."""
    shown = {(row["arm"], row["defense"]) for row in strongest(plain_rows(results), MOST_CURVES)}
    found: dict[str, dict[str, Row]] = {}
    for row in results["tables"].get("roc") or []:
        if (row["arm"], row["defense"]) in shown:
            found.setdefault(row["arm"], {})[row["attack"]] = row
    return found


def roc_figure(results: Row) -> Figure:
    """A panel an arm: the chosen attack on pairs, the classical one with the same classifier, and a guess."""
    curves, labels = curves_of(results), arm_labels(results)
    rows = {row["arm"]: row for row in plain_rows(results)}
    columns = min(len(curves), _COLUMNS)
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(WIDTH, 3.65 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    looks = (
        ("pair", PAIR, "-", "auc", "pairs"),
        ("classical", CLASSICAL, (0, (4, 2)), "classical_auc", "classical"),
    )
    for axes, (arm, mine) in zip(panels, curves.items(), strict=False):
        axes.plot([0, 100], [0, 100], **_GUESS)
        for attack, color, line, key, words in looks:
            if attack in mine:
                x, y = (100 * np.asarray(mine[attack][rate], float) for rate in ("fpr", "tpr"))
                name = f"{words}: {percent(rows[arm].get(key), bounds(rows[arm], key))}"
                axes.plot(x, y, color=color, linestyle=line, label=name, zorder=3 if attack == "pair" else 2)
        axes.set(xlim=(-1, 101), ylim=(-1, 101), box_aspect=1)
        axes.set_title(textwrap.fill(_fit(labels[arm], 76), 40), parse_math=False, fontsize=9)
        axes.legend(loc="lower right", fontsize=8, title="AUC, %", title_fontsize=8)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    for place in range(len(curves)):
        if place % columns == 0:
            panels[place].set_ylabel("deleted members found, %")
        if place + columns >= len(curves):
            panels[place].set_xlabel("never-members called members, %")
            panels[place].tick_params(labelbottom=True)
    return figure


def features_figure(results: Row) -> Figure:
    """AUC of each feature construction, a row an arm; its classifier is the one that did best on shadow pairs."""
    rows, labels = strongest(plain_rows(results), MOST_ARMS), arm_labels(results)
    kinds = [kind for kind in FEATURES if any(row["feature"] == kind for row in results["tables"]["leaks"])]
    styles = model_styles(kinds)
    figure = Figure(figsize=(WIDTH, 0.62 * len(rows) + 1.7), layout="constrained")
    axes = figure.subplots()
    axes.axvline(50, **_GUESS)
    shifts = np.linspace(-0.3, 0.3, len(kinds)) if len(kinds) > 1 else np.zeros(1)
    for place, row in enumerate(rows):
        classical = known(row.get("classical_auc"))
        if classical is not None:
            axes.plot(
                [100 * classical] * 2, [place - 0.4, place + 0.4], color=CLASSICAL, linewidth=1.4, zorder=2
            )
        for kind, shift, marker in zip(kinds, shifts, _MARKERS, strict=False):
            best = _best_with(results, row, kind)
            if best is None or known(best.get("auc")) is None:
                continue
            look = {"color": styles[kind].color, "zorder": 3}
            interval = bounds(best, "auc")
            if interval is not None:
                axes.plot([100 * end for end in interval], [place + shift] * 2, linewidth=1.1, **look)
            filled = "full" if kind == row["feature"] else "none"
            axes.plot(
                100 * best["auc"], place + shift, marker=marker, markersize=6.5, fillstyle=filled, **look
            )
    axes.set_yticks(range(len(rows)), [_fit(labels[row["arm"]], 48) for row in rows])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="AUC of the attack on pairs, %")
    axes.grid(False, axis="y")
    handles = [
        Line2D([], [], color=styles[kind].color, marker=marker, linestyle="none", label=feature_words(kind))
        for kind, marker in zip(kinds, _MARKERS, strict=False)
    ]
    handles.append(
        Line2D([], [], color=CLASSICAL, marker="|", markersize=11, linestyle="none", label="classical")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure


def has_overfitting(results: Row) -> bool:
    """Whether undefended arms differ in how much they overfit."""
    return len(set(_gaps(results).values())) > 1


def overfitting_figure(results: Row) -> Figure:
    """DegRate, and both attacks' AUC, against training less test accuracy of the originals; a point an arm."""
    gaps = _gaps(results)
    rows = sorted(
        (row for row in plain_rows(results) if row["arm"] in gaps), key=lambda row: gaps[row["arm"]]
    )
    ways = list(dict.fromkeys(_way(row) for row in rows))
    styles = model_styles(f"way {way}" for way in ways)
    aside = 1.2 * (max(gaps.values()) - min(gaps.values()))  # 1.2% of the range, in pp
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(0, **_GUESS)
    right.axhline(50, **_GUESS)
    for place, way in enumerate(ways):
        mine = [row for row in rows if _way(row) == way]
        # Ways to delete have their originals in common, and would hide one another.
        x = [100 * gaps[row["arm"]] + aside * (place - (len(ways) - 1) / 2) for row in mine]
        look = {"color": styles[f"way {way}"].color, "marker": _MARKERS[place % len(_MARKERS)]}
        _line(left, x, mine, "deg_rate", look | {"label": printable(way, 40)})
        _line(right, x, mine, "auc", look)
        classical = [
            np.nan if known(row.get("classical_auc")) is None else 100 * row["classical_auc"] for row in mine
        ]
        right.plot(x, classical, fillstyle="none", linestyle=":", linewidth=1.0, markersize=6, **look)
    left.set(title="DegRate: surer of the truth by", ylabel="percentage points")
    right.set(title="AUC: of pairs (filled), classical (hollow)", ylabel="%")
    for axes in (left, right):
        axes.set_xlabel("training less test accuracy of the originals, pp")
    key = figure.legend(loc="outside lower center", ncols=4)
    for text in key.get_texts():
        text.set_parse_math(False)
    return figure


def _line(axes: Axes, x: Sequence[float], rows: Sequence[Row], key: str, look: Mapping[str, Any]) -> None:
    """Points with their intervals, joined in the order of x."""
    kept = [(at, row) for at, row in zip(x, rows, strict=True) if known(row.get(key)) is not None]
    for at, row in kept:
        interval = bounds(row, key)
        if interval is not None:
            axes.plot([at, at], [100 * end for end in interval], color=look["color"], linewidth=1.1, zorder=2)
    axes.plot(
        [at for at, _ in kept],
        [100 * row[key] for _, row in kept],
        linewidth=1.2,
        markersize=6,
        zorder=3,
        **look,
    )


def _gaps(results: Row) -> dict[str, float]:
    found = {row["arm"]: overfitting(results, row["arm"]) for row in plain_rows(results)}
    return {arm: gap for arm, gap in found.items() if gap is not None}


def _way(row: Row) -> str:
    return row["method"] + (", shared start" if row["shares_start"] else "")


def _best_with(results: Row, row: Row, feature: str) -> Row | None:
    facts = ("arm", "defense", "scenario", "size")
    mine = [
        one
        for one in results["tables"]["leaks"]
        if one["feature"] == feature and all(one[key] == row[key] for key in facts)
    ]
    return best_of(mine) or next((one for one in mine if one["classifier"] == row["classifier"]), None)


def _fit(label: str, length: int) -> str:
    return short_name(printable(label, 120), length)
