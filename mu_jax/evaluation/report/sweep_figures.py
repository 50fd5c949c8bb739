"""The figures of a sweep: signals, accuracies and training, each as the bytes of a PNG file."""

from collections import defaultdict
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale
from mu_jax.evaluation.report.sweep_data import SweepReportData
from mu_jax.evaluation.report.sweep_tables import over_models

_MEMBER, _NONMEMBER = "#0072b2", "#555555"
_REFERENCE = {"color": "#d55e00", "linewidth": 1.4, "linestyle": "--"}
# Share of φ beyond each end of an axis, shown at the end: a few extreme margins must not set the scale.
_TAIL = 1e-3
# Above these, single marks would hide one another.
_MOST_POINTS = 3_000
_MOST_MODELS = 250
_MOST_LINES = 50
_MOST_EPOCHS = 600
# The light end of a colour map vanishes on white, and lone images far from the diagonal are what matters.
_DENSITY = LinearSegmentedColormap.from_list("density", ["#9ecae1", "#3182bd", "#08306b", "#2b0a3d"])


def signal_histogram(data: SweepReportData) -> bytes:
    """φ of members (filled) and of non-members (outlined), with bins in common."""
    sides = [
        (data.nonmember_phi, "non-members", {"color": _NONMEMBER, "linewidth": 1.3}),
        (data.member_phi, "members", {"color": _MEMBER + "90", "fill": True}),
    ]
    sides = [(phi.astype(np.float64), *rest) for phi, *rest in sides if phi.size]
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        if not sides:
            return _nothing(figure, axes, "no model is left to show")
        low, high = _span(np.concatenate([_ends(phi) for phi, *_ in sides]))
        smallest = min(phi.size for phi, *_ in sides)
        edges = np.linspace(low, high, int(np.clip(2 * smallest ** (1 / 3), 10, 80)) + 1)
        for phi, label, look in sides:
            share = 100 * np.histogram(np.clip(phi, low, high), edges)[0] / phi.size
            axes.stairs(share, edges, label=label, **look)
        axes.set(xlim=(low, high), xlabel="φ, nats", ylabel="% of signals")
        axes.grid(False, axis="x")
        legend(axes, loc="upper left")
        return as_png(figure)


def example_means(data: SweepReportData) -> bytes:
    """Mean φ of each candidate over the models that trained on it, against that over the others."""
    inside, outside = (x.astype(np.float64) for x in (data.example_in_mean, data.example_out_mean))
    both = np.isfinite(inside) & np.isfinite(outside)
    inside, outside = inside[both], outside[both]
    with drawing():
        figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
        axes = figure.subplots()
        if not inside.size:
            return _nothing(figure, axes, "no image was seen by some models and not by others")
        # Each axis has its own scale: on a common one a few well-remembered images would squeeze all others.
        (left, right), (low, high) = _span(_ends(outside)), _span(_ends(inside))
        x, y = np.clip(outside, left, right), np.clip(inside, low, high)
        if x.size <= _MOST_POINTS:
            look = {"s": 16 if x.size <= 500 else 9, "alpha": 0.5, "linewidths": 0, "clip_on": False}
            axes.scatter(x, y, color=_MEMBER, label="an image", **look)
        else:
            look = {"cmap": _DENSITY, "norm": LogNorm(vmin=1), "linewidths": 0.1}
            hexagons = axes.hexbin(x, y, gridsize=(90, 28), extent=(left, right, low, high), mincnt=1, **look)
            figure.colorbar(hexagons, ax=axes, label="images (log scale)", format="%d", pad=0.01)
        axes.axline((left, left), slope=1, label="training on it changes nothing", **_REFERENCE)
        axes.set(xlim=(left, right), ylim=(low, high))
        axes.set_xlabel("mean φ of models that did not train on the image, nats")
        axes.set_ylabel("mean φ of models that did, nats")
        axes.set_title(f"{100 * (inside > outside).mean():.1f}% of {inside.size:,} images lie above the line")
        legend(axes, loc="best")
        return as_png(figure)


def accuracies(data: SweepReportData) -> bytes:
    """Accuracy of each model on members and on non-members: one mark a model, of very many a histogram."""
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        sides = ("member", "members", _MEMBER), ("nonmember", "non-members", _NONMEMBER)
        for axes, (part, title, color) in zip(figure.subplots(1, 2), sides, strict=True):
            values = 100 * over_models(data.results, "accuracy", part)
            numbers = values[np.isfinite(values)]
            axes.set_title(f"on {title}")
            if not numbers.size:
                _say(axes, "no model is left to show")
                continue
            middle = {**_REFERENCE, "label": f"mean {numbers.mean():.1f}%"}
            low, high = _span(numbers, least=0.2)
            high = min(high, 100 + 0.05 * (100 - low))
            if values.size <= _MOST_MODELS:
                look = {"s": 18, "color": color, "alpha": 0.8, "linewidths": 0}
                axes.scatter(np.arange(values.size), values, **look)
                axes.axhline(numbers.mean(), **middle)
                axes.set(ylim=(low, high), xlabel="number of the model", ylabel="accuracy, %")
                axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
                axes.ticklabel_format(axis="y", useOffset=False)
            else:
                bins = np.linspace(low, high, int(np.clip(2 * numbers.size ** (1 / 3), 10, 60)) + 1)
                axes.stairs(np.histogram(numbers, bins)[0], bins, fill=True, color=color + "b0")
                axes.axvline(numbers.mean(), **middle)
                axes.set(xlim=(low, high), xlabel="accuracy, %", ylabel="models")
                axes.ticklabel_format(axis="x", useOffset=False)
            legend(axes, loc="best")
        return as_png(figure)


