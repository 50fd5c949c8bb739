"""The figures of the comparison of unlearning methods: gaps, their cost, and how training went.

Each function returns a figure; draw it within `drawing()`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from mu_jax.evaluation.report.drawing import WIDTH, legend, log_scale, printable
from mu_jax.evaluation.report.methods_data import MethodsReportData
from mu_jax.evaluation.report.methods_tables import (
    PARTS,
    Row,
    methods_by_gap,
    points,
    request_kind,
    rows_of,
    total_seconds,
)
from mu_jax.evaluation.report.palette import Style, model_styles

_PART_COLORS = {
    "unlearn": "#0072b2",
    "retain": "#56b4e9",
    "test": "#009e73",
    "forget_vs_test_auc": "#e69f00",
}
_FLOOR = "#444444"
# A gap beyond so many times the typical one is cut, or no other could be told from another.
_CUT = 6.0
# Where a label may stand, in points from its marker's middle to the text's nearest edge, the best first.
_PLACES = [(8, 0), (-8, 0), (0, 10), (0, -10), (8, 9), (8, -9), (-8, 9), (-8, -9)]
_PLACES += [(10, 20), (10, -20), (-10, 20), (-10, -20), (14, 31), (14, -31), (-14, 31), (-14, -31)]
_LETTER, _LINE = 5.4, 11.0


def model_marker(style: Style) -> str:
    """A marker for each line style, so that methods which share a colour stay apart as points."""
    return {"-": "o", "-.": "s", ":": "^", "--": "D"}[style.line]


def gap_by_method(data: MethodsReportData) -> Figure:
    """The gap of each method and of the original, in its four parts; the noise floor is a line."""
    models = data.results["models"]
    names = methods_by_gap(models) + [name for name in ("original",) if name in models]
    names = [name for name in names if models[name].get("gap_to_retrain") is not None]
    ends = [100 * (models[name]["gap_to_retrain"] + (models[name].get("gap_sd") or 0)) for name in names]
    limit = _limit(ends)
    figure = Figure(figsize=(WIDTH, 0.34 * len(names) + 1.35), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        _stacked(axes, place, models[name], limit)
    for part, title in PARTS.items():
        axes.barh([0], [0], color=_PART_COLORS[part], label=f"{title[0].lower()}{title[1:]} ÷ {len(PARTS)}")
    _noise_floor(axes, models, "v")
    axes.set_yticks(range(len(names)), [printable(name, 28) for name in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set(
        ylim=(len(names) - 0.45, -0.6), xlim=(0, 1.16 * limit), xlabel="gap to retrain, percentage points"
    )
    axes.grid(False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5, handlelength=1.4)
    return figure


def _stacked(axes: Axes, place: int, model: Row, limit: float) -> None:
    """One bar, cut at `limit`: each part of the gap gives a quarter of its difference."""
    gap, spread, left = 100 * model["gap_to_retrain"], model.get("gap_sd"), 0.0
    parts = model.get("gap_parts") or {}
    for part, color in _PART_COLORS.items():
        width = 100 * parts.get(part, 0.0) / len(PARTS)
        shown = max(min(width, limit - left), 0.0)
        axes.barh(place, shown, left=left, color=color, height=0.66)
        left += width
    end = gap + 100 * (spread or 0.0)
    if spread is not None and end <= limit:
        look = {"color": "#222222", "elinewidth": 1.1, "capsize": 2.5, "zorder": 4}
        axes.errorbar(gap, place, xerr=100 * spread, **look)
    if gap > limit:
        axes.text(limit, place, "» ", va="center", ha="right", color="white", weight="bold", fontsize=11)
    text = points(gap / 100) if spread is None else f"{points(gap / 100)} ± {points(spread)}"
    at = min(end, limit)
    axes.annotate(text, (at, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5)


def gap_against_time(data: MethodsReportData) -> Figure:
    """The gap of each method against the seconds of its training and preparation, on a log axis."""
    models = data.results["models"]
    styles = model_styles(models)
    drawn = [
        name
        for name in methods_by_gap(models)
        if (total_seconds(models.get(name, {})) or 0) > 0 and models[name].get("gap_to_retrain") is not None
    ]
    figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
    axes = figure.subplots()
    gaps = {name: 100 * models[name]["gap_to_retrain"] for name in drawn}
    starts = [models[name]["seconds"] for name in drawn if models[name]["seconds"] > 0]
    totals = {name: total_seconds(models[name]) for name in drawn}
    retrain = total_seconds(models.get("retrain", {})) or 0.0
    times = [*starts, *totals.values(), *([retrain] if retrain else [])]
    log_scale(axes, "x", 0.6 * min(times, default=1.0), 2.2 * max(times, default=1.0))
    floor = 100 * (models.get("retrain_again", {}).get("gap_to_retrain") or 0.0)
    gap_axis(axes, [*gaps.values(), *([floor] if floor else [])])
    for name in drawn:
        _costing(axes, models[name], totals[name], gaps[name], styles[name])
    if retrain:
        axes.axvline(retrain, color=_FLOOR, linewidth=1.1, linestyle=(0, (5, 2)), zorder=1)
        where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
        axes.annotate("retrain", (retrain, 1), (4, -2), fontsize=8.5, color=_FLOOR, **where)
    _noise_floor(axes, models, "h")
    axes.set(
        xlabel="seconds, preparation and training (log scale)", ylabel="gap to retrain, percentage points"
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right")
    tails = {name: (models[name]["seconds"] or totals[name], gaps[name]) for name in drawn}
    places = {name: (totals[name], gaps[name]) for name in drawn}
    label_points(axes, places, {name: styles[name].color for name in drawn}, tails)
    return figure


def _costing(axes: Axes, model: Row, total: float, gap: float, style: Style) -> None:
    """A point with its spread, and a thin line from where it would stand without its preparation."""
    look = {"color": style.color, "linewidth": 1.1}
    if model["seconds"] > 0:
        axes.plot([model["seconds"], total], [gap, gap], linestyle=":", zorder=2, **look)
    if spread := model.get("gap_sd"):
        low = max(gap - 100 * spread, axes.get_ylim()[0])
        axes.plot([total, total], [low, gap + 100 * spread], zorder=2, **look)
    axes.plot(total, gap, marker=model_marker(style), markersize=7, color=style.color, zorder=3)


def requests_in_turn(data: MethodsReportData) -> Figure:
    """FR − FT AUC, and test accuracy, after each request; a line for either way of making neighbours."""
    rows = rows_of(data.results, "requests")
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    panels = {
        "fr_minus_ft": "FR AUC − FT AUC, percentage points",
        "test": "test accuracy, %",
    }
    panels = {key: title for key, title in panels.items() if any(row.get(key) is not None for row in rows)}
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    looks = {"amun": ("#0072b2", "o", "-"), "amun_adaptive": ("#d55e00", "s", "--")}
    for axes, (key, title) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for kind in kinds:
            mine = [row for row in rows if row["kind"] == kind and row.get(key) is not None]
            color, marker, line = looks.get(kind, ("#009e73", "^", "-."))
            axes.plot(
                [row["request"] for row in mine],
                [100 * row[key] for row in mine],
                color=color,
                marker=marker,
                linestyle=line,
                label=request_kind(kind),
            )
        axes.set(xlabel="request", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
        if key == "fr_minus_ft":
            axes.axhline(0, color="#888888", linewidth=1, zorder=1)
            axes.margins(y=0.15)
        legend(axes, loc="best")
    return figure


def training(data: MethodsReportData) -> Figure:
    """Loss and accuracy on training batches: above the trainings from scratch, beneath the methods."""
    styles = model_styles(data.results["models"])
    runs: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for line in data.curves:
        # Behind @ stands which of several runs it is.
        runs[line["model"].partition("@")[0]][line["model"]].append(line)
    scratch = ("original", "retrain", "retrain_again")
    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    grid = figure.subplots(2, 2)
    for (loss, accuracy), what in zip(grid, ("trained from scratch", "methods"), strict=True):
        names = [name for name in styles if name in runs and (name in scratch) == (what != "methods")]
        for name in names:
            _training_curves(loss, accuracy, list(runs[name].values()), name, styles[name])
        if not names:
            loss.text(0.5, 0.5, "nothing was recorded", ha="center", transform=loss.transAxes)
        loss.set(title=what, ylabel="training loss, nats", xlabel="epoch")
        accuracy.set(ylabel="training accuracy, %", xlabel="epoch")
        legend(accuracy, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return figure


def _training_curves(loss: Axes, accuracy: Axes, runs: Sequence[list[Row]], name: str, style: Style) -> None:
    for number, lines in enumerate(runs):
        lines = sorted(lines, key=lambda line: line["step"])
        epochs, losses, rates = (
            np.array([line[key] for line in lines], np.float64) for key in ("epoch", "loss", "accuracy")
        )
        look: dict[str, Any] = {"color": style.color, "linestyle": style.line}
        # A line of one point is invisible.
        look |= {"marker": "o" if epochs.size <= 6 else None, "markersize": 3.5}
        look |= {"alpha": 1.0 if len(runs) == 1 else 0.55, "linewidth": 1.6 if len(runs) == 1 else 1.0}
        loss.plot(epochs, losses, **look)
        label = printable(name, 24) if number == 0 else "_"
        accuracy.plot(epochs, 100 * rates, label=label, **look)


def gap_axis(axes: Axes, gaps: Sequence[float]) -> None:
    """The y axis of gaps in percentage points: from 0, or a log scale where they lie far apart."""
    positive = [gap for gap in gaps if gap > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    if high > 20 * low and len(positive) == len(gaps):
        log_scale(axes, "y", 0.6 * low, 2.0 * high)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(0, 1.15 * high)


def label_points(
    axes: Axes,
    places: dict[str, tuple[float, float]],
    colors: dict[str, str],
    tails: dict[str, tuple[float, float]] | None = None,
) -> None:
    """A name beside each point, where it hides as little as possible; far ones with a line to their point.

    `tails`: for some points, where a horizontal line to them begins, which is not to be hidden either.
    """
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    middle = {name: axes.transData.transform(place) * scale for name, place in places.items()}
    bounds = axes.get_window_extent()
    low, high = np.array([bounds.x0, bounds.y0]) * scale, np.array([bounds.x1, bounds.y1]) * scale
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in middle.values()]
    for name, place in (tails or {}).items():
        x, y = middle[name]
        taken.append((axes.transData.transform(place)[0] * scale, y - 2, x, y + 2))
    for name, (x, y) in middle.items():
        text = printable(name, 24)
        width, x, y = _LETTER * len(text), float(x), float(y)

        def box(dx: int, dy: int, x: float = x, y: float = y, width: float = width) -> tuple:
            left = x + dx - (width if dx < 0 else width / 2 if dx == 0 else 0)
            return left, y + dy - _LINE / 2, left + width, y + dy + _LINE / 2

        def hidden(place: tuple[int, int], box: Any = box) -> float:
            left, bottom, right, top = box(*place)
            outside = (
                max(low[0] - left, 0)
                + max(right - high[0], 0)
                + max(low[1] - bottom, 0)
                + max(top - high[1], 0)
            )
            return 20 * outside + sum(_overlap((left, bottom, right, top), other) for other in taken)

        dx, dy = min(_PLACES, key=hidden)
        taken.append(box(dx, dy))
        far = math.hypot(dx, dy) > 15
        axes.annotate(
            text,
            places[name],
            (dx, dy),
            textcoords="offset points",
            ha="right" if dx < 0 else "center" if dx == 0 else "left",
            va="center",
            fontsize=8.5,
            color=colors[name],
            weight="bold",
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7} if far else None,
        ).set_in_layout(False)


def _overlap(one: tuple, other: tuple) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return float(max(width, 0) * max(height, 0))


def _noise_floor(axes: Axes, models: Row, side: str) -> None:
    """The gap of the second retrained model as a line, its standard deviation as a band."""
    again = models.get("retrain_again", {})
    gap, spread = again.get("gap_to_retrain"), again.get("gap_sd")
    if gap is None:
        return
    line, span = (axes.axvline, axes.axvspan) if side == "v" else (axes.axhline, axes.axhspan)
    text = points(gap) if spread is None else f"{points(gap)} ± {points(spread)}"
    label = f"noise floor (retrain_again): {text}"
    line(100 * gap, color=_FLOOR, linewidth=1.3, linestyle=(0, (1, 1.2)), label=label, zorder=3)
    if spread:
        span(
            100 * max(gap - spread, 0), 100 * (gap + spread), color=_FLOOR, alpha=0.12, linewidth=0, zorder=0
        )


def _limit(values: Sequence[float]) -> float:
    """How far bars reach: to the greatest, or, where that dwarfs the others, to the greatest of those."""
    if not values:
        return 1.0
    top, typical = max(values), float(np.median(values))
    if top > _CUT * typical > 0:
        top = 1.25 * max(value for value in values if value <= _CUT * typical)
    return top or 1.0
