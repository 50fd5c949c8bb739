"""The figures of membership attacks, ROC curves and scores, each as the bytes of a PNG file."""

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mu_jax.evaluation.intervals import proportion_interval
from mu_jax.evaluation.report.attack_data import AttackReportData, AttackScores, by_strength
from mu_jax.evaluation.report.drawing import WIDTH, as_png, drawing, legend, log_scale, printable
from mu_jax.evaluation.report.palette import Style, model_styles
from mu_jax.evaluation.report.tables import percent
from mu_jax.evaluation.roc import RocCurve, roc_curve

_MEMBER, _NONMEMBER = "#0072b2", "#555555"
# Of more targets, the range of their curves says more than a band computed from counts.
FEW_TARGETS = 3
_LEVEL = 0.95
_RANGE = (5, 95)
# Points of each of four grids that thin a curve, and of the grids on which bands are drawn.
_GRID = 500
_BAND_GRID = 200
# Left of it nobody has enough non-members.
_LOWEST = 1e-5
# Share of scores beyond each end of the histogram's axis, counted in the end bins.
_TAIL = 1e-3


def attack_styles(data: AttackReportData) -> dict[str, Style]:
    """A colour and line for each attack by its name, the same in figures and tables."""
    return model_styles(attack.name for attack in by_strength(data.attacks))


