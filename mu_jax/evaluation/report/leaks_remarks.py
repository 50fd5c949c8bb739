"""What must be known before the figures of the study of leaks are believed."""

from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.class_tables import known, listed
from mu_jax.evaluation.report.leaks_rows import (
    arm_labels,
    bounds,
    chosen_rows,
    headline_rows,
    plain_rows,
    shown_rate,
    side_of,
)
from mu_jax.evaluation.report.tables import percent

Row = Mapping[str, Any]

MANY_TIES = 0.05
"""Share of never-members with equal posteriors before and after, above which attacks by differences are suspect."""
_FEW_ORIGINALS = 8
_FEW_FALSE_POSITIVES = 5


def remarks(results: Row) -> list[str]:
    """What weakens the figures, a sentence each."""
    return [*_ties(results), *_below_half(results), *_few(results), *_lost(results)]


def _ties(results: Row) -> list[str]:
    labels = arm_labels(results)
    found = []
    for row in plain_rows(results):
        ties = row.get("ties") or {}
        never = known(ties.get("never"))
        if never is not None and never > MANY_TIES:
            found.append(
                f"{labels[row['arm']]} ({percent(never)}%, of deleted ones {percent(ties.get('deleted'))}%)"
            )
    if not found:
        return []
    return [
        "ties alarm: both models say exactly the same of many never-members, as trees do, and an attack by differences "
        f"is strong for that alone: {listed(found)}; look at a target that is no tree beside them"
    ]


def _below_half(results: Row) -> list[str]:
    labels = arm_labels(results)
    names = [labels[row["arm"]] for row in plain_rows(results) if side_of(bounds(row, "auc"), 0.5) < 0]
    if not names:
        return []
    return [
        f"the interval of the attack's AUC lies below 50% in {listed(names)}: what its classifier learned on the "
        "shadow holds the other way round there, which an attacker who cannot see the truth would not know"
    ]


def _few(results: Row) -> list[str]:
    rows, found = headline_rows(results), []
    originals = results["study"]["originals"]
    if originals < _FEW_ORIGINALS:
        found.append(f"intervals resample {originals} originals only, and are rough")
    if any(row.get("resampled") == "pairs" for row in rows):
        found.append(
            "where an original stands alone, intervals resample pairs as if they were independent, and are too narrow"
        )
    rate = shown_rate(rows)
    least = min((row["nonmembers"] for row in rows if row.get("nonmembers")), default=None)
    if rate is not None and least is not None and float(rate) * least < _FEW_FALSE_POSITIVES:
        found.append(
            f"at {100 * float(rate):g}% FPR an attack may call {int(float(rate) * least)} of {least:,} never-members "
            "wrongly, so that its TPR there is rough"
        )
    if (
        rows
        and len({(row["feature"], row["classifier"]) for row in results["tables"]["leaks"]}) > 1
        and any(known(row.get("selection_auc")) is None for row in rows)
    ):
        found.append(
            "the shadow has too few pairs to choose an attack by: the first of the settings is shown, not the best"
        )
    return found


def _lost(results: Row) -> list[str]:
    labels = arm_labels(results)
    diverged = [
        f"{model['diverged']} of {labels[arm]}"
        for arm, model in results["models"].items()
        if model.get("diverged")
    ]
    left_out = sum(row.get("left_out") or 0 for row in chosen_rows(results))
    found = []
    if diverged:
        found.append(f"models of the target that diverged: {listed(diverged)}")
    if left_out:
        found.append(
            f"{left_out:,} pairs of all scenarios and defences were left out with models that diverged"
        )
    return found
