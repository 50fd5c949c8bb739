"""The examples that an attack gives away most and least, as images or, without them, as tables."""

import math

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mu_jax.evaluation.report.attack_data import AttackReportData
from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, printable
from mu_jax.evaluation.report.gallery import draw_image
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
    """The most and the least exposed examples: index, label where there are labels, exposure."""
    labelled = data.labels is not None
    most, least = (
        [
            [
                f"#{data.examples[i]}",
                *([example_label(data, i)] if labelled else []),
                _signed(data.exposure[i]),
            ]
            for i in chosen.tolist()
        ]
        for chosen in exposed(data, _MOST_ROWS)
    )
    header = ["Example", *(["Label"] if labelled else []), "Exposure"]
    return (header, most), (header, least)


def exposed_images(data: AttackReportData) -> bytes:
    """The most and the least exposed images, under their labels if they have any, with index and exposure beneath.

    All is drawn on one axes whose unit is the inch: a grid of small axes would take seconds to lay out.
    """
    groups = zip(("Most exposed", "Least exposed"), exposed(data, _MOST_IMAGES), strict=True)
    groups = [(heading, chosen) for heading, chosen in groups if chosen.size]
    cell = _above(data) + _IMAGE + _LINE + _GAP
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
    """The class of the i-th example by name, or by number where classes have none; empty without labels."""
    if data.labels is None:
        return ""
    label = int(data.labels[i])
    return data.class_names[label] if 0 <= label < len(data.class_names) else str(label)


def _example(axes: Axes, data: AttackReportData, i: int, left: float, top: float) -> None:
    upper = top - _above(data)
    label = printable(example_label(data, i), 16)
    axes.text(left, upper + 0.05, label, fontsize=8.5, parse_math=False)
    lower = draw_image(axes, data.images[i], left, upper, _IMAGE) - 0.04
    text = {"fontsize": 8, "va": "top", "color": "#333333"}
    axes.text(left, lower, f"#{data.examples[i]}", **text)
    axes.text(left + _IMAGE, lower, _signed(data.exposure[i]), ha="right", **text)


def _above(data: AttackReportData) -> float:
    """Room for a label."""
    return 0.0 if data.labels is None else _LINE


def _signed(value: float | np.floating) -> str:
    rounded = round(float(value), 2) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.2f}"
