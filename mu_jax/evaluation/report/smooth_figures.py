"""The figures of the study of smooth models, each as the bytes of a PNG file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale
from mu_jax.evaluation.report.smooth_tables import NORMS, clip_words

_LOOKS = {"batch": ("#0072b2", "o"), "none": ("#d55e00", "s")}
_PANELS = (
    ("test", "test accuracy, %", 100.0, False),
    ("lipschitz_bound", "Lipschitz bound", 1.0, True),
    ("robust_accuracy", "robust accuracy, %", 100.0, False),
    ("transfer", "transfer between two models, %", 100.0, False),
    ("distance", "mean δ of AMUN's neighbours", 1.0, False),
    ("gap_amun", "gap to retraining, pp", 100.0, False),
)


def study_figure(results: Mapping[str, Any]) -> bytes:
    """A panel a figure, against the clip, from none to the tightest; a line with bars of one sd for each norm."""
    rows, study = results["tables"]["kinds"], results["study"]
    # Tighter to the right; 0 is no clipping.
    clips = sorted(study["clips"], key=lambda clip: -(clip or np.inf))
    with drawing():
        figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
        for axes, (key, title, scale, is_log) in zip(figure.subplots(2, 3).ravel(), _PANELS, strict=True):
            for norm in study["norms"]:
                mine = {row["clip"]: row for row in rows if row["norm"] == norm}
                color, marker = _LOOKS[norm]
                _line(axes, [mine[clip] for clip in clips], key, scale, color, marker, NORMS[norm])
                if key == "gap_amun":
                    floor = [mine[clip]["gap_retrain_again"] for clip in clips]
                    known = [(i, scale * value) for i, value in enumerate(floor) if value is not None]
                    if known:
                        axes.plot(*zip(*known, strict=True), color=color, linestyle=":", linewidth=1.1)
            axes.set_title(title)
            axes.set_xticks(range(len(clips)), [clip_words(clip) for clip in clips])
            axes.set_xlim(-0.4, len(clips) - 0.6)
            values = [scale * row[key] for row in rows if row[key] is not None]
            if is_log and values and min(values) > 0:
                log_scale(axes, "y", min(values) / 3, max(values) * 3)
            elif values:
                axes.set_ylim(bottom=0)
        for axes in figure.axes[3:]:
            axes.set_xlabel("layers clipped at")
        legend(figure.axes[0], loc="lower left")
        return as_png(figure)


def histories_figure(histories: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A panel a kind: every layer's tracked norm over training, from the first layer (dark) to the last (light)."""
    norms = list(dict.fromkeys(history["norm"] for history in histories.values()))
    columns = max(sum(history["norm"] == norm for history in histories.values()) for norm in norms)
    with drawing():
        figure = Figure(figsize=(WIDTH, 2.7 * len(norms) + 0.5), layout="constrained")
        panels = figure.subplots(len(norms), columns, sharey=True, squeeze=False)
        for line, norm in zip(panels, norms, strict=True):
            mine = [history for history in histories.values() if history["norm"] == norm]
            for axes, history in zip(line, mine, strict=False):
                _history(axes, history)
            for axes in line[len(mine) :]:
                axes.set_visible(False)
            line[0].set_ylabel(f"{NORMS[norm]}: layer norm")
        shown = [_plain(history)[0] for history in histories.values()]
        values = np.concatenate([norms[norms > 0] for norms in shown])
        log_scale(panels[0][0], "y", float(values.min()) / 1.3, float(values.max()) * 1.3)
        for axes in panels[-1]:
            axes.set_xlabel("step")
        return as_png(figure)


def _line(
    axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, scale: float, color: str, marker: str, label: str
) -> None:
    known = [(i, row[key], row[f"{key}_sd"] or 0.0) for i, row in enumerate(rows) if row[key] is not None]
    if not known:
        return
    at, values, spreads = (np.array(column, float) for column in zip(*known, strict=True))
    axes.errorbar(
        at,
        scale * values,
        yerr=scale * spreads,
        color=color,
        marker=marker,
        markersize=4.5,
        capsize=2.5,
        elinewidth=1.0,
        label=label,
    )


def _history(axes: Axes, history: Mapping[str, Any]) -> None:
    norms, count = _plain(history)
    for i in range(count):
        color = colormaps["viridis"](0.9 * i / max(count - 1, 1))
        axes.plot(history["steps"], norms[:, i], color=color, linewidth=0.9)
    if history["clip"]:
        axes.axhline(history["clip"], color="#d55e00", linestyle="--", linewidth=1.2)
    axes.set_title(f"clipped at {history['clip']:g}" if history["clip"] else "not clipped")


def _plain(history: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """The columns of layers by themselves."""
    columns = [i for i, name in enumerate(history["names"]) if not name.endswith("+norm")]
    return np.asarray(history["norms"])[:, columns], len(columns)
