"""The figures of what deletions from a SISA ensemble cost, each as the bytes of a PNG file."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale
from mu_jax.evaluation.report.sisa_data import SisaReportData
from mu_jax.evaluation.report.sisa_tables import Row, expected_for, planned

_LINES = ("-", "--", "-.", ":")
# Of curves in one panel, more could not be told apart.
_MOST_CURVES = 7


def deletion_cost(data: SisaReportData) -> bytes:
    """Speed-up against requests: left a curve for each R at the ensemble's S, right for each S at its R."""
    sisa, curves = data.results["sisa"], expected_for(data.results)
    counted = [row for row in data.results["tables"].get("deletion_cost") or () if row.get("speed_up")]
    with drawing():
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, fixed, free in zip(panels, ("shards", "slices"), ("slices", "shards"), strict=True):
            mine = [[row for row in rows if row[fixed] == sisa[fixed]] for rows in (curves, counted)]
            values = _thinned(sorted({row[free] for rows in mine for row in rows}), sisa[free])
            for value, color in zip(values, _shades(len(values)), strict=True):
                curve, points = ([row for row in rows if row[free] == value] for rows in mine)
                label = f"{value:,} {free if value != 1 else free[:-1]}"
                _curve(axes, curve, {"color": color, "label": label})
                for row in points:
                    _counted(axes, row, color)
            axes.axhline(1, color="#888888", linewidth=1.1, linestyle=(0, (1, 2)))
            axes.set(title=f"{sisa[fixed]:,} {fixed}", xlabel="deletions requested at once (log scale)")
            legend(axes, loc="upper right", title=f"expected, by {free}", title_fontsize=8, fontsize=8)
        figure.legend(handles=_keys(counted), loc="outside lower center", ncols=3)
        panels[0].set_ylabel("times less retraining than one model (log scale)")
        shown = [row for row in curves if sisa["shards"] == row["shards"] or sisa["slices"] == row["slices"]]
        _speed_axes(panels[0], [*shown, *counted])
        return as_png(figure)


def plan(data: SisaReportData) -> bytes:
    """Expected speed-up against requests for the largest data reckoned with: a colour for S, a line for R."""
    rows = planned(data.results)
    shards, slices = (sorted({row[key] for row in rows}) for key in ("shards", "slices"))
    shards, slices = _thinned(shards), _thinned(slices)[: len(_LINES)]
    with drawing():
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        axes = figure.subplots()
        colors = _shades(len(shards))
        for s, color in zip(shards, colors, strict=True):
            for r, line in zip(slices, _LINES, strict=False):
                curve = [row for row in rows if (row["shards"], row["slices"]) == (s, r)]
                _curve(axes, curve, {"color": color, "linestyle": line})
        axes.axhline(1, color="#888888", linewidth=1.1, linestyle=(0, (1, 2)))
        _speed_axes(axes, rows)
        axes.set(
            title=f"{rows[0]['examples']:,} examples",
            xlabel="deletions requested at once (log scale)",
            ylabel="times less retraining than one model (log scale)",
        )
        keys = [
            Line2D([], [], color=c, label=f"{s:,} shard{_s(s)}") for s, c in zip(shards, colors, strict=True)
        ]
        keys += [
            Line2D([], [], color="#444444", linestyle=line, label=f"{r:,} slice{_s(r)}")
            for r, line in zip(slices, _LINES, strict=False)
        ]
        axes.legend(handles=keys, loc="center left", bbox_to_anchor=(1.01, 0.5))
        return as_png(figure)


def request_costs(rows: Sequence[Row]) -> bytes:
    """Of each deletion request: examples retrained, beside what was expected."""
    number = np.array([row["request"] for row in rows], np.float64)
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        counted, expected = (
            np.array([row.get(key) for row in rows], np.float64)
            for key in ("examples_retrained", "expected_examples")
        )
        axes.bar(number, counted, width=0.6, color="#56b4e9", label="retrained")
        look = {
            "linestyle": "none",
            "marker": "_",
            "markersize": 14,
            "markeredgewidth": 2.2,
            "color": "#222222",
        }
        axes.plot(number, expected, label="expected", **look)
        axes.set(xlabel="number of the request", ylabel="examples")
        axes.set_xlim(number.min() - 0.6, number.max() + 0.6)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(False, axis="x")
        legend(axes, loc="center left", bbox_to_anchor=(1.01, 0.5))
        return as_png(figure)


def _curve(axes: Axes, rows: Iterable[Row], look: dict[str, Any]) -> None:
    points = sorted((row["requests"], row["speed_up"]) for row in rows if _drawable(row.get("speed_up")))
    x, y = zip(*points, strict=True) if points else ((), ())
    axes.plot(x, y, **look)


def _counted(axes: Axes, row: Row, color: Any) -> None:
    """A counted deletion with its spread over draws; the one that was carried out larger, with an edge."""
    cost, spread, value = row.get("examples_retrained"), row.get("examples_retrained_sd"), row["speed_up"]
    if cost and spread:
        # The speed-ups of the mean cost, one standard deviation more and less.
        low, high = value * cost / (cost + spread), value * cost / max(cost - spread, 0.1 * cost)
        axes.plot([row["requests"]] * 2, [low, high], color=color, linewidth=1.2)
    axes.plot(row["requests"], value, color=color, zorder=4, linestyle="none", **_mark(row))


def _mark(row: Row) -> dict[str, Any]:
    if row.get("trained"):
        return {"marker": "*", "markersize": 14, "markeredgecolor": "black", "markeredgewidth": 0.8}
    return {"marker": "o", "markersize": 5}


def _keys(counted: Sequence[Row]) -> list[Line2D]:
    keys = [Line2D([], [], color="#888888", linewidth=1.1, linestyle=(0, (1, 2)), label="1×: nothing saved")]
    for trained, label in ((False, "counted (± SD over draws)"), (True, "carried out")):
        if any(bool(row.get("trained")) == trained for row in counted):
            look = _mark({"trained": trained})
            keys.append(Line2D([], [], color="#777777", linestyle="none", label=label, **look))
    return keys


def _speed_axes(axes: Axes, rows: Sequence[Row]) -> None:
    speed = [row["speed_up"] for row in rows if _drawable(row.get("speed_up"))]
    requests = [row["requests"] for row in rows]
    log_scale(axes, "x", 0.8 * min(requests, default=1), 1.25 * max(requests, default=1))
    log_scale(axes, "y", min(0.8, 0.8 * min(speed, default=1)), max(2.0, 1.4 * max(speed, default=1)))


def _drawable(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _thinned(values: list[int], kept: int | None = None) -> list[int]:
    """At most `_MOST_CURVES` of the values, the least and the greatest and `kept` among them."""
    if len(values) <= _MOST_CURVES:
        return values
    chosen = {values[i] for i in np.linspace(0, len(values) - 1, _MOST_CURVES - 1).round().astype(int)}
    return sorted(chosen | ({kept} & set(values)))


def _shades(number: int) -> list[Any]:
    """Colours that say which is more: from dark to light, none too light for white ground."""
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0, 0.82, number)]


def _s(number: int) -> str:
    return "" if number == 1 else "s"
