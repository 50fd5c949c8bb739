"""The figure of a model's layers, as the bytes of a PNG file."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale, printable
from mu_jax.evaluation.report.spectra_tables import METHODS, method_names

_COLORS = ("#d55e00", "#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#0072b2")
_MARKERS = ("o", "s", "v", "^", "D", "x")


def claimed_against_true(results: Mapping[str, Any]) -> bytes:
    """Layers from above to below: bars of their norms, and beside them each method's claim over the norm."""
    layers = results["tables"]["layers"]
    with drawing():
        figure = Figure(figsize=(WIDTH, 0.24 * len(layers) + 1.9), layout="constrained")
        norms, ratios = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.5))
        _norms(norms, layers)
        _ratios(ratios, results)
        norms.set_yticks(range(len(layers)), [printable(row["layer"], 30) for row in layers])
        norms.set_ylim(len(layers) - 0.4, -0.6)
        for text in norms.get_yticklabels():
            text.set_parse_math(False)
        handles, names = ratios.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower right", ncols=3)
        return as_png(figure)


def _norms(axes: Axes, layers: list[Mapping[str, Any]]) -> None:
    composed = [(i, row["composed"]) for i, row in enumerate(layers) if row["composed"] is not None]
    half = 0.38 if composed else 0.7
    shift = half / 2 if composed else 0.0
    axes.barh(
        [i - shift for i in range(len(layers))],
        [row["norm"] for row in layers],
        height=half,
        color="#222222",
        label="alone",
    )
    if composed:
        places, values = zip(*composed, strict=True)
        axes.barh([i + shift for i in places], values, height=half, color="#b0b0b0", label="with batch-norm")
        legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=2)
    axes.axvline(1.0, color="#8c8c8c", linewidth=1.0, linestyle="--")
    axes.set_xlabel("norm, measured")


def _ratios(axes: Axes, results: Mapping[str, Any]) -> None:
    place = {row["layer"]: i for i, row in enumerate(results["tables"]["layers"])}
    names, every = method_names(results), [1.0]
    for method, color, marker in zip(METHODS, _COLORS, _MARKERS, strict=True):
        mine = [
            (row["ratio"], place[row["layer"]])
            for row in results["tables"]["claims"]
            # A logarithm has no place for a claim of zero.
            if row["method"] == method and row["ratio"]
        ]
        if mine:
            x, y = zip(*mine, strict=True)
            every.extend(x)
            axes.plot(x, y, color=color, marker=marker, markersize=5, linestyle="none", label=names[method])
    log_scale(axes, "x", min(every) / 1.2, max(every) * 1.2)
    axes.axvline(1.0, color="#222222", linewidth=1.0)
    axes.set_xlabel("claimed / measured")
