"""The answer in words: can an attack tell members from non-members, how well, and how sure is that?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mu_jax.evaluation.report.attack_tables import FEW_FALSE_POSITIVES, Row, at, fine_percent, headline_fpr
from mu_jax.evaluation.report.tables import percent

_KINDS = {
    "lira": "LiRA",
    "rmia": "RMIA",
    "loss": "by the loss alone",
    "calibrated_loss": "by the calibrated loss",
}
_VARIANCES = {"per_example": "with a variance per example", "global": "with global variance"}
_ALARMS = {0.0001: "ten thousand", 0.001: "a thousand", 0.01: "a hundred", 0.1: "ten"}


def attack_answer(rows: Sequence[Row]) -> list[str]:
    """The verdict in one sentence, and after it what qualifies it, a sentence each."""
    row = strongest(rows)
    low, high = auc_bounds(row)
    area = _auc(row)
    targets = row.get("targets")
    who = (
        f"the strongest of {len(rows)} attacks, {in_words(row)},"
        if len(rows) > 1
        else f"the attack, {in_words(row)},"
    )
    found = _found(row, headline_fpr(rows))
    if low <= 0.5 <= high:
        subject = "None of the attacks can" if len(rows) > 1 else f"The attack, {in_words(row)}, cannot"
        strongest_is = f" of the strongest, {in_words(row)}," if len(rows) > 1 else ""
        verdict = (
            f"{subject} tell members from non-members: the AUC{strongest_is} is {area}, and 50% is a guess."
        )
    elif high < 0.5:
        verdict = (
            f"{_capital(who)} has AUC {area}, which lies below 50%: that is leakage too, since an attacker only has "
            "to turn the answer round."
        )
    else:
        verdict = f"{_capital(who)} tells members from non-members with AUC {area}"
        verdict += f", and finds {found}." if found else "."
    sentences = [verdict, *_odd_tails(rows, low <= 0.5 <= high), *_below(rows, row)]
    if targets == 1:
        sentences.append(
            "There is one target model: another one trained by the same recipe may leak more or less."
        )
    if few := _few(rows, headline_fpr(rows)):
        sentences.append(few)
    if len(rows) > 1 and not low <= 0.5 <= high:
        sentences.append(
            f"The strongest of {len(rows)} is chosen by the figures that it is shown with, which flatters it a little."
        )
    return sentences


def strongest(rows: Sequence[Row]) -> Row:
    """The attack whose AUC lies farthest from ½, either way, of those whose interval excludes ½ if any does."""

    def strength(row: Row) -> tuple[bool, float]:
        low, high = auc_bounds(row)
        value = row.get("auc")
        return not low <= 0.5 <= high, abs(value - 0.5) if value is not None else 0.0

    return max(rows, key=strength)


def auc_bounds(row: Row) -> tuple[float, float]:
    """The interval of the AUC; the AUC twice where none is reported."""
    bounds = _interval(row).get("auc")
    if bounds is None or any(bound is None or not math.isfinite(bound) for bound in bounds):
        value = row.get("auc")
        return (0.0, 1.0) if value is None else (value, value)
    return bounds[0], bounds[1]


def in_words(row: Row) -> str:
    """An attack's form within a sentence: `LiRA online with global variance`."""
    parts = _KINDS.get(row["attack"], row["attack"]), row.get("mode"), _VARIANCES.get(row.get("variance"))
    return " ".join(part for part in parts if part)


def level(rows: Sequence[Row]) -> float:
    """The coverage of the intervals; 0.95 where none says."""
    return next((_interval(row)["level"] for row in rows if "level" in _interval(row)), 0.95)


def alarms(rate: float) -> str:
    """A false-positive rate in words: `one false alarm in a thousand`."""
    named = next((name for value, name in _ALARMS.items() if math.isclose(value, rate)), None)
    return f"one false alarm in {named}" if named else f"a false-positive rate of {100 * rate:g}%"


def _found(row: Row, rate: float) -> str:
    point = at(row, rate)
    if point is None or point.get("tpr") is None:
        return ""
    return f"{fine_percent(point['tpr'])}% of the members at {alarms(rate)}"


def _odd_tails(rows: Sequence[Row], undecided: bool) -> list[str]:
    """Attacks that no AUC gives away and that nevertheless find more than a guess would among their surest calls."""
    if not undecided:
        return []
    sentences = []
    for row in rows:
        for point in row.get("tpr_at_fpr") or ():
            low = (point.get("interval") or [None])[0]
            sure = (point.get("false_positives") or 0) >= FEW_FALSE_POSITIVES
            if sure and low is not None and low > point["fpr"]:
                shown = fine_percent(point["tpr"], point["interval"])
                value, _, bounds = shown.partition(" ")
                sentences.append(
                    f"Yet the attack {in_words(row)} finds {value}% {bounds} of the members at "
                    f"{alarms(point['fpr'])}, more than a guess would: a few examples leak that the AUC averages away."
                )
                break
    return sentences


def _below(rows: Sequence[Row], named: Row) -> list[str]:
    """Other attacks that are surely below ½."""
    below = [in_words(row) for row in rows if row is not named and auc_bounds(row)[1] < 0.5]
    if not below:
        return []
    return [
        f"Below 50%, its whole interval too, is the AUC of {'; '.join(below)}. That is leakage as well: an attacker "
        "only has to turn the answer round."
    ]


def _few(rows: Sequence[Row], headline: float) -> str:
    """The reported rates that hang on a handful of false positives."""
    few = sorted(
        {
            point["fpr"]
            for row in rows
            for point in row.get("tpr_at_fpr") or ()
            if point["fpr"] * (row.get("nonmembers") or math.inf) < FEW_FALSE_POSITIVES - 1e-6
        }
    )
    if not few:
        return ""
    which = "false-positive rates up to" if len(few) > 1 else "a false-positive rate of"
    text = f"At {which} {100 * few[-1]:g}% fewer than {FEW_FALSE_POSITIVES} false positives are allowed"
    if headline in few:
        return f"{text}, and no higher one is reported: read the true-positive rates as rough figures."
    return f"{text}: read the true-positive rates there as rough figures."


def _auc(row: Row) -> str:
    value, _, bounds = percent(row.get("auc"), _interval(row).get("auc")).partition(" ")
    return f"{value}% {bounds}".strip()


def _interval(row: Row) -> Mapping[str, Any]:
    return row.get("interval") or {}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
