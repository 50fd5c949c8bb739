"""What MIA-NN and U-LiRA make of each model, beside retrained models.

Each function returns a figure; draw it within `drawing()`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mu_jax.evaluation.report.class_heat_maps import MOST_PANELS
from mu_jax.evaluation.report.class_tables import (
    KINDS,
    class_rows,
    in_order,
    kind_of,
    known,
    row_styles,
    short_name,
)
from mu_jax.evaluation.report.drawing import WIDTH, printable

Row = Mapping[str, Any]

_MARKERS = {"retrain": "D", "tilted": "o", "other": "^", "original": "s"}
_BAND = "#222222"
_LIKE = {"linewidth": 1.2, "zorder": 2}


def nearest_neighbour_figure(results: Row) -> Figure:
    """MIA-NN's accuracy on each model, a row a model row; the band is the retrained models' mean ± sd.

    Up to `MOST_PANELS` classes have a panel each, with a point a model. Of more, there is one panel: each class's mean
    accuracy less the retrained models', in percentage points.
    """
    return _strips(
        results,
        _accuracies,
        _leaks,
        "SVM's accuracy on test images, %",
        "accuracy less retrained models', pp",
    )


def ulira_figure(results: Row) -> Figure:
    """U-LiRA's AUC of each model row with its interval, beside ½; of more than `MOST_PANELS` classes, a point each."""
    return _strips(results, _areas, _all_areas, "U-LiRA's AUC, %", "U-LiRA's AUC, %")


def _strips(
    results: Row,
    of_class: Callable[[Axes, Row, int, Mapping[str, int]], None],
    of_all: Callable[[Axes, Row, Mapping[str, int]], None],
    label: str,
    label_of_all: str,
) -> Figure:
    """Rows of points: a panel a class, or one panel of all classes where they are many."""
    classes = results["study"]["classes"]
    present = {row["model"] for row in results["tables"]["classes"]}
    names = [name for name in in_order(results["models"]) if name in present]
    places = {name: i for i, name in enumerate(names)}
    number = len(classes) if len(classes) <= MOST_PANELS else 1
    figure = Figure(figsize=(WIDTH, 0.3 * len(names) + 1.6), layout="constrained")
    panels = figure.subplots(1, number, sharey=True, squeeze=False)[0]
    if number == len(classes):
        for axes, forgotten in zip(panels, classes, strict=True):
            of_class(axes, results, forgotten, places)
            axes.set_xlabel(label)
    else:
        of_all(panels[0], results, places)
        panels[0].set(xlabel=label_of_all, title=f"{len(classes)} classes, each forgotten in turn")
    panels[0].set_yticks(range(len(names)), [short_name(printable(name, 60), 32) for name in names])
    for text in panels[0].get_yticklabels():
        text.set_parse_math(False)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    figure.legend(handles=_legend(names), loc="outside lower center", ncols=4)
    return figure


def _accuracies(axes: Axes, results: Row, label: int, places: Mapping[str, int]) -> None:
    rows = class_rows(results, label)
    _title(axes, rows)
    _band(axes, *_retrained(rows))
    points: dict[str, list[float]] = {}
    for run in results["tables"]["runs"]:
        value = known(run.get("mia_nn_accuracy"))
        # The originals serve all classes; their figures are of each.
        if run["class"] == label and value is not None:
            points.setdefault(run["model"], []).append(100 * value)
    for name, place in places.items():
        mean = known(rows.get(name, {}).get("mia_nn_accuracy"))
        _row(axes, name, place, points.get(name, []), None if mean is None else 100 * mean)


def _leaks(axes: Axes, results: Row, places: Mapping[str, int]) -> None:
    found: dict[str, list[float]] = {}
    deviations = []
    for label in results["study"]["classes"]:
        rows = class_rows(results, label)
        mean, deviation = _retrained(rows)
        deviations.append(deviation)
        for name, row in rows.items():
            value = known(row.get("mia_nn_accuracy"))
            if value is not None and mean is not None:
                found.setdefault(name, []).append(100 * (value - mean))
    deviations = [one for one in deviations if one is not None]
    _band(axes, 0.0, float(np.mean(deviations)) if deviations else None)
    for name, place in places.items():
        values = found.get(name, [])
        _row(axes, name, place, values, float(np.mean(values)) if values else None)


