"""The examples that an attack gives away most and least, as images or, without them, as tables."""

import math

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mu_jax.evaluation.report.attack_data import AttackReportData
from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, printable
from mu_jax.evaluation.report.tables import Table

# Inches.
_IMAGE = 1.05
_LINE = 0.17
_HEADING = 0.3
_GAP = 0.16
_COLUMNS = 8
_MOST_IMAGES = 2 * _COLUMNS
_MOST_ROWS = 10


def exposed(data: AttackReportData, most: int) -> tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]:
    """Positions of up to `most` examples each, from the most exposed down and from the least exposed up.

    None is in both, and none has an exposure of NaN; ties go by position.
    """
    known = np.flatnonzero(~np.isnan(data.exposure))
    top = known[np.argsort(-data.exposure[known], kind="stable")][: min(most, math.ceil(known.size / 2))]
    rest = np.setdiff1d(known, top)
    return top, rest[np.argsort(data.exposure[rest], kind="stable")][:most]


def exposure_tables(data: AttackReportData) -> tuple[Table, Table]:
    """The most and the least exposed examples: index, label, exposure."""
    most, least = (
        [[f"#{data.examples[i]}", example_label(data, i), _signed(data.exposure[i])] for i in chosen.tolist()]
        for chosen in exposed(data, _MOST_ROWS)
    )
    header = ["Example", "Label", "Exposure"]
    return (header, most), (header, least)


def exposed_images(data: AttackReportData) -> bytes:
    """The most and the least exposed images, under their labels, with index and exposure beneath.

    All is drawn on one axes whose unit is the inch: a grid of small axes would take seconds to lay out.
    """
    groups = zip(("Most exposed", "Least exposed"), exposed(data, _MOST_IMAGES), strict=True)
    groups = [(heading, chosen) for heading, chosen in groups if chosen.size]
    cell = _LINE + _IMAGE + _LINE + _GAP
    height = sum(_HEADING + math.ceil(chosen.size / _COLUMNS) * cell for _, chosen in groups) + 0.05
    with drawing():
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        top = height - 0.05
        for heading, chosen in groups:
            axes.text(0.1, top - 0.18, heading, fontsize=10.5, weight="bold")
            top -= _HEADING
            for j, i in enumerate(chosen.tolist()):
                left = 0.1 + (j % _COLUMNS) * (WIDTH - 0.1) / _COLUMNS
                _example(axes, data, i, left, top - (j // _COLUMNS) * cell)
            top -= math.ceil(chosen.size / _COLUMNS) * cell
        axes.set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")
        return as_png(figure)


def example_label(data: AttackReportData, i: int) -> str:
    """The class of the i-th example by name, or by number where classes have none."""
    label = int(data.labels[i])
    return data.class_names[label] if 0 <= label < len(data.class_names) else str(label)


def _example(axes: Axes, data: AttackReportData, i: int, left: float, top: float) -> None:
    image = data.images[i]
    tall, wide = image.shape[:2]
    scale = _IMAGE / max(tall, wide)
    upper = top - _LINE
    extent = (left, left + wide * scale, upper - tall * scale, upper)
    axes.text(left, upper + 0.05, printable(example_label(data, i), 16), fontsize=8.5, parse_math=False)
    # Nearest: an 8×8 digit is 64 squares, not a blur.
    shown = image[..., 0] if image.shape[-1] == 1 else image
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest", aspect="auto")
    frame = {"fill": False, "edgecolor": "#bbbbbb", "linewidth": 0.6}
    axes.add_patch(Rectangle(extent[::2], wide * scale, tall * scale, **frame))
    text = {"fontsize": 8, "va": "top", "color": "#333333"}
    lower = extent[2] - 0.04
    axes.text(left, lower, f"#{data.examples[i]}", **text)
    axes.text(left + _IMAGE, lower, _signed(data.exposure[i]), ha="right", **text)


def _signed(value: float | np.floating) -> str:
    rounded = round(float(value), 2) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.2f}"
