"""Membership attacks as rows of strings, the same for the page and for the terminal. Rates stand in percent.

A true-positive rate stands beside the number of false positives it was read at: a handful makes a rough figure.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.evaluation.report.attack_data import attack_name
from mu_jax.evaluation.report.tables import MISSING, Number, Table, percent

FEW_FALSE_POSITIVES = 10
"""Below it, a rate hangs on a few non-members, and other ones would give another."""

Row = Mapping[str, Any]

# By what a row's `thresholds` says.
_SOURCES = {"cross-fitted": "other examples of the same target"}


def attack_table(rows: Iterable[Row], compact: bool = False) -> Table:
    """Header and one row an attack, in the order given; `compact` keeps two rates and fits 100 columns.

    Rates read at fewer than `FEW_FALSE_POSITIVES` false positives say "only", and in the compact form begin with ~, as
    predictive values do.
    """
    rows = list(rows)
    rates = reported_fprs(rows)
    headline = headline_fpr(rows)
    if compact:
        rates = [rate for rate in rates if rate >= headline][:2]
        header = ["Attack", "AUC %", *(f"TPR@{100 * rate:g}% (FP)" for rate in rates), "Accuracy %"]
        return header, [
            [
                short_name(row),
                percent(row.get("auc"), _bounds(row, "auc")),
                *(_compact_point(at(row, rate)) for rate in rates),
                percent(row.get("accuracy")),
            ]
            for row in rows
        ]
    priors = sorted(
        {entry["prior"] for row in rows for entry in row.get("ppv") or () if entry["fpr"] == headline}
    )
    header = ["Attack", "AUC %", *(f"TPR % at {100 * rate:g}% FPR" for rate in rates), "Balanced accuracy %"]
    if priors:
        shown = _first_apart([f"{100 * prior:g}%" for prior in priors])
        header.append(f"PPV % at {100 * headline:g}% FPR, prior {shown}")
    table = []
    for row in rows:
        cells = [attack_name(row), percent(row.get("auc"), _bounds(row, "auc"))]
        cells += [_point(at(row, rate)) for rate in rates]
        cells.append(percent(row.get("accuracy"), _bounds(row, "accuracy")))
        if priors:
            cells.append(_predictive(row, headline, priors))
        table.append(cells)
    return header, table


def operating_table(rows: Iterable[Row]) -> Table:
    """The TPR at each FPR, with its interval."""
    rows = list(rows)
    rates = reported_fprs(rows)
    header = ["Attack", *(f"TPR % at {100 * rate:g}% FPR" for rate in rates)]
    table = []
    for row in rows:
        points = (at(row, rate) or {} for rate in rates)
        cells = (fine_percent(point.get("tpr"), point.get("interval")) for point in points)
        table.append([attack_name(row), *cells])
    return header, table


def transfer_table(rows: Iterable[Row]) -> Table | None:
    """What thresholds learned elsewhere give: TPR, and in parentheses the FPR and the number of false positives.

    None where none was learned.
    """
    rows = list(rows)
    rates = [
        rate for rate in reported_fprs(rows) if any(_transferred(at(row, rate)) != MISSING for row in rows)
    ]
    if not rates:
        return None
    header = ["Attack", *(f"Aiming at {100 * rate:g}% FPR: TPR\u00a0% (FPR, FP)" for rate in rates)]
    return header, [[attack_name(row), *(_transferred(at(row, rate)) for rate in rates)] for row in rows]


def detail_table(rows: Iterable[Row]) -> Table:
    """How the AUC differs from target to target, and the other ways of counting right answers."""
    header = ["Attack", "Single targets' AUC\u00a0%, mean\u00a0±\u00a0SD", "Lowest", "Highest", "|AUC−50|"]
    header += ["Best threshold %", "Advantage, pp"]
    table = []
    for row in rows:
        rates = (percent(row.get(key)) for key in ("auc_distance", "best_accuracy", "advantage"))
        table.append([attack_name(row), *_spread(target_aucs(row)), *rates])
    return header, table


def learned_on(rows: Iterable[Row], targets: int) -> str:
    """What the thresholds of `accuracy` and of `transfer_table` were learned on, in words.

    `targets`: how many there are, where a row does not say.
    """
    usual = "other targets" if targets > 1 else "cross-fitted"
    sources = dict.fromkeys(row.get("thresholds") or usual for row in rows)
    return " or ".join(_SOURCES.get(source, source) for source in sources)


def reported_fprs(rows: Iterable[Row]) -> list[float]:
    """Every false-positive rate that some row reports, ascending."""
    return sorted({point["fpr"] for row in rows for point in row.get("tpr_at_fpr") or ()})


def headline_fpr(rows: Sequence[Row]) -> float:
    """The reported rate nearest to 0.1%, on a log scale, of those that allow enough false positives to be read.

    Where none does it is the greatest, and 1% where no rate is reported.
    """
    rates = [rate for rate in reported_fprs(rows) if rate > 0]
    nonmembers = min((row["nonmembers"] for row in rows if row.get("nonmembers")), default=math.inf)
    # Rounded, since 0.07 × 100 is 7.000000000000001.
    readable = [rate for rate in rates if round(rate * nonmembers, 6) >= FEW_FALSE_POSITIVES]
    if not readable:
        return max(rates, default=0.01)
    return min(readable, key=lambda rate: abs(math.log(rate / 0.001)))


def at(row: Row, rate: float) -> Mapping[str, Any] | None:
    """The row's operating point at this false-positive rate."""
    return next((point for point in row.get("tpr_at_fpr") or () if point["fpr"] == rate), None)


