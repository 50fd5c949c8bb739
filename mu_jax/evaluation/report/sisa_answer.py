"""The answer in words: what cheap deletion costs in accuracy, what it saves in retraining, and what attackers see."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mu_jax.evaluation.report.answer import Answer
from mu_jax.evaluation.report.sisa_attack_answer import attack_answer
from mu_jax.evaluation.report.sisa_data import SisaReportData
from mu_jax.evaluation.report.sisa_tables import (
    Row,
    carried_out,
    expected_for,
    in_words,
    points,
    times,
    with_unit,
)
from mu_jax.evaluation.report.tables import Number, count, percent, seconds

# A speed-up worth naming as one.
_WORTHWHILE = 2.0
# Of the numbers of shards whose accuracy a sentence lists.
_MOST_LISTED = 8


def sisa_answers(data: SisaReportData) -> list[Answer]:
    """The question's three parts, each with its answer as the figures carry it."""
    return [accuracy_answer(data.results), retraining_answer(data.results), attack_answer(data)]


def accuracy_answer(results: Row) -> Answer:
    """What the ensemble loses in test accuracy against one model."""
    question = "How much accuracy do I pay?"
    models, sizes = results["models"], results["data"]
    found = accuracy_difference(models, "sisa", "base")
    if found is None:
        return Answer(question, "Not measured", "The base model or the ensemble is missing.", ())
    sentence = (
        f"On {count(sizes.get('test'))} test images one model is right on {_accuracy(models['base'])}, and the "
        f"ensemble of {_layout(results)} on {_accuracy(models['sisa'])}."
    )
    price = _shown(found, " of test accuracy")
    if found.low is None:
        verdict = f"{price}, without an interval to say how sure that is"
    elif found.low > 0:
        verdict = f"None: the ensemble gains {price}"
    elif found.high < 0:
        verdict = price
    else:
        verdict = f"No price is shown: {price} cannot be told from zero"
    details = (_up_to(found), _after(models), _constituents(results), _by_shards(results), _chance(models))
    return Answer(question, verdict, sentence, tuple(detail for detail in details if detail))


class Change(NamedTuple):
    """A difference of two accuracies, and its interval where both have one."""

    value: float
    low: Number
    high: Number


def accuracy_difference(models: Mapping[str, Row], name: str, reference: str) -> Change | None:
    """Test accuracy of one model less another's, with Newcombe's interval from both of theirs; None without them.

    Its hybrid score interval (Newcombe, Statistics in Medicine, 1998, method 10) takes the two as judged on separate
    images. They are judged on the same ones, and where they err on the same it is wider than need be.
    """
    sides = [models.get(one, {}) for one in (name, reference)]
    values = [side.get("accuracy", {}).get("test") for side in sides]
    if None in values:
        return None
    (mine, theirs), bounds = values, [side.get("accuracy_interval", {}).get("test") for side in sides]
    if any(bound is None or None in bound for bound in bounds):
        return Change(mine - theirs, None, None)
    (low, high), (their_low, their_high) = bounds
    down, up = math.hypot(mine - low, their_high - theirs), math.hypot(high - mine, theirs - their_low)
    return Change(mine - theirs, mine - theirs - down, mine - theirs + up)


def _up_to(found: Change) -> str:
    if found.low is None or found.high < 0 or found.low >= 0:
        return ""
    return f"A loss of up to {percent(-found.low)} points is as well compatible with these test images."


def _after(models: Mapping[str, Row]) -> str:
    found = accuracy_difference(models, "sisa_unlearned", "base_retrained")
    if found is None:
        return ""
    return (
        f"After the deletion the ensemble is at {_accuracy(models['sisa_unlearned'])}, one model retrained without the "
        f"deleted images at {_accuracy(models['base_retrained'])}: {_shown(found)}."
    )


def _constituents(results: Row) -> str:
    rows = results.get("tables", {}).get("constituents") or ()
    values = [row["test_accuracy"] for row in rows if row.get("test_accuracy") is not None]
    if not values:
        return ""
    spread = f" ± {percent(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return (
        f"A single shard's model is right on {percent(float(np.mean(values)))}{spread}% of the test images (mean and "
        f"standard deviation over {len(values)}); the ensemble joins their answers."
    )


def _by_shards(results: Row) -> str:
    main = results["sisa"].get("aggregation")
    rows = [
        row
        for row in results.get("tables", {}).get("accuracy_by_shards") or ()
        if row["aggregation"] == main and row.get("test_accuracy") is not None
    ]
    by_slices: dict[int, dict[int, str]] = {}
    for row in rows:
        by_slices.setdefault(row["slices"], {})[row["shards"]] = percent(row["test_accuracy"])
    if not by_slices:
        return ""
    # Those of one number of slices, the ensemble's own where as much is known of it.
    slices = max(by_slices, key=lambda number: (len(by_slices[number]), number == results["sisa"]["slices"]))
    found = dict(sorted(by_slices[slices].items())[:_MOST_LISTED])
    if len(found) < 2:
        return ""
    listed = ", ".join(f"{shards:,}: {value}%" for shards, value in found.items())
    return f"Test accuracy by number of shards ({in_words(main)}, {slices} slice{_s(slices)}): {listed}."


