"""What models take a forgotten class's images for, as heat maps.

Each function returns a figure; draw it within `drawing()`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from mu_jax.evaluation.report.class_tables import in_order, methods_by_rank, short_name
from mu_jax.evaluation.report.drawing import WIDTH, printable

Row = Mapping[str, Any]

MOST_PANELS = 4
"""Forgotten classes that have a panel of their own; of more, the first ones."""

# One hue from white to nearly black: told apart under any colour blindness, and in print.
_COLORS = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#9ecbe8", "#0072b2", "#003f63"])
_FORGOTTEN, _NEAREST = "#d55e00", "#222222"
# Outlines must stand out from dark cells too.
_HALO = withStroke(linewidth=3.0, foreground="white")
_MOST_COLUMNS = 14
# Of panels side by side; more columns take the whole width.
_NARROW = 10
_MOST_ANNOTATED = 20


def shares_of(results: Row, label: int) -> dict[str, Float[np.ndarray, "C"]]:
    """Of each model row, in order, the share of a forgotten class's test images that it takes for each class."""
    found = {
        row["model"]: np.asarray(row["shares"], np.float64)
        for row in results["tables"]["confusion"]
        if row["class"] == label
    }
    return {name: found[name] for name in in_order(results["models"]) if name in found}


def nearest_of(results: Row, label: int) -> int | None:
    """The class that retrained models take the forgotten one's images for."""
    return next((row["nearest"] for row in results["tables"]["classes"] if row["class"] == label), None)


def shown_columns(shares: Mapping[str, Float[np.ndarray, "C"]], keep: Sequence[int]) -> list[int]:
    """The classes that have a column: all, or of many those in `keep` and those that any row gives most to."""
    most = np.max(list(shares.values()), axis=0)
    if most.size <= _MOST_COLUMNS:
        return list(range(most.size))
    most[list(keep)] = np.inf
    return sorted(np.argsort(-most, kind="stable")[:_MOST_COLUMNS].tolist())


def has_matrix(results: Row) -> bool:
    """Whether there are classes enough for a matrix of classes: all of the data's, or more than have panels."""
    classes = results["study"]["classes"]
    return len(classes) > MOST_PANELS or len(classes) == results["data"]["classes"]


