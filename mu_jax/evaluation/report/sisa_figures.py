"""The figures of a SISA experiment's accuracy and posteriors, each as the bytes of a PNG file."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale, printable
from mu_jax.evaluation.report.palette import Style, model_styles
from mu_jax.evaluation.report.sisa_data import SisaReportData
from mu_jax.evaluation.report.sisa_tables import Row, in_words

HISTOGRAMS = ("base", "sisa", "sisa_unlearned", "sisa_retrained")
"""The models whose posteriors are drawn."""

# As everywhere, retraining is black and gray.
_STYLES = {
    "base": Style("#d55e00", "-"),
    "base_retrained": Style("#e69f00", "-"),
    "sisa": Style("#0072b2", "-"),
    "sisa_unlearned": Style("#009e73", "-"),
    "sisa_retrained": Style("#222222", "-"),
    "sisa_retrained_again": Style("#8c8c8c", "--"),
}
_AGGREGATIONS = {
    "mean_posterior": ("#0072b2", "o"),
    "mean_logits": ("#009e73", "s"),
    "majority_vote": ("#cc79a7", "^"),
}
_MOST_PANELS = 3
# 1 − p below some 1e-7 is float32's rounding.
_SUREST = 7.0


def sisa_styles(names: Iterable[str]) -> dict[str, Style]:
    """A colour and line for each model; those that the experiment does not know take the palette's."""
    names = list(names)
    return model_styles(name for name in names if name not in _STYLES) | {
        name: _STYLES[name] for name in names if name in _STYLES
    }


