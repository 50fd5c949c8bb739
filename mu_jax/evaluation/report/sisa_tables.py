"""What a SISA experiment measured as rows of strings, the same for the page and for the terminal. Rates in percent."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mu_jax.evaluation.report.tables import MISSING, Number, Table, count, percent, seconds

RETAIN = "_retain"
"""What the name of an attack on retained examples ends with."""

ATTACKS = {
    "posterior_1": "Adversary 1, one shadow model",
    "posterior_1_ensemble": "Adversary 1, a shadow ensemble",
    "posterior_2": "Adversary 2, a shadow of other data",
    "posterior_3": "Adversary 3, the largest posterior",
    "loss_threshold": "Loss, with the label known",
}
"""Each attack in words, in the order of tables."""

MEASURES = ("accuracy", "balanced_accuracy", "advantage", "precision", "recall", "auc")

# Columns of a table of speed-ups; of more numbers of requests, evenly many are left out between.
_MOST_COLUMNS = 8

Row = Mapping[str, Any]


class Measure(NamedTuple):
    """A fraction, and the ends of its interval where there is one."""

    value: Number
    bounds: Sequence[Number] | None


def measures(block: Row) -> dict[str, Measure]:
    """The six `MEASURES` of an attack's block of results.json, whichever of the two kinds of blocks it is.

    Blocks of attacks that only score (`evaluate_scores`) call a balanced accuracy `accuracy` and have no other; their
    advantage is its image 2b − 1, and so is the interval.
    """
    interval = block.get("interval") or {}
    values = {name: block.get(name) for name in MEASURES}
    bounds = {name: interval.get(name) for name in MEASURES}
    if "balanced_accuracy" not in block:
        values |= {"balanced_accuracy": block.get("accuracy"), "accuracy": None}
        bounds |= {"balanced_accuracy": interval.get("accuracy"), "accuracy": None}
        if bounds["balanced_accuracy"] is not None:
            bounds["advantage"] = [2 * end - 1 for end in bounds["balanced_accuracy"]]
    return {name: Measure(values[name], bounds[name]) for name in MEASURES}


def attack_names(models: Mapping[str, Row], *, retained: bool = False) -> list[str]:
    """The attacks that any of the models has, on deleted or on retained examples, in the order of `ATTACKS`."""
    found = dict.fromkeys(name for model in models.values() for name in model.get("attacks", {}))
    mine = [name for name in found if name.endswith(RETAIN) == retained]
    order = {name: place for place, name in enumerate(ATTACKS)}
    return sorted(mine, key=lambda name: order.get(name.removesuffix(RETAIN), len(order)))


def attack_title(name: str) -> str:
    """An attack in words; its own name where it is none of `ATTACKS`."""
    plain = name.removesuffix(RETAIN)
    return ATTACKS.get(plain, plain)


def models_table(results: Row) -> Table:
    """One row a model: its accuracies, how far it is from retraining, and what it took."""
    header = [
        "Model",
        "Retained %",
        "Deleted %",
        "Test %",
        "Gap to retrained, pp",
        "Examples trained",
        "Time, s",
    ]
    rows = []
    for name, model in results["models"].items():
        accuracy, bounds = model.get("accuracy", {}), model.get("accuracy_interval", {})
        rows.append(
            [
                name,
                *(percent(accuracy.get(part), bounds.get(part)) for part in ("retain", "forget", "test")),
                percent(model.get("gap_to_retrain")),
                count(model.get("trained_samples")),
                seconds(model.get("seconds")),
            ]
        )
    return header, rows


def attack_table(results: Row, attack: str) -> Table:
    """One attack on every model that it was run on: accuracy, balanced accuracy and advantage side by side."""
    header = [
        "Model",
        "Accuracy %",
        "Balanced accuracy %",
        "Advantage, pp",
        "Precision %",
        "Recall %",
        "AUC %",
    ]
    rows = []
    for name, model in results["models"].items():
        block = model.get("attacks", {}).get(attack)
        if block is not None:
            rows.append([name, *(percent(*measure) for measure in measures(block).values())])
    return header, rows


def auc_table(results: Row, *, retained: bool = False) -> Table:
    """The AUC in percent of every attack on every model."""
    models = results["models"]
    attacks = attack_names(models, retained=retained)
    header = ["Model", *(attack_title(attack) for attack in attacks)]
    rows = []
    for name, model in models.items():
        blocks = [model.get("attacks", {}).get(attack, {}) for attack in attacks]
        if any(blocks):
            rows.append([name, *(percent(*measures(block)["auc"]) for block in blocks)])
    return header, rows


def shards_table(rows: Iterable[Row]) -> Table:
    """Accuracy by the number of shards and slices and by how the shards' answers are joined."""
    header = [
        "Shards × slices, joined by",
        "Test %",
        "Training %",
        "A single shard's test %, mean ± SD",
        "A single shard's training %",
    ]
    return header, [
        [
            f"{row['shards']:,} × {row['slices']:,}, {in_words(row['aggregation'])}",
            percent(row.get("test_accuracy"), row.get("test_interval")),
            percent(row.get("train_accuracy")),
            with_spread(row.get("constituent_test"), row.get("constituent_test_sd"), row["shards"], percent),
            percent(row.get("constituent_train")),
        ]
        for row in rows
    ]


