"""The figures of losses, ROC curves and training, each as the bytes of a PNG file."""

import math
from collections import defaultdict

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale, printable
from mu_jax.evaluation.report.palette import Style, model_styles
from mu_jax.evaluation.report.report_data import ReportData
from mu_jax.evaluation.report.tables import percent, shown_fpr
from mu_jax.evaluation.roc import roc_curve

# In float32 a loss below some 1e-7 is rounding: such losses share a bin, so that they do not set the scale.
_LOSS_FLOOR = 1e-7


def loss_histograms(data: ReportData) -> bytes:
    """The losses of forgotten and of unseen images, one panel a model, with bins in common."""
    styles = model_styles(data.results["models"])
    names = [name for name in styles if name in data.member_scores]
    columns = min(max(len(names), 1), 4)
    rows = max(math.ceil(len(names) / columns), 1)
    edges = _loss_bins([*data.member_scores.values(), *data.nonmember_scores.values()])
    with drawing():
        figure = Figure(figsize=(WIDTH, 2.7 * rows + 0.2), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            for scores, label, look in (
                (data.nonmember_scores[name], "unseen (test)", {"color": "#555555", "linewidth": 1.3}),
                (data.member_scores[name], "forgotten", {"color": styles[name].color + "90", "fill": True}),
            ):
                loss = np.clip(-scores.astype(np.float64), edges[0], edges[-1])
                share = 100 * np.histogram(loss, edges)[0] / loss.size
                axes.stairs(share, edges, label=label, **look)
            axes.set_title(printable(name, 24), parse_math=False)
            log_scale(axes, "x", edges[0], edges[-1])
            axes.grid(False, axis="x")
            legend(axes, loc="upper right", fontsize=8, handlelength=1.2, borderaxespad=0.1)
        # Room for the legends; the y axis is shared.
        panels[0].set_ylim(0, 1.25 * panels[0].get_ylim()[1])
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("% of images")
        figure.supxlabel("loss (cross-entropy, nats; log scale)", fontsize=9.5)
        return as_png(figure)


def roc_figure(data: ReportData) -> bytes:
    """ROC curves of the loss-threshold attack, one a model: linear axes left, logarithmic axes right."""
    models = data.results["models"]
    styles = model_styles(models)
    names = [name for name in styles if name in data.member_scores]
    with drawing():
        figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
        linear, logarithmic = figure.subplots(1, 2)
        # Half of the smallest rate above zero: where no false positive stands on an axis that has no zero.
        low_fpr, low_tpr = (
            0.5 / max((scores[name].size for name in names), default=1)
            for scores in (data.nonmember_scores, data.member_scores)
        )
        for name in names:
            members, nonmembers = data.member_scores[name], data.nonmember_scores[name]
            scores = np.concatenate([members, nonmembers])
            curve = roc_curve(scores, np.arange(scores.size) < members.size)
            auc = percent(models[name].get("attacks", {}).get("loss_threshold", {}).get("auc"))
            look = {"color": styles[name].color, "linestyle": styles[name].line}
            linear.plot(100 * curve.fpr, 100 * curve.tpr, label=f"{printable(name, 24)}, AUC {auc}%", **look)
            # Steps: between two thresholds the attack can only use the stricter one.
            logarithmic.plot(
                100 * np.maximum(curve.fpr, low_fpr),
                100 * np.maximum(curve.tpr, low_tpr),
                drawstyle="steps-post",
                **look,
            )
        chance = {"color": "#999999", "linewidth": 1, "linestyle": (0, (1, 2)), "zorder": 1}
        linear.plot([0, 100], [0, 100], label="chance", **chance)
        low = 100 * min(low_fpr, low_tpr)
        logarithmic.plot([low, 100], [low, 100], **chance)
        linear.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal", title="linear axes")
        log_scale(logarithmic, "x", 100 * low_fpr, 100.0)
        log_scale(logarithmic, "y", 100 * low_tpr, 100.0)
        logarithmic.set(box_aspect=1, title="logarithmic axes")
        rate = 100 * shown_fpr(models)
        logarithmic.axvline(rate, color="#bbbbbb", linewidth=0.9, zorder=1)
        logarithmic.annotate(
            f" {rate:g}% FPR",
            (rate, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=8,
            color="#666666",
        )
        for axes in (linear, logarithmic):
            axes.set_xlabel("false-positive rate, %")
            axes.set_ylabel("true-positive rate, %")
        legend(linear, loc="lower right")
        return as_png(figure)


def training_curves(data: ReportData) -> bytes:
    """Loss and accuracy on the training batches over each model's own epochs."""
    styles = model_styles(data.results["models"])
    runs = defaultdict(list)
    for line in data.curves:
        runs[line["model"]].append(line)
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        loss_axes, accuracy_axes = figure.subplots(1, 2)
        losses = []
        for name, style in styles.items():
            lines = sorted(runs.get(name, []), key=lambda line: line["step"])
            epochs, loss, accuracy = (
                np.array([line[key] for line in lines], np.float64) for key in ("epoch", "loss", "accuracy")
            )
            if not epochs.size:
                continue
            losses.append(loss)
            _curve(loss_axes, epochs, loss, name, style)
            _curve(accuracy_axes, epochs, 100 * accuracy, name, style)
        loss_axes.set_ylabel("training loss, nats")
        accuracy_axes.set_ylabel("training accuracy, %")
        values = np.concatenate(losses) if losses else np.ones(1)
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size == values.size and positive.max() > 20 * positive.min():
            log_scale(loss_axes, "y", 0.8 * positive.min(), 1.25 * positive.max())
        for axes in (loss_axes, accuracy_axes):
            axes.set_xlabel("epoch")
            if losses:
                axes.set_xlim(left=0)
            else:
                axes.text(0.5, 0.5, "no training was recorded", ha="center", transform=axes.transAxes)
        legend(accuracy_axes, loc="lower right")
        return as_png(figure)


def _curve(
    axes: Axes, epochs: Float[np.ndarray, "L"], values: Float[np.ndarray, "L"], name: str, style: Style
) -> None:
    # A line of one point is invisible, and fine-tuning may be no longer than one chunk.
    marker = "o" if epochs.size <= 6 else None
    axes.plot(
        epochs,
        values,
        color=style.color,
        linestyle=style.line,
        marker=marker,
        markersize=3.5,
        label=printable(name, 24),
    )


def _loss_bins(scores: list[Float[np.ndarray, "_"]]) -> Float[np.ndarray, "E"]:
    """Edges evenly spaced on a log scale over at least one power of ten; more bins for more examples."""
    bins = int(np.clip(2 * min((score.size for score in scores), default=1) ** 0.5, 12, 36))
    loss = -np.concatenate(scores).astype(np.float64) if scores else np.ones(1)
    loss = np.maximum(loss[np.isfinite(loss)], _LOSS_FLOOR)
    low, high = (np.log10(loss.min()), np.log10(loss.max())) if loss.size else (0.0, 0.0)
    widen = max(0.0, 1 - (high - low)) / 2 + 0.02
    return np.logspace(low - widen, high + widen, bins + 1)