def _areas(axes: Axes, results: Row, label: int, places: Mapping[str, int]) -> None:
    rows = class_rows(results, label)
    _title(axes, rows)
    axes.axvline(50, color=_BAND, linewidth=1.2, linestyle=(0, (5, 2)), zorder=1)
    for name, place in places.items():
        row = rows.get(name, {})
        auc, interval = known(row.get("ulira_auc")), row.get("ulira_interval")
        if auc is None:
            continue
        if interval is not None:
            axes.plot([100 * bound for bound in interval], [place, place], color=_color(name), **_LIKE)
        _mark(axes, name, [100 * auc], [place])
    axes.set_xlim(-3, 103)


def _all_areas(axes: Axes, results: Row, places: Mapping[str, int]) -> None:
    axes.axvline(50, color=_BAND, linewidth=1.2, linestyle=(0, (5, 2)), zorder=1)
    found: dict[str, list[float]] = {}
    for row in results["tables"]["classes"]:
        value = known(row.get("ulira_auc"))
        if value is not None:
            found.setdefault(row["model"], []).append(100 * value)
    for name, place in places.items():
        values = found.get(name, [])
        _row(axes, name, place, values, float(np.mean(values)) if values else None)
    axes.set_xlim(-3, 103)


def _row(axes: Axes, name: str, place: int, values: Sequence[float], mean: float | None) -> None:
    """Points side by side where they would hide one another, and a stroke through their mean."""
    # From top to bottom within the row, the same on every run.
    shifts = np.linspace(-0.24, 0.24, len(values)) if len(values) > 1 else np.zeros(len(values))
    _mark(axes, name, list(values), list(place + shifts), small=True)
    if mean is not None:
        axes.plot([mean, mean], [place - 0.36, place + 0.36], color=_color(name), linewidth=2.2, zorder=4)


def _mark(axes: Axes, name: str, x: list[float], y: list[float | int], small: bool = False) -> None:
    look = {"s": 13 if small else 30, "alpha": 0.75 if small else 1.0, "linewidths": 0}
    axes.scatter(x, y, color=_color(name), marker=_MARKERS[kind_of(name)], zorder=3, **look)


def _band(axes: Axes, mean: float | None, deviation: float | None) -> None:
    if mean is None:
        return
    axes.axvline(100 * mean, color=_BAND, linewidth=1.2, linestyle=(0, (5, 2)), zorder=1)
    if deviation is not None:
        low, high = 100 * (mean - deviation), 100 * (mean + deviation)
        axes.axvspan(low, high, color=_BAND, alpha=0.12, linewidth=0, zorder=0)


def _retrained(rows: Mapping[str, Row]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of MIA-NN's accuracy on the class's retrained models, from any row that has them."""
    for row in rows.values():
        if known(row.get("mia_nn_retrain")) is not None and row["model"] != "retrain":
            return known(row["mia_nn_retrain"]), known(row.get("mia_nn_retrain_sd"))
    row = rows.get("retrain", {})
    return known(row.get("mia_nn_accuracy")), known(row.get("mia_nn_accuracy_sd"))


def _title(axes: Axes, rows: Mapping[str, Row]) -> None:
    if rows:
        row = next(iter(rows.values()))
        title = f"{printable(row['class_name'], 14)} (nearest: {printable(row['nearest_name'], 14)})"
        axes.set_title(title, parse_math=False, fontsize=9)


def _color(name: str) -> str:
    return row_styles([name])[name].color


def _legend(names: Sequence[str]) -> list[Line2D]:
    found = {kind_of(name): _color(name) for name in names}
    return [
        Line2D([], [], color=color, marker=_MARKERS[kind], label=KINDS[kind], linestyle="none", markersize=5)
        for kind, color in found.items()
    ]