def attack_roc(data: AttackReportData) -> bytes:
    """ROC curves of all attacks, pooled over targets: linear axes left, logarithmic axes right."""
    member, styles = data.is_member, attack_styles(data)
    members, nonmembers = int(member.sum()), int(member.size - member.sum())
    low_fpr, low_tpr = (max(0.3 / count, _LOWEST) for count in (nonmembers, members))
    with drawing():
        figure = Figure(figsize=(WIDTH, 5.3 + 0.21 * ((len(data.attacks) + 2) // 2)), layout="constrained")
        linear, logarithmic = figure.subplots(1, 2)
        handles = []
        for attack in by_strength(data.attacks):
            style = styles[attack.name]
            curve = roc_curve(attack.scores.ravel(), member.ravel())
            _bands(linear, logarithmic, attack, member, curve, style, low_fpr, low_tpr)
            kept = thinned(curve)
            fpr, tpr = curve.fpr[kept], curve.tpr[kept]
            look = {"color": style.color, "linestyle": style.line}
            name = f"{printable(attack.name, 48)}: AUC {percent(attack.row.get('auc'))}%"
            handles += linear.plot(100 * fpr, 100 * tpr, label=name, **look)
            # Steps: between two thresholds the attack can only use the stricter one, at each FPR the one that finds
            # most. A rate of 0 has no place on the axis: an FPR of 0 stands at its left end, a TPR of 0 is not drawn.
            best = np.append(np.diff(fpr) > 0, True)
            fpr, tpr = np.maximum(fpr[best], low_fpr), np.where(tpr[best] > 0, tpr[best], np.nan)
            logarithmic.plot(100 * fpr, 100 * tpr, drawstyle="steps-post", **look)
        chance = {"color": "#888888", "linewidth": 1.1, "linestyle": (0, (1, 2)), "zorder": 3}
        handles += linear.plot([0, 100], [0, 100], label="a guess: AUC 50.0%", **chance)
        low = 100 * min(low_fpr, low_tpr)
        logarithmic.plot([low, 100], [low, 100], **chance)
        linear.set(xlim=(-1, 101), ylim=(-1, 101), box_aspect=1, title="linear axes")
        log_scale(logarithmic, "x", 100 * low_fpr, 100.0)
        log_scale(logarithmic, "y", 100 * low_tpr, 100.0)
        logarithmic.set(box_aspect=1, title="logarithmic axes")
        _unmeasured(logarithmic, 100 * low_fpr, 100 / nonmembers)
        for axes in (linear, logarithmic):
            axes.set_xlabel("false-positive rate, %")
            axes.set_ylabel("true-positive rate, %")
        key = figure.legend(handles=handles, loc="outside lower center", ncols=2)
        for text in key.get_texts():
            text.set_parse_math(False)
        return as_png(figure)


def attack_scores(data: AttackReportData) -> bytes:
    """Scores of the first attack over all targets: members (filled) and non-members (outlined), bins in common."""
    attack = data.attacks[0]
    sides = [
        (attack.scores[~data.is_member], "non-members", {"color": _NONMEMBER, "linewidth": 1.3}),
        (attack.scores[data.is_member], "members", {"color": _MEMBER + "90", "fill": True}),
    ]
    sides = [side for side in sides if side[0].size]
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        low, high = score_range(attack.scores.ravel())
        smallest = min(scores.size for scores, *_ in sides)
        edges = np.linspace(low, high, int(np.clip(2 * smallest ** (1 / 3), 10, 80)) + 1)
        for scores, label, look in sides:
            share = 100 * np.histogram(np.clip(scores, low, high), edges)[0] / scores.size
            axes.stairs(share, edges, label=label, **look)
        axes.set(xlim=(low, high), xlabel="score (higher: more likely a member)", ylabel="% of scores")
        axes.set_title(printable(attack.name, 60), parse_math=False)
        axes.grid(False, axis="x")
        legend(axes, loc="best")
        return as_png(figure)


def thinned(curve: RocCurve) -> Int[np.ndarray, "_"]:
    """Positions of at most some 2,000 points that draw the curve alike on linear and on logarithmic axes."""
    if curve.fpr.size <= 4 * _GRID:
        return np.arange(curve.fpr.size)
    grids = np.linspace(0, 1, _GRID), np.geomspace(_LOWEST, 1, _GRID)
    found = [np.searchsorted(rate, grid, "right") - 1 for rate in (curve.fpr, curve.tpr) for grid in grids]
    return np.unique(np.concatenate([[0, curve.fpr.size - 1], *found]))


def target_bands(
    scores: Float[np.ndarray, "T N"],
    member: Bool[np.ndarray, "T N"],
    fpr: Float[np.ndarray, "G"],
    *,
    steps: bool,
) -> Float[np.ndarray, "2 G"]:
    """The 5th and the 95th percentile, over targets, of the TPR at each FPR.

    With `steps` a TPR is that of the strictest threshold within the FPR, as an attacker has it; without, it lies
    straight between the curve's points, as the area under it counts ties. Targets all of whose examples are of
    one kind have no curve. NaN where none has.
    """
    rows = []
    for score, truth in zip(scores, member, strict=True):
        if truth.all() or not truth.any():
            continue
        curve = roc_curve(score, truth)
        last = np.searchsorted(curve.fpr, fpr, "right") - 1
        if steps:
            rows.append(curve.tpr[last])
            continue
        after = np.minimum(last + 1, curve.fpr.size - 1)
        width = curve.fpr[after] - curve.fpr[last]
        share = np.divide(fpr - curve.fpr[last], width, out=np.zeros_like(fpr), where=width > 0)
        rows.append(curve.tpr[last] + share * (curve.tpr[after] - curve.tpr[last]))
    if not rows:
        return np.full((2, fpr.size), np.nan)
    return np.percentile(np.stack(rows), _RANGE, axis=0)


def score_range(scores: Float[np.ndarray, "_"]) -> tuple[float, float]:
    """Between the outermost 0.1% of the finite scores at each end, widened where they do not differ."""
    finite = scores[np.isfinite(scores)]
    if not finite.size:
        return -1.0, 1.0
    low, high = (
        float(np.quantile(finite, q, method=how)) for q, how in ((_TAIL, "lower"), (1 - _TAIL, "higher"))
    )
    air = max(0.02 * (high - low), 1e-3, 1e-3 * max(abs(low), abs(high)))
    return low - air, high + air


def _bands(
    linear: Axes,
    logarithmic: Axes,
    attack: AttackScores,
    member: Bool[np.ndarray, "T N"],
    curve: RocCurve,
    style: Style,
    low_fpr: float,
    low_tpr: float,
) -> None:
    look = {"color": style.color, "alpha": 0.13, "linewidth": 0}
    even, spread = np.linspace(0, 1, _BAND_GRID), np.geomspace(low_fpr, 1, _BAND_GRID)
    if len(member) >= FEW_TARGETS:
        linear_band = target_bands(attack.scores, member, even, steps=False)
        log_band = target_bands(attack.scores, member, spread, steps=True)
    else:
        kept = thinned(curve)
        kept = np.append(kept[: -1 : max(1, kept.size // _BAND_GRID)], kept[-1])
        even, total = curve.fpr[kept], int(curve.true_positives[-1])
        linear_band = _wilson(curve.true_positives[kept], total)
        last = np.searchsorted(curve.fpr, spread, "right") - 1
        log_band = _wilson(curve.true_positives[last], total)
    linear.fill_between(100 * even, *(100 * linear_band), **look)
    logarithmic.fill_between(100 * spread, *(100 * np.maximum(log_band, low_tpr)), step="post", **look)


def _wilson(found: Int[np.ndarray, "G"], total: int) -> Float[np.ndarray, "2 G"]:
    return np.array([proportion_interval(int(count), total, level=_LEVEL) for count in found]).T


def _unmeasured(axes: Axes, left: float, one: float) -> None:
    """A shade over rates that would allow less than one false positive."""
    if one <= left:
        return
    axes.axvspan(left, one, color="#efefef", zorder=0)
    axes.axvline(one, color="#aaaaaa", linewidth=0.9, zorder=1)
    look = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 8, "color": "#555555"}
    middle = (left * one) ** 0.5
    axes.annotate("less than one false positive", (middle, 0.03), xycoords=("data", "axes fraction"), **look)
