"""What the benchmark of pair attacks makes of its rounds, and prints beside what all benchmarks do."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.table import aligned, number

STAGES = ("train", "query", "pairs", "attacks")
# Sides that learn the same task by the same recipe differ less, unless one of the loops is broken.
_ALIKE = 0.02
# Standard errors of a difference of AUCs.
_FAR = 4.0


def end_to_end(models: int, pairs: int, models_a_minute: float, attack_seconds: float) -> float:
    """Pairs a minute where models are trained and asked at such a rate, and then all pairs are attacked."""
    return 60 * pairs / (60 * models / models_a_minute + attack_seconds)


def extrapolated_stages(
    models: int, models_a_minute: float, seconds_a_model: Mapping[str, float], attack: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of each of STAGES for all models, where a round trained fewer: the shares of a model are the round's."""
    whole, shares = 60 * models / models_a_minute, sum(seconds_a_model.values())
    stages = {name: whole * seconds / shares for name, seconds in seconds_a_model.items()}
    return {name: round((stages | dict(attack))[name], 4) for name in STAGES}


def stage_lines(sides: Mapping[str, Mapping[str, Any]]) -> str:
    """Seconds of each stage, and what the originals are right on; a side of `stages`, `accuracy` a line."""
    rows = [("seconds", *STAGES, "in all", "originals: members right", "others right")]
    for side, facts in sides.items():
        stages, right = facts["stages"], facts["accuracy"]
        cells = (number(stages[name]) for name in STAGES)
        whole = number(sum(stages.values()))
        rows.append((side, *cells, whole, f"{right['members']:.1%}", f"{right['others']:.1%}"))
    return aligned(rows, 1)


def auc_lines(sides: Mapping[str, Mapping[str, Any]]) -> str:
    """The AUC of every classifier on every feature, the sides' in turn with a stroke between."""
    tables = [facts["auc"] for facts in sides.values()]
    classifiers = list(next(iter(tables[0].values())))
    rows = [(f"AUC, {' / '.join(sides)}", *classifiers)]
    for kind in tables[0]:
        rows.append(
            (kind, *(" / ".join(f"{table[kind][name]:.3f}" for table in tables) for name in classifiers))
        )
    return aligned(rows, 1)


def warnings(sides: Mapping[str, Mapping[str, Any]], target_pairs: int) -> list[str]:
    """Sentences on sides that differ by more than chance; `target_pairs` are those that an AUC is of.

    Half of n pairs are members, so an AUC of scores that know nothing has the variance (n + 1) / 3n²; those that know
    something, and means of several, have less.
    """
    found = []
    for part in ("members", "others"):
        right = [facts["accuracy"][part] for facts in sides.values()]
        if max(right) - min(right) > _ALIKE:
            found.append(f"WARNING: the originals' accuracies on {part} differ much: a loop is broken.")
    means = [mean_auc(facts) for facts in sides.values()]
    error = math.sqrt(2 * (target_pairs + 1) / 3) / target_pairs
    if max(means) - min(means) > _FAR * error:
        found.append("WARNING: the attacks' mean AUCs differ by more than chance: a loop is broken.")
    return found


def mean_auc(facts: Mapping[str, Any]) -> float:
    """Over all features and classifiers."""
    return float(np.mean([value for of_kind in facts["auc"].values() for value in of_kind.values()]))


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as a Markdown table."""
    stages = " + ".join(STAGES)
    lines = [
        f"| case | ours, pairs/min | PyTorch, pairs/min | ratio | PyTorch's form | ours, s: {stages} | PyTorch, s | "
        "ours compile s | others right: ours | PyTorch | mean AUC: ours | PyTorch |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        details = row["details"]
        ours, theirs = details["beside"]["ours"], details["beside"].get("PyTorch")
        missing = details["torch_missing"] or "–"
        beside = (missing, "–", "–")
        if theirs:
            beside = (number(row["torch"]), f"{row['ratio']:.2f}", details["torch_reference"])
        cells = (
            row["case"],
            number(row["ours"]),
            *beside,
            _seconds(ours),
            _seconds(theirs),
            f"{details['ours'][details['ours_best']]['compile_seconds']:.1f}",
            *(f"{side['accuracy']['others']:.1%}" if side else "–" for side in (ours, theirs)),
            *(f"{mean_auc(side):.3f}" if side else "–" for side in (ours, theirs)),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(facts: Mapping[str, Any] | None) -> str:
    return " + ".join(number(facts["stages"][name]) for name in STAGES) if facts else "–"