def confusion_figure(results: Row) -> Figure:
    """A panel a forgotten class (`MOST_PANELS` at most): a row a model, a column a class, percent in the cells."""
    panels = [
        (label, shares) for label in results["study"]["classes"] if (shares := shares_of(results, label))
    ][:MOST_PANELS]
    across = 2 if len(panels) > 1 and results["data"]["classes"] <= _NARROW else 1
    down = -(-len(panels) // across)
    rows = max(len(shares) for _, shares in panels)
    figure = Figure(figsize=(WIDTH, down * (0.27 * rows + 1.25) + 0.35), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, (label, shares) in zip(grid.ravel(), panels, strict=False):
        _panel(axes, results, label, shares)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    for line in grid:
        # Models' names once, where both panels have the same.
        if across > 1 and _tick_names(line[0]) == _tick_names(line[1]):
            line[1].set_yticklabels([])
    figure.legend(handles=_marks(), loc="outside lower center", ncols=2)
    return figure


def class_matrix_figure(results: Row) -> Figure:
    """Retraining, the best method and fine-tuning side by side: a row a forgotten class, a column a class."""
    panels = {name: shares for name in _compared(results) if (shares := _matrix(results, name)) is not None}
    names = results["data"]["class_names"]
    classes = results["study"]["classes"]
    small = len(names) <= _MOST_ANNOTATED
    height = 0.9 + 2.9 * min(max(len(classes) / len(names), 0.35), 1.3)
    figure = Figure(figsize=(WIDTH, height + 0.7), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, shares) in zip(grid, panels.items(), strict=True):
        _cells(axes, shares, 6.2 if small else 0)
        for place, label in enumerate(classes):
            _outline(axes, label, place, 1, _FORGOTTEN, "-")
            nearest = nearest_of(results, label)
            if nearest is not None:
                _outline(axes, nearest, place, 1, _NEAREST, "--")
        ticks = range(len(names)) if small else range(0, len(names), 10)
        _names(axes, "x", list(ticks), [names[i] for i in ticks])
        axes.set_title(short_name(printable(name, 60), 30), parse_math=False)
        axes.set_xlabel("taken for")
    step = 1 if len(classes) <= _MOST_ANNOTATED else 10
    _names(grid[0], "y", list(range(0, len(classes), step)), [names[i] for i in classes[::step]])
    grid[0].set_ylabel("forgotten class")
    figure.legend(handles=_marks(), loc="outside lower center", ncols=2)
    return figure


def _panel(axes: Axes, results: Row, label: int, shares: Mapping[str, Float[np.ndarray, "C"]]) -> None:
    names, nearest = results["data"]["class_names"], nearest_of(results, label)
    columns = shown_columns(shares, [one for one in (label, nearest) if one is not None])
    values = np.stack(list(shares.values()))
    titles = [names[i] for i in columns]
    shown = values[:, columns]
    if len(columns) < values.shape[1]:
        shown = np.column_stack([shown, values.sum(axis=1) - shown.sum(axis=1)])
        titles.append(f"{values.shape[1] - len(columns)} others")
    _cells(axes, shown, 7.5)
    _outline(axes, columns.index(label), 0, len(shares), _FORGOTTEN, "-")
    if nearest is not None:
        _outline(axes, columns.index(nearest), 0, len(shares), _NEAREST, "--")
    _names(axes, "x", list(range(len(titles))), titles)
    _names(axes, "y", list(range(len(shares))), [short_name(name, 28) for name in shares], 28)
    axes.set_title(f"forgotten: {printable(names[label], 24)}", parse_math=False)


def _cells(axes: Axes, shares: Float[np.ndarray, "M C"], fontsize: float) -> None:
    """The shares as colours and, where they have a font size and do not round to nothing, in percent."""
    axes.imshow(shares, cmap=_COLORS, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.grid(False)
    axes.hlines(np.arange(0.5, len(shares) - 1), -0.5, shares.shape[1] - 0.5, color="white", linewidth=1.2)
    axes.tick_params(length=0)
    if not fontsize:
        return
    for i, j in np.argwhere(shares >= 0.005):
        color = "white" if shares[i, j] > 0.5 else "#222222"
        axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=fontsize, color=color)


def _outline(axes: Axes, column: int, row: int, rows: int, color: str, line: str) -> None:
    # Half a cell each way is its edge; a little less, so that neighbours' outlines do not hide one another.
    place, size = (column - 0.46, row - 0.46), (0.92, rows - 0.08)
    look = {"edgecolor": color, "linestyle": line, "linewidth": 1.5, "zorder": 3}
    axes.add_patch(Rectangle(place, *size, fill=False, path_effects=[_HALO], **look))


def _names(axes: Axes, side: str, places: list[int], texts: Sequence[str], length: int = 16) -> None:
    long = side == "x" and max(map(len, texts)) > 2
    getattr(axes, f"set_{side}ticks")(places, [printable(text, length) for text in texts], fontsize=8)
    for text in getattr(axes, f"get_{side}ticklabels")():
        text.set_parse_math(False)
        if long:
            text.set(rotation=45, ha="right", rotation_mode="anchor")


def _tick_names(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def _marks() -> list[Patch]:
    return [
        Patch(facecolor="none", edgecolor=_FORGOTTEN, linewidth=1.5, label="the forgotten class"),
        Patch(
            facecolor="none",
            edgecolor=_NEAREST,
            linewidth=1.5,
            linestyle="--",
            label="its nearest, by the retrained models",
        ),
    ]


def _compared(results: Row) -> list[str]:
    ranked = methods_by_rank(results["models"])
    plain = [name for name in ranked if name == "finetune"]
    return list(dict.fromkeys(["retrain", *ranked[:1], *(plain or ranked[-1:])]))


def _matrix(results: Row, name: str) -> Float[np.ndarray, "F C"] | None:
    """A row a forgotten class; without figures of a class its row is empty, and without any there is no matrix."""
    classes, number = results["study"]["classes"], results["data"]["classes"]
    found = [shares_of(results, label).get(name) for label in classes]
    if all(row is None for row in found):
        return None
    return np.stack([np.full(number, np.nan) if row is None else row for row in found])
