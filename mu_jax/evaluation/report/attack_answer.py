"""The answer in words: can an attack tell members from non-members, how well, and how sure is that?"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from mu_jax.evaluation.report.attack_data import auc_bounds, excludes_half, strength
from mu_jax.evaluation.report.attack_tables import FEW_FALSE_POSITIVES, Row, at, fine_percent, headline_fpr
from mu_jax.evaluation.report.tables import MISSING, percent

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
    row = max(rows, key=strength)
    shown = excludes_half(row)
    area = _auc(row)
    targets = row.get("targets")
    who = (
        f"the strongest of {len(rows)} attacks, {in_words(row)},"
        if len(rows) > 1
        else f"the attack, {in_words(row)},"
    )
    found = _found(row, headline_fpr(rows))
    if not shown:
        verdict = _not_shown(rows, row)
    elif auc_bounds(row)[1] < 0.5:
        verdict = (
            f"{_capital(who)} has AUC {area}, which lies below 50%: that is leakage too, since an attacker only has "
            "to turn the answer round."
        )
    else:
        verdict = f"{_capital(who)} tells members from non-members with AUC {area}"
        verdict += f", and finds {found}." if found else "."
    sentences = [verdict]
    if not shown:
        tried = "these attacks" if len(rows) > 1 else "this attack"
        sentences.append(
            f"That {tried} found no evidence is no proof of privacy: another attack, or more targets, examples or "
            "shadow models, may find some."
        )
        sentences += _odd_tails(rows)
    sentences += _below(rows, row)
    if targets == 1:
        sentences.append(
            "There is one target model: another one trained by the same recipe may leak more or less."
        )
    if few := _few(rows, headline_fpr(rows)):
        sentences.append(few)
    if len(rows) > 1 and shown:
        sentences.append(
            f"The strongest of {len(rows)} is chosen by the figures that it is shown with, which flatters it a little."
        )
        ends = (_allowing_for(len(rows), row["auc"], bound, level(rows)) for bound in auc_bounds(row))
        if next(ends) <= 0.5 <= next(ends):
            sentences.append(
                f"Allowing for {len(rows)} attacks having been tried, its AUC interval would contain 50%: this may be "
                "chance."
            )
    return sentences


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


def _not_shown(rows: Sequence[Row], row: Row) -> str:
    """The verdict where the interval of even the strongest attack's AUC does not exclude ½: nothing is claimed."""
    if len(rows) > 1:
        text, whose = f"None of the {len(rows)} attacks is shown", f" of the strongest, {in_words(row)},"
    else:
        text, whose = f"The attack, {in_words(row)}, is not shown", ""
    text += " to tell members from non-members here: "
    if auc_bounds(row) is None:
        return f"{text}the AUC{whose} is {_auc(row)}, and there is no interval to say how sure that is."
    value, _, bounds = _auc(row).partition(" ")
    return f"{text}the AUC{whose} is {value}, and the AUC interval {bounds} contains 50%, which is a guess."


def _odd_tails(rows: Sequence[Row]) -> list[str]:
    """Attacks that no AUC gives away and that nevertheless find more than a guess would among their surest calls."""
    sentences = []
    looked_at = sum(len(row.get("tpr_at_fpr") or ()) for row in rows)
    for row in rows:
        for point in row.get("tpr_at_fpr") or ():
            low = (point.get("interval") or [None])[0]
            sure = (point.get("false_positives") or 0) >= FEW_FALSE_POSITIVES
            # Of twenty intervals at 95% one misses by chance, and all rates of all attacks are looked at.
            if (
                sure
                and low is not None
                and _allowing_for(looked_at, point["tpr"], low, level(rows)) > point["fpr"]
            ):
                shown = fine_percent(point["tpr"], point["interval"])
                value, _, bounds = shown.partition(" ")
                sentences.append(
                    f"Yet the attack {in_words(row)} finds {value}% {bounds} of the members at "
                    f"{alarms(point['fpr'])}, more than a guess would, even allowing for the {looked_at} rate"
                    f"{'' if looked_at == 1 else 's'} looked at: a few examples may leak that the AUC averages away."
                )
                break
    return sentences


def _allowing_for(number: int, value: float, bound: float, coverage: float) -> float:
    """The interval's bound if all of so many such intervals were to hold at once (Bonferroni, as if normal)."""
    missed = (1 - coverage) / 2
    if not 0 < missed < 0.5:
        return bound
    quantile = NormalDist().inv_cdf
    return value + (bound - value) * quantile(missed / max(number, 1)) / quantile(missed)


def _below(rows: Sequence[Row], named: Row) -> list[str]:
    """Other attacks that are surely below ½."""
    below = [
        in_words(row) for row in rows if row is not named and excludes_half(row) and auc_bounds(row)[1] < 0.5
    ]
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
    value, _, bounds = percent(row.get("auc"), auc_bounds(row)).partition(" ")
    return value if value == MISSING else f"{value}% {bounds}".strip()


def _interval(row: Row) -> Mapping[str, Any]:
    return row.get("interval") or {}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
