"""Forgotten images, each with the confidence that every model still gives to its label."""

import math

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, printable
from mu_jax.evaluation.report.palette import Style, model_styles
from mu_jax.evaluation.report.report_data import ReportData

# Inches.
_CELL = 1.88
_IMAGE = 1.05
_LINE = 0.17
_TITLE = 0.22
_GAP = 0.24
_NAME = 0.96
_NUMBER = 0.4
_COLUMNS = 5


def forgotten_images(data: ReportData) -> bytes:
    """A grid of images with their labels above, and beneath a bar and a number in percent for each model.

    All is drawn on one axes whose unit is the inch: a grid of small axes would take seconds to lay out.
    """
    styles = {
        name: style
        for name, style in model_styles(data.results["models"]).items()
        if name in data.gallery_confidence
    }
    images = data.gallery_images
    rows = max(math.ceil(len(images) / _COLUMNS), 1)
    cell_height = _TITLE + _IMAGE + 0.06 + _LINE * len(styles) + _GAP
    height = rows * cell_height + 0.05
    with drawing():
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for i, (image, label) in enumerate(zip(images, data.gallery_labels, strict=True)):
            left = 0.1 + (i % _COLUMNS) * (WIDTH - 0.1) / _COLUMNS
            top = height - 0.05 - (i // _COLUMNS) * cell_height
            axes.text(left, top - 0.16, printable(label, 22), fontsize=9, weight="bold", parse_math=False)
            draw_image(axes, image, left, top - _TITLE, _IMAGE)
            for j, (name, style) in enumerate(styles.items()):
                middle = top - _TITLE - _IMAGE - 0.06 - (j + 0.5) * _LINE
                _bar(axes, float(data.gallery_confidence[name][i]), name, style, left, middle)
        axes.set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")
        return as_png(figure)


def draw_image(axes: Axes, image: UInt8[np.ndarray, "H W D"], left: float, top: float, side: float) -> float:
    """One framed image on axes whose unit is the inch, its upper left corner at (left, top); returns its lower edge.

    `side`: length of the longer side, in inches.
    """
    tall, wide = image.shape[:2]
    scale = side / max(tall, wide)
    extent = (left, left + wide * scale, top - tall * scale, top)
    # Nearest: an 8×8 digit is 64 squares, not a blur.
    shown = image[..., 0] if image.shape[-1] == 1 else image
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest", aspect="auto")
    axes.add_patch(
        Rectangle(extent[::2], wide * scale, tall * scale, fill=False, edgecolor="#bbbbbb", linewidth=0.6)
    )
    return extent[2]


def _bar(axes: Axes, confidence: float, name: str, style: Style, left: float, middle: float) -> None:
    start, width, size = left + _NAME, _CELL - _NAME - _NUMBER, 0.62 * _LINE
    text = {"va": "center", "fontsize": 8, "color": "#333333", "parse_math": False}
    axes.text(left, middle, printable(name, 15), **text)
    axes.add_patch(Rectangle((start, middle - size / 2), width, size, facecolor="#ececec", linewidth=0))
    filled = width * min(max(confidence, 0.0), 1.0) if math.isfinite(confidence) else 0.0
    axes.add_patch(Rectangle((start, middle - size / 2), filled, size, facecolor=style.color, linewidth=0))
    shown = f"{100 * confidence:.0f}%" if math.isfinite(confidence) else "–"
    axes.text(left + _CELL, middle, shown, ha="right", **text)
