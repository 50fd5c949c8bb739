"""The figures of AMUN's neighbours: how near they are, what they look like, and what the theorem makes of them.

Each function returns a figure; draw it within `drawing()`.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mu_jax.evaluation.report.drawing import WIDTH, log_scale, printable
from mu_jax.evaluation.report.gallery import draw_image
from mu_jax.evaluation.report.methods_data import MethodsReportData, NeighbourPair
from mu_jax.evaluation.report.methods_figures import gap_axis, model_marker
from mu_jax.evaluation.report.methods_tables import KINDS, Row, by_name, in_order, mean, rows_of
from mu_jax.evaluation.report.palette import Style, model_styles

# Inches.
_COLUMNS, _SIDE, _GAP, _TEXT = 4, 0.76, 0.05, 0.36

_PANELS = {
    "distance": "δ, mean distance to the neighbours",
    "transfer": "transfer: % of neighbours that fool retrain too",
    "loss_retrained_adversarial": "ℓ(f_u(x′), y′), nats: retrain on neighbours",
    "loss_unlearned": "ℓ(f_θ′(x′), y′), nats: this model on neighbours",
    "c": "C, nats: the more the tighter",
    "weights_distance": "‖θ′ − θ_o‖²: way from the original (log scale)",
}


# The others are the same for all models of a forget set and base model.
_OF_THE_MODEL = ("loss_unlearned", "c", "weights_distance")


def bound_panels(data: MethodsReportData) -> list[str]:
    """The terms that differ from point to point: with one forget set some are the same for all models."""
    rows = rows_of(data.results, "bound")
    found = {key: {row.get(key) for row in rows} - {None} for key in _PANELS}
    return [key for key, values in found.items() if len(values) > 1]


def bound_terms_figure(data: MethodsReportData) -> Figure:
    """A panel for each term, the gap upwards: small points are runs, large ones their model's mean."""
    keys, runs = bound_panels(data), by_name(rows_of(data.results, "bound"))
    styles = model_styles(data.results["models"])
    # The gap of retrain is 0 by definition; its terms are drawn as a line.
    names = [name for name in in_order(data.results["models"]) if name in runs and name != "retrain"]
    gaps = [100 * row["gap"] for name in names for row in runs[name]]
    columns = min(len(keys), 3)
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(WIDTH, 2.75 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    gap_axis(panels[0], gaps)
    for axes, key in zip(panels, keys, strict=False):
        level = mean(runs.get("retrain", ()), key) if key in _OF_THE_MODEL else None
        _term(axes, key, {name: (runs[name], styles[name]) for name in names}, level)
        if level is not None:
            axes.axvline(level, color=styles["retrain"].color, linewidth=1, linestyle=(0, (5, 2)), zorder=1)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("gap to retrain, pp")
    _key(figure, names, styles, "retrain" in runs)
    return figure


def _term(axes: Axes, key: str, models: Mapping[str, tuple[list[Row], Style]], level: float | None) -> None:
    scale = 100 if key == "transfer" else 1
    points = {
        name: np.array([(scale * row[key], 100 * row["gap"]) for row in rows if row.get(key) is not None])
        for name, (rows, _) in models.items()
    }
    points = {name: values for name, values in points.items() if len(values)}
    every = [x for values in points.values() for x in values[:, 0]]
    # What retraining does is in the picture, however far from the methods.
    shown = [*points.get("retrain_again", np.zeros((0, 2)))[:, 0], *([] if level is None else [level])]
    logarithmic = key == "weights_distance" and min([*every, *shown]) > 0
    low, high = (min(every + shown), max(every + shown)) if logarithmic else _range(every, shown)
    for name, values in points.items():
        style = models[name][1]
        look = {"linestyle": "none", "marker": model_marker(style), "color": style.color}
        several = len(values) > 1
        if several or key not in _OF_THE_MODEL:
            x = np.clip(values[:, 0], low, high)
            axes.plot(x, values[:, 1], markersize=3 if key in _OF_THE_MODEL else 4.5, alpha=0.45, **look)
        if key in _OF_THE_MODEL:
            x, y = values.mean(axis=0)
            beyond = not low <= x <= high
            look |= {"markerfacecolor": "white" if beyond else style.color, "markersize": 7, "zorder": 4}
            look |= {"markeredgecolor": style.color if beyond else "white", "markeredgewidth": 0.7 + beyond}
            axes.plot(np.clip(x, low, high), y, **look)
    if logarithmic:
        log_scale(axes, "x", 0.7 * low, 1.4 * high)
    else:
        margin = 0.05 * (high - low)
        axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(_PANELS[key], fontsize=8.5)


def _range(values: Sequence[float], always: Sequence[float]) -> tuple[float, float]:
    """The values' range, without those that would press all others together; what is in `always` is in it."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    reach = 3 * (upper - lower) or np.inf
    kept = [*always, *(x for x in values if lower - reach <= x <= upper + reach)]
    low, high = float(min(kept)), float(max(kept))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _key(figure: Figure, names: Sequence[str], styles: dict, retrain: bool) -> None:
    axes = figure.axes[0]
    handles = [
        axes.plot(
            [],
            [],
            linestyle="none",
            marker=model_marker(styles[name]),
            markersize=7,
            color=styles[name].color,
        )[0]
        for name in names
    ]
    labels = [printable(name, 26) for name in names]
    if retrain:
        handles += axes.plot([], [], color=styles["retrain"].color, linewidth=1, linestyle=(0, (5, 2)))
        labels.append("retrain (gap 0)")
    box = figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8.5)
    for text in box.get_texts():
        text.set_parse_math(False)


def epsilon_histogram(data: MethodsReportData) -> Figure:
    """At which ε the label flipped, a panel a kind of attack; who was left out or needed none stands apart."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for made in data.results["neighbours"]:
        kinds[made["kind"]].append(made)
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, (kind, sets) in zip(panels, kinds.items(), strict=True):
        found: dict[float, int] = defaultdict(int)
        for made in sets:
            for epsilon, number in zip(made["epsilon"], made["count"], strict=True):
                # Those of 0 are counted as misclassified.
                if epsilon > 0:
                    found[float(f"{epsilon:.3g}")] += number
        misclassified = sum(made["misclassified"] for made in sets)
        stubborn, back = (sum(len(made[key]) for made in sets) for key in ("not_flipped", "flipped_back"))
        bars = {"wrong\nanyway": (misclassified, "#8c8c8c")}
        bars |= {f"{epsilon:g}": (found[epsilon], "#0072b2") for epsilon in sorted(found)}
        bars |= {"not\nflipped": (stubborn, "#d55e00"), "flipped\nback": (back, "#d55e00")}
        total = max(sum(number for number, _ in bars.values()), 1)
        for place, (number, color) in enumerate(bars.values()):
            axes.bar(place, 100 * number / total, color=color, width=0.72)
            # Zeros too: that nobody was left out is worth saying.
            axes.annotate(
                f"{number:,}",
                (place, 100 * number / total),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set_xticks(range(len(bars)), list(bars), fontsize=8)
        axes.set_title(f"{KINDS.get(kind, kind)}: {stubborn + back:,} of {total:,} left out")
        axes.set_xlabel(f"ε at which the label flipped{_norm(sets)}")
        axes.grid(False, axis="x")
        axes.margins(y=0.12)
    panels[0].set_ylabel("% of forgotten examples")
    return figure


def _norm(sets: Sequence[Row]) -> str:
    norm = sets[0].get("norm")
    return {"l2": " (ℓ2)", "linf": " (ℓ∞)"}.get(norm, "")


def neighbour_gallery(data: MethodsReportData) -> Figure:
    """Forgotten image, neighbour, and the difference of the two, stretched so that its largest value is full.

    All is drawn on one axes whose unit is the inch: a grid of small axes would take seconds to lay out.
    """
    rows = math.ceil(len(data.gallery) / _COLUMNS)
    height_of = [_SIDE * _tall(pair) + _TEXT for pair in data.gallery]
    cell_height = max(height_of) + 0.14
    height = rows * cell_height + 0.05
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, pair in enumerate(data.gallery):
        left = 0.08 + (i % _COLUMNS) * (WIDTH - 0.08) / _COLUMNS
        top = height - 0.05 - (i // _COLUMNS) * cell_height
        title = f"{printable(pair.label, 14)} → {printable(pair.adversarial_label, 14)}"
        axes.text(left, top - 0.14, title, fontsize=9, weight="bold", parse_math=False)
        axes.text(left, top - 0.30, f"distance {pair.distance:.3g}", fontsize=8, color="#555555")
        for j, image in enumerate((pair.image, pair.neighbour, _difference(pair))):
            draw_image(axes, image, left + j * (_SIDE + _GAP), top - _TEXT, _SIDE)
    axes.set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")
    return figure


def _tall(pair: NeighbourPair) -> float:
    return pair.image.shape[0] / max(pair.image.shape[:2])


def _difference(pair: NeighbourPair) -> np.ndarray:
    """Gray where nothing changed; brighter and darker as the neighbour is."""
    change = pair.neighbour.astype(np.float64) - pair.image
    largest = np.abs(change).max()
    return np.round(127.5 + 127.5 * change / (largest or 1.0)).astype(np.uint8)
