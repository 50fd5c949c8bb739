"""The figure of a search for settings, as the bytes of a PNG file."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale, printable
from mu_jax.evaluation.report.search_tables import Row, schedule

_COLORS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v")
_COLUMNS = 3


def gap_by_learning_rate(results: Mapping[str, Any]) -> bytes:
    """A panel a method: gap to retraining against the learning rate, a colour a schedule, a line a length and knob.

    The best setting has a ring; a setting that diverged is a cross at the top. Both axes are logarithmic and shared.
    """
    rows, models = results["tables"]["search"], results["models"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    schedules = sorted({row["step_epochs"] for row in rows}, key=lambda step: step or math.inf)
    floor, start = (models[name]["gap_to_retrain"] for name in ("retrain_again", "original"))
    gaps = [100 * gap for gap in (*(row["gap"] for row in rows), floor, start) if gap]
    low, high = min(gaps, default=0.1) / 1.4, max(gaps, default=100.0) * 1.6
    rates = [row["learning_rate"] for row in rows]
    columns = min(len(methods), _COLUMNS)
    lines = math.ceil(len(methods) / columns)
    with drawing():
        figure = Figure(figsize=(WIDTH, 2.7 * lines + 0.8), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, method in zip(panels, methods, strict=False):
            mine = [row for row in rows if row["method"] == method]
            _panel(axes, mine, schedules, high)
            axes.axhline(100 * floor, color="#8c8c8c", linestyle="--", linewidth=1.2)
            axes.axhline(100 * start, color="#d55e00", linestyle=(0, (1, 2)), linewidth=1.2)
            axes.set_title(printable(method, 24), parse_math=False)
            # Where lines do not differ in more than the schedule, the figure's legend says all.
            if any(line.get_label()[0] != "_" for line in axes.get_lines()):
                legend(axes, loc="lower left", fontsize=7.5, handlelength=2.2, borderaxespad=0.2)
        log_scale(panels[0], "x", min(rates) / 1.6, max(rates) * 1.6)
        log_scale(panels[0], "y", low, high)
        for axes in panels[len(methods) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("gap to retraining, pp")
        # The lowest panel of each column, which is not in the last row everywhere.
        for axes in panels[max(len(methods) - columns, 0) : len(methods)]:
            axes.set_xlabel("learning rate at the start")
            axes.tick_params(labelbottom=True)
        figure.legend(handles=_keys(schedules), loc="outside lower center", ncols=4)
        return as_png(figure)


def _panel(axes: Axes, rows: Sequence[Row], schedules: Sequence[float], top: float) -> None:
    kinds = list(dict.fromkeys((row["epochs"], row["knob_value"]) for row in rows))
    epochs_differ = len({epochs for epochs, _ in kinds}) > 1
    for number, (epochs, knob) in enumerate(kinds):
        words = ([f"{epochs:g} epochs"] if epochs_differ else []) + (
            [f"{rows[0]['knob']} {knob:g}"] if knob is not None else []
        )
        look = {"linestyle": _LINES[number % len(_LINES)], "marker": _MARKERS[number % len(_MARKERS)]}
        if len(kinds) > 1:
            axes.plot([], [], color="#444444", markersize=3.5, label=", ".join(words), **look)
        for step, color in zip(schedules, _COLORS * len(schedules), strict=False):
            mine = [
                row for row in rows if (row["epochs"], row["knob_value"], row["step_epochs"]) == (epochs, knob, step)
            ]  # fmt: skip
            sound = sorted((row["learning_rate"], 100 * row["gap"]) for row in mine if row["gap"] is not None)
            if sound:
                x, y = zip(*sound, strict=True)
                axes.plot(x, y, color=color, markersize=3.5, label="_", linewidth=1.3, **look)
            lost = [row["learning_rate"] for row in mine if row["gap"] is None]
            axes.plot(lost, [top / 1.15] * len(lost), color=color, marker="x", linestyle="none", label="_")
    best = min((row for row in rows if row["gap"] is not None), key=lambda row: row["gap"], default=None)
    if best is not None:
        ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": "#222222"}
        axes.plot([best["learning_rate"]], [100 * best["gap"]], linestyle="none", label="_", **ring)


def _keys(schedules: Sequence[float]) -> list[Line2D]:
    keys = [
        Line2D([], [], color=color, label=f"rate {schedule(step)}")
        for step, color in zip(schedules, _COLORS * len(schedules), strict=False)
    ]
    ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": "#222222"}
    return [
        *keys,
        Line2D([], [], linestyle="none", label="smallest gap", **ring),
        Line2D([], [], color="#444444", linestyle="none", marker="x", label="diverged"),
        Line2D([], [], color="#8c8c8c", linestyle="--", linewidth=1.2, label="noise floor (retrain_again)"),
        Line2D([], [], color="#d55e00", linestyle=(0, (1, 2)), linewidth=1.2, label="original, nothing done"),
    ]