def _chance(models: Mapping[str, Row]) -> str:
    text = "The intervals are over the choice of test images, for these very models"
    pair = accuracy_difference(models, "sisa_retrained_again", "sisa_retrained")
    if pair is None:
        return f"{text}; the chance of training is not in them."
    return (
        f"{text}. The chance of training is not in them: another seed moved the ensemble's test accuracy by "
        f"{points(pair.value)} points."
    )


def retraining_answer(results: Row) -> Answer:
    """What the deletion saved, counted, beside what is expected of it and of a single one."""
    question = "How much retraining do I save?"
    models, row = results["models"], carried_out(results) or {}
    requests = row.get("requests", results["data"]["forget"])
    mine, full = (models.get(name, {}) for name in ("sisa_unlearned", "base_retrained"))
    saved, alone = row.get("speed_up"), _expected(results, 1)
    # What the sentence says is divided, so that the reader gets the same; a table has whole epochs in it.
    if mine.get("trained_samples") and full.get("trained_samples"):
        saved = full["trained_samples"] / mine["trained_samples"]
    expected = f"{times(alone)} expected for one alone" if alone is not None and requests > 1 else ""
    if saved is None:
        return Answer(question, f"Not measured; {expected}" if expected else "Not measured", "", ())
    verdict = f"{times(saved)} for {requests:,} deletion{_s(requests)} at once"
    sentence = f"Deleting {requests:,} of {count(results['data']['train'])} training images at once"
    if mine.get("trained_samples") and full.get("trained_samples"):
        sentence += (
            f" put {count(mine['trained_samples'])} images through gradient steps, against "
            f"{count(full['trained_samples'])} for retraining one model, a speed-up of {times(saved)}."
        )
    else:
        sentence += f" is counted as {times(saved)} less than retraining one model."
    if saved < 1:
        sentence += " Below 1× the deletion cost more than retraining one model would have."
    elif saved < 1.1:
        sentence += " At 1× nothing is saved: nearly every step of every shard had to be trained again."
    verdict = f"{verdict}; {expected}" if expected else verdict
    details = (
        _prediction(results, row, requests),
        _counted(results),
        _worthwhile(results),
        _seconds(row, mine, full),
    )
    return Answer(question, verdict, sentence, tuple(detail for detail in details if detail))


def _expected(results: Row, requests: int) -> float | None:
    """The speed-up expected of this ensemble for so many requests at once."""
    sisa = results["sisa"]
    wanted = sisa["shards"], sisa["slices"], requests
    counted = results.get("tables", {}).get("deletion_cost") or ()
    for rows, key in ((expected_for(results), "speed_up"), (counted, "expected_speed_up")):
        for row in rows:
            if (row["shards"], row["slices"], row["requests"]) == wanted and row.get(key) is not None:
                return row[key]
    return None


def _prediction(results: Row, row: Row, requests: int) -> str:
    expected = row.get("expected_speed_up")
    expected = _expected(results, requests) if expected is None else expected
    if expected is None:
        return ""
    what = f"{requests:,} deletion{_s(requests)} from {_layout(results)}"
    return f"Expected of {what}, wherever they fall: {times(expected)}."


def _counted(results: Row) -> str:
    """Deletions drawn at random and counted on the ensemble's own shards."""
    sisa, parts = results["sisa"], []
    for row in results.get("tables", {}).get("deletion_cost") or ():
        own = (row["shards"], row["slices"]) == (sisa["shards"], sisa["slices"])
        if own and not row.get("trained") and row.get("speed_up") is not None:
            expected = row.get("expected_speed_up")
            beside = "" if expected is None else f" (expected {times(expected)})"
            parts.append(f"{times(row['speed_up'])} for {row['requests']:,}{beside}")
    if not parts:
        return ""
    return f"Counted on this ensemble's own shards, over deletions drawn at random: {', '.join(parts)}."


def _worthwhile(results: Row) -> str:
    sisa = results["sisa"]
    curve = sorted(
        (row["requests"], row["speed_up"])
        for row in expected_for(results)
        if (row["shards"], row["slices"]) == (sisa["shards"], sisa["slices"])
        and row.get("speed_up") is not None
    )
    enough = [requests for requests, value in curve if value >= _WORTHWHILE]
    if not curve or len(enough) == len(curve):
        return ""
    if not enough:
        return f"Not even {curve[0][0]:,} at once is expected to save half of the work."
    most, fewer = max(enough), next(requests for requests, value in curve if value < _WORTHWHILE)
    return (
        f"Of the numbers reckoned with, up to {most:,} deletion{_s(most)} at once should save half of the work or "
        f"more, {fewer:,} no longer."
    )


def _seconds(row: Row, mine: Row, full: Row) -> str:
    took, whole = row.get("seconds") or mine.get("seconds"), row.get("seconds_full") or full.get("seconds")
    if not (took and whole):
        return ""
    return (
        f"On the clock the deletion trained for {seconds(took)} s and one model for {seconds(whole)} s: "
        f"{times(whole / took)}. The two use a machine's devices differently, so that is for this machine only."
    )


def _layout(results: Row) -> str:
    shards, slices = results["sisa"]["shards"], results["sisa"]["slices"]
    return f"{shards:,} shard{_s(shards)} × {slices:,} slice{_s(slices)}"


def _accuracy(model: Row) -> str:
    return with_unit(model["accuracy"].get("test"), model.get("accuracy_interval", {}).get("test"))


def _shown(change: Change, of: str = "") -> str:
    text = f"{points(change.value)} points{of}"
    return text if change.low is None else f"{text} [{points(change.low)}, {points(change.high)}]"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
