"""The figure of the one benchmark: how many times as fast ours is, a bar a row."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.suite_reading import PYTORCH, Reading
from benchmarks.suite_table import ratio_text
from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, log_scale, printable

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness.
_COLORS = {
    "reaches its target": "#009e73",
    "faster, short of its target": "#e69f00",
    "slower than PyTorch": "#d55e00",
    "not beside PyTorch": "#b0b0b0",
}


def ratio_bars(readings: Sequence[Reading]) -> bytes:
    """Bars from 1× to ours ÷ the other side on a log axis, the fastest above; targets of their own are ticks."""
    shown = sorted((r for r in readings if r.ratio and not r.failure), key=lambda r: -r.ratio)
    with drawing():
        figure = Figure(figsize=(WIDTH, 0.3 * max(len(shown), 1) + 1.5), layout="constrained")
        axes = figure.subplots()
        for place, reading in enumerate(shown):
            hatch = "///" if reading.disturbed else None
            axes.barh(
                place,
                reading.ratio - 1,
                left=1,
                height=0.66,
                color=_COLORS[standing(reading)],
                edgecolor="white",
                hatch=hatch,
            )
            if reading.row.target != 1:
                axes.plot(
                    [reading.row.target] * 2, [place - 0.42, place + 0.42], color="#222222", linewidth=2
                )
            left = reading.ratio < 1
            axes.annotate(
                ratio_text(reading),
                (reading.ratio, place),
                xytext=(-4 if left else 4, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
            )
        every = [1.0, *(r.ratio for r in shown), *(r.row.target for r in shown)]
        log_scale(axes, "x", min(every) / 1.6, max(every) * 1.6)
        axes.axvline(1.0, color="#222222", linewidth=1.4)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_yticks(range(len(shown)), [printable(r.row.name) for r in shown])
        axes.set_xlabel("times as fast as PyTorch (log scale); left of 1 PyTorch is the faster")
        handles = [Patch(color=color, label=label) for label, color in _COLORS.items()]
        if any(reading.disturbed for reading in shown):
            handles.append(Patch(facecolor="#ffffff", edgecolor="#222222", hatch="///", label="disturbed"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return as_png(figure)


def standing(reading: Reading) -> str:
    """Where a measured row stands: a key of the legend."""
    if reading.beside != PYTORCH:
        return "not beside PyTorch"
    if reading.ratio < 1:
        return "slower than PyTorch"
    return "reaches its target" if reading.met else "faster, short of its target"