def ppv(row: Row, rate: float, prior: float) -> Number:
    """The share of members among those called one, at this false-positive rate and share of members among all.

    None where no false positive stands behind it.
    """
    entry = _ppv_entry(row, rate, prior)
    return None if entry.get("false_positives") == 0 else entry.get("ppv")


def target_aucs(row: Row) -> list[float]:
    """The AUC on each target; empty where none is reported."""
    block = row.get("per_target")
    while isinstance(block, Mapping):
        block = block.get("auc", block.get("values"))
    values = block if isinstance(block, (list, tuple, np.ndarray)) else []
    return [float(x) for x in values if isinstance(x, (int, float)) and math.isfinite(x)]


def short_name(row: Row) -> str:
    """As `attack_name`, with room for the figures: `LiRA online, per example`."""
    variance = row.get("variance")
    name = attack_name({**row, "mode": None, "variance": None})
    name = " ".join(part for part in (name, row.get("mode")) if part)
    return f"{name}, {variance.replace('_', ' ')}" if variance else name


def fine_percent(value: Number, bounds: Sequence[Number] | None = None) -> str:
    """A fraction in percent: one decimal, and below 1% two, so that 0.12% differs from the 0.1% of a guess."""
    if not _is_number(value):
        return MISSING
    text = _fine(value)
    if bounds is None or not all(map(_is_number, bounds)):
        return text
    return f"{text} [{', '.join(map(_fine, bounds))}]"


def _point(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return MISSING
    found = _false_positives(point.get("false_positives"))
    text = fine_percent(point.get("tpr"))
    return f"{text} ({found})" if found else text


def _false_positives(number: int | None) -> str:
    """`13 FP`, `only 9 FP`, `no FP`; empty where nobody counted."""
    if number is None:
        return ""
    if number >= FEW_FALSE_POSITIVES:
        return f"{number:,} FP"
    return f"only {number} FP" if number else "no FP"


def _predictive(row: Row, rate: float, priors: Sequence[float]) -> str:
    values = [percent(ppv(row, rate, prior)) for prior in priors]
    if set(values) == {MISSING}:
        return MISSING
    found = _ppv_entry(row, rate, priors[0]).get("false_positives")
    rough = found is not None and found < FEW_FALSE_POSITIVES
    return ("~" if rough else "") + _first_apart(values)


def _ppv_entry(row: Row, rate: float, prior: float) -> Mapping[str, Any]:
    entries = row.get("ppv") or ()
    return next((x for x in entries if x["fpr"] == rate and x["prior"] == prior), {})


def _first_apart(texts: Sequence[str]) -> str:
    """`1 (10 / 50)`: a page puts what stands in parentheses into small print beneath."""
    return f"{texts[0]} ({' / '.join(texts[1:])})" if len(texts) > 1 else texts[0]


def _compact_point(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return MISSING
    found = point.get("false_positives")
    text = fine_percent(point.get("tpr"))
    if found is None:
        return text
    return f"{'~' if found < FEW_FALSE_POSITIVES else ''}{text} ({found:,})"


def _transferred(point: Mapping[str, Any] | None) -> str:
    keys = ("tpr", "fpr", "false_positives")
    tpr, fpr, number = ((point or {}).get(f"shadow_threshold_{key}") for key in keys)
    if not _is_number(tpr):
        return MISSING
    found = _false_positives(number)
    return f"{fine_percent(tpr)} ({fine_percent(fpr)}%{f', {found}' if found else ''})"


def _spread(values: list[float]) -> list[str]:
    if not values:
        return [MISSING] * 3
    middle = percent(float(np.mean(values)))
    if len(values) > 1:
        middle += f" ± {percent(float(np.std(values, ddof=1)))}"
    return [middle, percent(min(values)), percent(max(values))]


def _bounds(row: Row, key: str) -> Sequence[Number] | None:
    return (row.get("interval") or {}).get(key)


def _fine(value: float) -> str:
    value = 100 * value
    # A whole 0 needs no decimals to be one, but a rate that rounds to 0 must not look like it.
    return f"{value:.2f}" if 0 < abs(value) < 0.995 else f"{value:.1f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
