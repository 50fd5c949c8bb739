"""How strong the attack on pairs is by scenario, and under defences, against what these leave of the models' use.

Each function returns a figure; draw it within `drawing()`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mu_jax.evaluation.report.class_tables import known, short_name
from mu_jax.evaluation.report.drawing import WIDTH, printable
from mu_jax.evaluation.report.leaks_rows import (
    arm_labels,
    base_labels,
    bounds,
    by_defense,
    chosen_rows,
    defense_words,
    headline_rows,
    scenario_words,
    scenarios,
    strongest,
)
from mu_jax.evaluation.report.palette import Style, model_styles

Row = Mapping[str, Any]

MOST_ARMS, MOST_BASES = 12, 3
"""Lines of the scenarios' figure, and rows of panels of the defences', that can be told apart."""
_GUESS = {"color": "#888888", "linewidth": 1.1, "linestyle": (0, (1, 2)), "zorder": 1}
_MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")
# What is drawn, its scale, and the least range of the axis: most defences leave the accuracy as it is.
_PANELS = (
    ("test_accuracy", "test accuracy, %", 100.0, 5.0),
    ("brier", "Brier score (lower is better)", 1.0, 0.1),
)


def scenarios_figure(results: Row) -> Figure:
    """AUC with its interval, a column a scenario and size, a colour an arm; sizes of one scenario are joined."""
    rows, labels = chosen_rows(results, defense="none"), arm_labels(results)
    first = strongest([row for row in headline_rows(results) if row["defense"] == "none"], MOST_ARMS)
    arms = [row["arm"] for row in first]
    cases = sorted(scenarios(results), key=lambda case: _order(results, *case))
    places = {case: float(place) for place, case in enumerate(cases)}
    # Styles by order: an arm called `original` must not take the colour of original models.
    styles = model_styles(f"arm {arm}" for arm in arms)
    shifts = np.linspace(-0.3, 0.3, len(arms)) if len(arms) > 1 else np.zeros(1)
    figure = Figure(figsize=(WIDTH, 4.3 + 0.22 * -(-len(arms) // 2)), layout="constrained")
    axes = figure.subplots()
    axes.axhline(50, **_GUESS)
    for arm, shift, number in zip(arms, shifts, range(len(arms)), strict=True):
        style = styles[f"arm {arm}"]
        mine = {(row["scenario"], row["size"]): row for row in rows if row["arm"] == arm}
        label = short_name(printable(labels[arm], 120), 60)
        for kind in dict.fromkeys(kind for kind, _ in cases):
            points = [
                (places[case] + shift, mine[case])
                for case in cases
                if case[0] == kind and case in mine and known(mine[case].get("auc")) is not None
            ]
            if points:
                _joined(axes, points, style, _MARKERS[number % len(_MARKERS)], label)
                label = None
    axes.set_xticks(range(len(cases)), [scenario_words(*case) for case in cases])
    if len(cases) > 6:
        axes.tick_params(axis="x", labelrotation=25)
    for edge in range(len(cases) - 1):
        axes.axvline(edge + 0.5, color="#e6e6e6", linewidth=0.7, zorder=0)
    axes.grid(False, axis="x")
    axes.set(xlim=(-0.5, len(cases) - 0.5), ylabel="AUC of the attack on pairs, %")
    _key(figure, 2)
    return figure


def has_defenses(results: Row) -> bool:
    """Whether a base stands without a defence and with one."""
    return any("none" in rows and len(rows) > 1 for rows in by_defense(results).values())


def defenses_figure(results: Row) -> Figure:
    """AUC against test accuracy and against the Brier score; a point a defence, of one kind joined from `none` on."""
    groups = {base: rows for base, rows in by_defense(results).items() if len(rows) > 1}
    shown, labels = list(groups)[:MOST_BASES], base_labels(results)
    names = list(dict.fromkeys(name for base in shown for name in groups[base]))
    kinds = list(dict.fromkeys(_kind(name) for name in names if name != "none"))
    colors = model_styles(kinds)
    figure = Figure(
        figsize=(WIDTH, 3.6 * len(shown) + 0.6 + 0.22 * -(-len(names) // 4)), layout="constrained"
    )
    panels = figure.subplots(len(shown), len(_PANELS), squeeze=False, sharey="row")
    told: set[str] = set()
    for line, base in zip(panels, shown, strict=True):
        rows = groups[base]
        for axes, (key, title, scale, least) in zip(line, _PANELS, strict=True):
            axes.axhline(50, **_GUESS)
            places = _places(rows, [name for name in names if name in rows], key, scale, least)
            for kind in kinds:
                joined = [name for name in places if name == "none" or _kind(name) == kind]
                points = [(places[name], 100 * rows[name]["auc"]) for name in joined]
                axes.plot(
                    *zip(*points, strict=True), color=colors[kind].color, linewidth=0.9, alpha=0.6, zorder=2
                )
            for name, at in places.items():
                _point(axes, at, rows[name], _look(name, names, colors), name not in told)
                told.add(name)
            if places:
                low, high = min(places.values()), max(places.values())
                air = max(0.05 * (high - low), (least - (high - low)) / 2)
                axes.set_xlim(low - air, high + air)
            axes.set_xlabel(title)
        line[0].set_ylabel("AUC of the attack on pairs, %")
        line[0].set_title(
            short_name(printable(labels.get(base, base[0]), 120), 60), loc="left", parse_math=False
        )
    _key(figure, 4)
    return figure


def _joined(
    axes: Axes, points: Sequence[tuple[float, Row]], style: Style, marker: str, label: str | None
) -> None:
    for at, row in points:
        interval = bounds(row, "auc")
        if interval is not None:
            axes.plot([at, at], [100 * end for end in interval], color=style.color, linewidth=1.1, zorder=2)
    look = {"color": style.color, "linestyle": style.line, "linewidth": 1.0, "zorder": 3}
    x, y = [at for at, _ in points], [100 * row["auc"] for _, row in points]
    axes.plot(x, y, marker=marker, markersize=6, label=label, **look)


def _places(
    rows: Mapping[str, Row], names: Sequence[str], key: str, scale: float, least: float
) -> dict[str, float]:
    """Where each defence with figures stands on the axis of use; those of equal use side by side."""
    values = {
        name: scale * rows[name][key]
        for name in names
        if known(rows[name].get(key)) is not None and known(rows[name].get("auc")) is not None
    }
    step = 0.018 * max(max(values.values()) - min(values.values()), least) if values else 0.0
    found = {}
    for name, value in values.items():
        alike = [other for other, at in values.items() if at == value]
        found[name] = value + step * (alike.index(name) - (len(alike) - 1) / 2)
    return found


def _point(axes: Axes, at: float, row: Row, look: Mapping[str, Any], named: bool) -> None:
    interval = bounds(row, "auc")
    if interval is not None:
        axes.plot([at, at], [100 * end for end in interval], color=look["color"], linewidth=1.0, zorder=2)
    label = defense_words(row["defense"]) if named else None
    axes.plot(at, 100 * row["auc"], markersize=7, linestyle="none", zorder=4, label=label, **look)


def _look(name: str, names: Sequence[str], colors: Mapping[str, Style]) -> dict[str, Any]:
    if name == "none":
        return {"color": "#222222", "marker": "D"}
    alike = [one for one in names if _kind(one) == _kind(name)]
    return {"color": colors[_kind(name)].color, "marker": _MARKERS[alike.index(name) % len(_MARKERS)]}


def _kind(defense: str) -> str:
    return " + ".join(name.partition(":")[0] for name in defense.split(" + "))


def _order(results: Row, kind: str, size: int) -> tuple[int, int]:
    kinds = list(dict.fromkeys(kind for kind, _ in scenarios(results)))
    return kinds.index(kind), size


def _key(figure: Figure, columns: int) -> None:
    for text in figure.legend(loc="outside lower center", ncols=columns).get_texts():
        text.set_parse_math(False)