def training_losses(data: SweepReportData) -> bytes:
    """Mean training loss of each group over the epochs; of very many groups the range and the median."""
    groups = defaultdict(list)
    for line in data.curves:
        groups[tuple(line["models"])].append(line)
    epochs = _epochs(data.curves)
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        axes = figure.subplots()
        means = _on_grid(groups, "loss", epochs)
        if not np.isfinite(means).any():
            return _nothing(figure, axes, "no training was recorded")
        lowest, highest = _envelope(
            _on_grid(groups, "loss_low", epochs), _on_grid(groups, "loss_high", epochs)
        )
        axes.fill_between(epochs, lowest, highest, color="#e3edf4", label="lowest to highest model")
        look = {"color": _MEMBER, "marker": "o" if epochs.size <= 6 else None, "markersize": 3.5}
        if len(means) <= _MOST_LINES:
            width = 1.6 if len(means) == 1 else 0.8
            for i, mean in enumerate(means):
                seen = np.isfinite(mean)
                name = None if i else "mean of a group" if len(means) > 1 else "mean over models"
                axes.plot(epochs[seen], mean[seen], linewidth=width, label=name, **look)
        else:
            low, high = _envelope(means, means)
            axes.fill_between(epochs, low, high, color="#9fc5dd", label="range of the groups' means")
            # Epochs at which no group says anything have no median, and NumPy would warn.
            said = np.isfinite(means).any(axis=0)
            axes.plot(
                epochs[said], np.nanmedian(means[:, said], axis=0), label="median of the groups", **look
            )
        _loss_axis(axes, means, lowest, highest)
        axes.set(xlabel="epoch", ylabel="training loss, nats")
        axes.set_xlim(left=0)
        legend(axes, loc="upper right")
        return as_png(figure)


def _epochs(curves: list[dict[str, Any]]) -> Float[np.ndarray, "L"]:
    """Where to draw: at the epochs of all lines, or, of groups that all went their own ways, at enough even steps."""
    epochs = np.unique(np.array([line["epoch"] for line in curves], np.float64))
    return epochs if epochs.size <= _MOST_EPOCHS else np.linspace(epochs[0], epochs[-1], _MOST_EPOCHS)


def _on_grid(groups: dict, key: str, epochs: Float[np.ndarray, "L"]) -> Float[np.ndarray, "G L"]:
    """Each group's values at these epochs, straight between its own; NaN before its first and after its last."""
    rows = np.full((len(groups), epochs.size), np.nan)
    for row, lines in zip(rows, groups.values(), strict=True):
        points = np.array([(line["epoch"], line.get(key)) for line in lines], np.float64)
        points = points[np.isfinite(points).all(axis=1)]
        points = points[np.argsort(points[:, 0], kind="stable")]
        if len(points):
            row[:] = np.interp(epochs, points[:, 0], points[:, 1], left=np.nan, right=np.nan)
    return rows


def _envelope(
    low: Float[np.ndarray, "G L"], high: Float[np.ndarray, "G L"]
) -> tuple[Float[np.ndarray, "L"], Float[np.ndarray, "L"]]:
    """The least and the greatest over the groups at each epoch, NaN where no group has any."""
    least, greatest = np.fmin.reduce(low, axis=0), np.fmax.reduce(high, axis=0)
    return least, greatest


def _loss_axis(
    axes: Axes,
    means: Float[np.ndarray, "G L"],
    lowest: Float[np.ndarray, "L"],
    highest: Float[np.ndarray, "L"],
) -> None:
    """A log scale where losses span decades; one model about to diverge must not flatten the others' curves."""
    values = means[np.isfinite(means)]
    ends = np.concatenate([x[np.isfinite(x)] for x in (lowest, highest)] + [values])
    top = min(ends.max(), 3 * values.max())
    bottom = max(ends.min(), values.min() / 10)
    if bottom > 0 and top > 20 * bottom:
        log_scale(axes, "y", 0.8 * bottom, 1.25 * top)
    else:
        low, high = _span(np.array([bottom, top]))
        axes.set_ylim(max(low, 0.0) if bottom >= 0 else low, high)


def _ends(values: Float[np.ndarray, "_"]) -> Float[np.ndarray, "2"]:
    """Where the tails begin; without enough values for a tail, the least and the greatest."""
    return np.array(
        [np.quantile(values, q, method=how) for q, how in ((_TAIL, "lower"), (1 - _TAIL, "higher"))]
    )


def _span(values: Float[np.ndarray, "_"], least: float = 1e-3) -> tuple[float, float]:
    """From the least to the greatest with 4% of air at both ends, and at least `least` and a digit to tell by."""
    low, high = float(values.min()), float(values.max())
    air = max(0.04 * (high - low), least, 1e-3 * max(abs(low), abs(high)))
    return low - air, high + air


def _nothing(figure: Figure, axes: Axes, text: str) -> bytes:
    _say(axes, text)
    return as_png(figure)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