def constituents_table(rows: Iterable[Row]) -> Table:
    """The single models of the ensemble: on their own shard's examples, and on the test examples."""
    header = ["Shard", "Examples", "Training %", "Test %"]
    return header, [
        [
            str(row["shard"]),
            count(row.get("examples")),
            percent(row.get("train_accuracy")),
            percent(row.get("test_accuracy")),
        ]
        for row in rows
    ]


def cost_table(rows: Iterable[Row]) -> Table:
    """What deletions cost, counted and expected; the one that was carried out has seconds too."""
    header = [
        "Requests at once",
        "Shards × slices",
        "Draws",
        "Examples retrained, mean ± SD",
        "Expected",
        "Simulated ± SE",
        "Speed-up",
        "Expected speed-up",
        "Time, s",
        "Time of one model, s",
    ]
    return header, [
        [
            f"{row['requests']:,}{', carried out' if row.get('trained') else ''}",
            f"{row['shards']:,} × {row['slices']:,}",
            count(row.get("draws")),
            with_spread(
                row.get("examples_retrained"), row.get("examples_retrained_sd"), row.get("draws"), count
            ),
            count(row.get("expected_examples")),
            with_spread(row.get("simulated_examples"), row.get("simulated_error"), 2, count),
            times(row.get("speed_up")),
            times(row.get("expected_speed_up")),
            seconds(row.get("seconds")),
            seconds(row.get("seconds_full")),
        ]
        for row in rows
    ]


def speed_up_pivot(rows: Sequence[Row]) -> Table:
    """Expected speed-ups: a row for S shards × R slices, a column for requests at once; at most 8 columns."""
    requests = sorted({row["requests"] for row in rows})
    columns = np.linspace(0, len(requests) - 1, min(len(requests), _MOST_COLUMNS)).round().astype(int)
    shown = [requests[column] for column in columns]
    found = {(row["shards"], row["slices"], row["requests"]): row.get("speed_up") for row in rows}
    layouts = sorted({key[:2] for key in found})
    header = ["Shards × slices", *(f"{number:,} request{'' if number == 1 else 's'}" for number in shown)]
    return header, [
        [f"{s:,} × {r:,}", *(times(found.get((s, r, number))) for number in shown)] for s, r in layouts
    ]


def expected_for(results: Row) -> list[Row]:
    """The expected speed-ups for this data's number of training examples."""
    examples = results["data"]["train"]
    return [row for row in _rows(results, "expected_speed_up") if row["examples"] == examples]


def planned(results: Row) -> list[Row]:
    """Those for the largest data that was reckoned with, where that is larger than this data."""
    rows = _rows(results, "expected_speed_up")
    largest = max((row["examples"] for row in rows), default=0)
    return [row for row in rows if row["examples"] == largest > results["data"]["train"]]


def carried_out(results: Row) -> Row | None:
    """The row of the deletion that was carried out."""
    return next((row for row in _rows(results, "deletion_cost") if row.get("trained")), None)


def in_words(name: str) -> str:
    """`mean_posterior` as `mean posterior`."""
    return name.replace("_", " ")


def times(value: Number) -> str:
    """How many times less: `1.02×`, `3.4×`, `14×`; – where nothing is retrained."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return MISSING
    return f"{value:,.{2 if value < 1.995 else 1 if value < 9.95 else 0}f}×"


def with_spread(value: Number, spread: Number, number: int | None, shown: Callable[[Number], str]) -> str:
    """`82.1 ± 0.4`, and the mean alone where there is no spread, as of a single one."""
    text = shown(value)
    return text if spread is None or number == 1 or text == MISSING else f"{text} ± {shown(spread)}"


def points(value: float) -> str:
    """A difference of fractions in signed percentage points."""
    rounded = round(100 * value, 1) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.1f}"


def with_unit(value: Number, bounds: Sequence[Number] | None = None) -> str:
    """A fraction within a sentence: `57.9% [54.1, 61.6]`."""
    number, _, rest = percent(value, bounds).partition(" ")
    return number if number == MISSING else f"{number}% {rest}".strip()


def _rows(results: Row, name: str) -> Sequence[Row]:
    return results.get("tables", {}).get(name) or []
