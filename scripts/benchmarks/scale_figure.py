"""The figures of scale, each as the bytes of a PNG file: seconds on the left, memory on the right."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.scale_analysis import FittedCosts, Measured
from benchmarks.scale_plan import DEVICES, EXAMPLES, MODELS, WIDTH
from benchmarks.scale_table import MEBI
from mu_jax.evaluation.report.drawing import WIDTH as PAGE
from mu_jax.evaluation.report.drawing import as_png, drawing, legend

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness.
_MEASURED, _FITTED, _PROCESS, _COMPILER = "#0072b2", "#d55e00", "#009e73", "#cc79a7"


def models_figure(measured: Sequence[Measured], costs: FittedCosts | None) -> bytes:
    """Against K, all side by side."""
    return _lines(measured, costs, MODELS, lambda one: one.case.models, "K, models side by side")


def examples_figure(measured: Sequence[Measured], costs: FittedCosts | None) -> bytes:
    """Against N, of which a model trains on half."""
    return _lines(measured, costs, EXAMPLES, lambda one: one.case.examples, "N, examples")


def width_figure(measured: Sequence[Measured]) -> bytes:
    """By network and size of images, per image: they differ in how many there are."""
    points = _along(measured, WIDTH, lambda one: (one.case.side, one.case.width))
    names = [f"width {one.case.width}\n{one.case.side}×{one.case.side}" for one in points]
    per_image = [1e6 * one.found["seconds"] / (one.case.examples / 2) for one in points]
    each = [_device_bytes(one) / one.case.models_per_device for one in points]
    return _bars(names, per_image, "µs a training image", each, "compiler's MiB a device / models on it")


def devices_figure(measured: Sequence[Measured]) -> bytes:
    """By how a machine is shared out: devices of one process, and processes of a core each."""
    points = _along(measured, DEVICES, lambda one: (one.case.one_core, one.case.processes, one.case.devices))
    names = [arrangement(one) for one in points]
    rates = [1.0 / one.found["seconds"] for one in points]
    peaks = [one.found["working_peak_bytes"] * one.case.processes / one.case.models for one in points]
    return _bars(names, rates, "model-epochs a second", peaks, "resident MiB a model, at work")


def arrangement(one: Measured) -> str:
    """Devices, processes and cores of a point, on a label's lines."""
    case = one.case
    devices = f"{case.devices} device{'s' if case.devices > 1 else ''}"
    processes = f"{case.processes} process{'es' if case.processes > 1 else ''}"
    each = " each" if case.processes > 1 else ""
    cores = "1 core" if case.one_core else "all cores"
    return f"{processes}\n{devices}{each}\n{cores}{each}\nK = {case.models}"


def _lines(
    measured: Sequence[Measured],
    costs: FittedCosts | None,
    axis: str,
    where: Callable[[Measured], int],
    label: str,
) -> bytes:
    points = _along(measured, axis, where)
    places = [where(one) for one in points]
    with drawing():
        figure = Figure(figsize=(PAGE, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(
            places, [1e3 * one.found["seconds"] for one in points], "o-", color=_MEASURED, label="measured"
        )
        if costs is not None:
            fitted = [
                1e3 * one.found["seconds"] * (1 + costs.train_residuals[one.case.name]) for one in points
            ]
            left.plot(places, fitted, "x--", color=_FITTED, label="cost model")
        left.set_ylabel("ms a model-epoch")
        right.plot(
            places,
            [one.found["working_peak_bytes"] / MEBI for one in points],
            "o-",
            color=_PROCESS,
            label="process, resident at its peak, at work",
        )
        right.plot(
            places,
            [one.case.devices * _device_bytes(one) / MEBI for one in points],
            "s--",
            color=_COMPILER,
            label="compiler's figure, all devices",
        )
        right.set_ylabel("MiB")
        for axes in (left, right):
            axes.set_xscale("log")
            _plain_ticks(axes, places)
            axes.set_xlabel(f"{label} (log scale)")
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
            legend(axes, loc="upper left")
        return as_png(figure)


def _bars(
    names: Sequence[str], left: Sequence[float], left_label: str, right: Sequence[float], right_label: str
) -> bytes:
    """A panel of costs and one of bytes, a bar a point, with its figure above it."""
    with drawing():
        figure = Figure(figsize=(PAGE, 3.6), layout="constrained")
        panels = figure.subplots(1, 2)
        sizes = [size / MEBI for size in right]
        for axes, values, label, color in (
            (panels[0], left, left_label, _MEASURED),
            (panels[1], sizes, right_label, _COMPILER),
        ):
            bars = axes.bar(range(len(values)), values, width=0.6, color=color)
            axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=2)
            axes.set_xticks(range(len(names)), names)
            axes.set_ylabel(label)
            axes.set_ylim(0, 1.15 * max(values))
            axes.grid(False, axis="x")
        return as_png(figure)


def _along(measured: Sequence[Measured], axis: str, key: Callable[[Measured], object]) -> list[Measured]:
    return sorted((one for one in measured if axis in one.point.axes), key=key)


def _device_bytes(one: Measured) -> float:
    return one.found["device_bytes"][f"map {one.case.models_per_device}"]


def _plain_ticks(axes: Axes, places: Sequence[int]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