def accuracy_by_shards(data: SisaReportData) -> bytes:
    """Test accuracy against the number of shards, a panel a number of slices, a line an aggregation.

    Single shards' models and the one model stand beside. Of more than three numbers of slices the least, the greatest
    and one between are drawn.
    """
    rows = data.results["tables"]["accuracy_by_shards"]
    slices = sorted({row["slices"] for row in rows})
    if len(slices) > _MOST_PANELS:
        slices = [slices[0], slices[len(slices) // 2], slices[-1]]
    shards = sorted({row["shards"] for row in rows})
    with drawing():
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        panels = figure.subplots(1, len(slices), sharex=True, sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axes, number in zip(panels, slices, strict=True):
            mine = [row for row in rows if row["slices"] == number]
            _one_model(axes, data.results["models"].get("base", {}))
            _aggregations(axes, mine)
            _single_shards(axes, mine)
            axes.set(title=f"{number:,} slice{'' if number == 1 else 's'}", xlabel="shards (log scale)")
            drawn, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, drawn, strict=True))
        axes = panels[0]
        log_scale(axes, "x", min(shards) / 1.25, max(shards) * 1.25)
        axes.xaxis.set_major_locator(FixedLocator(shards))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{number:,}" for number in shards]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("accuracy on test images, %")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        return as_png(figure)


def _aggregations(axes: Axes, rows: Sequence[Row]) -> None:
    names = [name for name in _AGGREGATIONS if any(row["aggregation"] == name for row in rows)]
    for place, name in enumerate(names):
        # Side by side, so that intervals do not hide one another.
        shift = 1.05 ** (place - (len(names) - 1) / 2)
        mine = sorted((row for row in rows if row["aggregation"] == name), key=lambda row: row["shards"])
        color, marker = _AGGREGATIONS[name]
        look = {"color": color, "marker": marker, "markersize": 4.5, "label": in_words(name)}
        _with_intervals(axes, mine, shift, look)


def _with_intervals(axes: Axes, rows: Sequence[Row], shift: float, look: dict[str, Any]) -> None:
    x = np.array([row["shards"] for row in rows], np.float64) * shift
    y = np.array([row["test_accuracy"] for row in rows], np.float64)
    ends = np.array([row.get("test_interval") or [value] * 2 for row, value in zip(rows, y, strict=True)])
    # Rounding may put an end that equals the value on its wrong side.
    errors = np.maximum([y - ends[:, 0], ends[:, 1] - y], 0)
    axes.errorbar(x, 100 * y, yerr=100 * errors, capsize=2.5, elinewidth=1, **look)


def _single_shards(axes: Axes, rows: Sequence[Row]) -> None:
    """The same for all aggregations, so any row of a number of shards says it."""
    found = {
        row["shards"]: (row["constituent_test"], row.get("constituent_test_sd") or 0.0)
        for row in rows
        if row.get("constituent_test") is not None
    }
    if found:
        x = sorted(found)
        mean, spread = (100 * np.array([found[number][i] for number in x]) for i in range(2))
        axes.plot(x, mean, color="#777777", marker=".", label="mean of single shards' models, ± SD")
        axes.fill_between(x, mean - spread, mean + spread, color="#777777", alpha=0.13, linewidth=0)


def _one_model(axes: Axes, model: Row) -> None:
    value = model.get("accuracy", {}).get("test")
    if value is not None:
        color = _STYLES["base"].color
        axes.axhline(100 * value, color=color, linewidth=1.3, linestyle=(0, (5, 2)), label="one model (base)")
        if bounds := model.get("accuracy_interval", {}).get("test"):
            axes.axhspan(*(100 * bound for bound in bounds), color=color, alpha=0.1, linewidth=0)


def posterior_histograms(data: SisaReportData) -> bytes:
    """How sure each model is of its prediction on deleted, retained and test examples; one panel a model."""
    names = [name for name in HISTOGRAMS if name in data.largest_posterior]
    sides = {name: {part: _nines(p) for part, p in data.largest_posterior[name].items()} for name in names}
    every = [x for parts in sides.values() for x in parts.values()]
    low, high = min(x.min() for x in every), max(x.max() for x in every)
    high = max(high, low + 0.3) + 0.02
    edges = np.linspace(low, high, int(np.clip(2 * min(x.size for x in every) ** (1 / 3), 10, 40)) + 1)
    columns = min(len(names), 2)
    rows = math.ceil(len(names) / columns)
    with drawing():
        figure = Figure(figsize=(WIDTH, 2.6 * rows + 0.2), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            for part, label, look in (
                ("forget", "deleted", {"color": _STYLES[name].color + "80", "fill": True}),
                ("retain", "retained", {"color": "#7b3294", "linewidth": 1.3, "linestyle": "--"}),
                ("test", "test", {"color": "#333333", "linewidth": 1.3}),
            ):
                share = 100 * np.histogram(sides[name][part], edges)[0] / sides[name][part].size
                axes.stairs(share, edges, label=label, **look)
            axes.set_title(printable(name, 24), parse_math=False)
            axes.set_xlim(low, high)
            axes.grid(False, axis="x")
            legend(axes, loc="upper center", fontsize=8, handlelength=1.4, ncols=3, borderaxespad=0.1)
        # Room for the legends; the y axis is shared.
        panels[0].set_ylim(0, 1.15 * panels[0].get_ylim()[1])
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("% of images")
        _posterior_axis(panels[0], low, high)
        figure.supxlabel("largest posterior (the surer, the further to the right)", fontsize=9.5)
        return as_png(figure)


def _nines(posterior: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
    """−log₁₀(1 − p): 1 at 0.9, 2 at 0.99; models are sure of most images, and on a scale of p all would share a bin."""
    return -np.log10(np.clip(1 - posterior.astype(np.float64), 10.0**-_SUREST, 1.0))


def _posterior_axis(axes: Axes, low: float, high: float) -> None:
    places = [0.0, -math.log10(0.5), *range(1, math.ceil(high) + 1)]
    shown = [place for place in places if low <= place <= high]
    step = math.ceil(len(shown) / 7)
    texts = ["0", "0.5", "0.9", "0.99", "0.999", "0.9999", *(f"$1-10^{{-{n}}}$" for n in range(5, 9))]
    labels = dict(zip([0.0, -math.log10(0.5), 1, 2, 3, 4, 5, 6, 7, 8], texts, strict=True))
    shown = shown[::-step][::-1]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FixedFormatter([labels[place] for place in shown]))
