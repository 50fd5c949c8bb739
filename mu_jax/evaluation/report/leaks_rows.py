"""Which rows of the study of leaks a table, a figure or a sentence is about, and what they are called there.

An *arm* is a kind of model with a way to delete from it; its *base* is the arm without a defence that acts in training.
The *headline* is the first scenario of the study. Of each arm, scenario and defence one attack is *chosen*: the feature
construction and classifier that do best on shadow pairs alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mu_jax.evaluation.report.class_tables import known
from mu_jax.evaluation.report.tables import MISSING, Number, percent

Row = Mapping[str, Any]
Base = tuple[str, str, bool]
"""kind of model, method, whether it shares its original's start"""

FEATURES = {
    "direct_concat": "concatenation",
    "sorted_concat": "sorted concatenation",
    "direct_difference": "difference",
    "sorted_difference": "sorted difference",
    "l2": "ℓ2 distance",
}
CLASSIFIERS = {
    "logistic_regression": "logistic regression",
    "decision_tree": "decision tree",
    "random_forest": "random forest",
    "mlp": "MLP",
}
FAMILIES = {
    "concatenation": ("direct_concat", "sorted_concat"),
    "differences": ("direct_difference", "sorted_difference", "l2"),
}
"""The two ways to use a pair: both posteriors as they are, or what has changed between them."""

_DEFENSES = {"top_k": "top-k", "label_only": "label only", "temperature": "temperature", "dp_sgd": "DP-SGD"}
_SETTINGS = {"noise_multiplier": "σ", "clip_norm": "C", "t": "T"}


def headline(results: Row) -> tuple[str, int]:
    """Kind and size of the scenario that curves and defences are shown of: the study's first."""
    rows = results["tables"].get("roc") or results["tables"]["leaks"]
    return (rows[0]["scenario"], rows[0]["size"]) if rows else ("single", 1)


def scenarios(results: Row) -> list[tuple[str, int]]:
    """Kind and size of all scenarios, in the order of the study."""
    return list(dict.fromkeys((row["scenario"], row["size"]) for row in results["tables"]["leaks"]))


def scenario_words(kind: str, size: int) -> str:
    """`group of 10`, as a table has it."""
    return {
        "single": "single deletion",
        "group": f"group of {size}",
        "intermediates": f"{size} intermediates",
        "online": f"online, {size} for {size}",
        "remaining": "remaining members",
    }.get(kind, f"{kind}, {size}")


def chosen_rows(results: Row, **wanted: object) -> list[Row]:
    """The chosen attacks, of those whose facts are as wanted."""
    return [
        row
        for row in results["tables"]["leaks"]
        if row["chosen"] and all(row[key] == value for key, value in wanted.items())
    ]


def headline_rows(results: Row) -> list[Row]:
    """The chosen attack of each arm and defence in the headline scenario."""
    kind, size = headline(results)
    return chosen_rows(results, scenario=kind, size=size)


def plain_rows(results: Row) -> list[Row]:
    """Those of them without a defence; of a study that has no such row, all."""
    rows = headline_rows(results)
    return [row for row in rows if row["defense"] == "none"] or rows


def strongest(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many, those with the highest AUC, in the order that they came in."""
    kept = sorted(range(len(rows)), key=lambda place: -(known(rows[place].get("auc")) or 0.0))[:most]
    return [rows[place] for place in sorted(kept)]


def best_of(rows: Sequence[Row]) -> Row | None:
    """The attack that did best on shadow pairs; None where several cannot be told apart by them.

    Not the one with the highest AUC on the target: the best of many would flatter the attacker.
    """
    if len(rows) == 1:
        return rows[0]
    judged = [row for row in rows if known(row.get("selection_auc")) is not None]
    return max(judged, key=lambda row: row["selection_auc"], default=None)


def base_of(row: Row) -> Base:
    """The arm of a row without what its defence does to training."""
    target = row["target"]
    for name in row["defense"].split(" + "):
        target = target.removesuffix(f" {name}")
    return target, row["method"], bool(row["shares_start"])


def by_defense(results: Row) -> dict[Base, dict[str, Row]]:
    """Rows of `tables.defenses` of the headline scenario: by base, and in it by defence."""
    kind, size = headline(results)
    found: dict[Base, dict[str, Row]] = {}
    for row in results["tables"].get("defenses") or []:
        if (row["scenario"], row["size"]) == (kind, size):
            found.setdefault(base_of(row), {})[row["defense"]] = row
    return found


def arm_labels(results: Row) -> dict[str, str]:
    """What to call each arm: shorter than its name, and still its own."""
    rows = {row["arm"]: row for row in results["tables"]["leaks"]}
    arms = {arm: (row["target"], row["method"], bool(row["shares_start"])) for arm, row in rows.items()}
    labels = dict(zip(arms, _labels(list(arms.values())), strict=True))
    return {arm: labels.get(arm, arm) for arm in results["models"]} | labels


def base_labels(results: Row) -> dict[Base, str]:
    """What to call each base."""
    bases = list(dict.fromkeys(base_of(row) for row in results["tables"]["leaks"]))
    return dict(zip(bases, _labels(bases), strict=True))


def _labels(bases: Sequence[Base]) -> list[str]:
    # What all have in common stands above the table.
    targets, methods = {target for target, *_ in bases}, {method for _, method, _ in bases}

    def label(base: Base, target: str) -> str:
        words = [target] if len(targets) > 1 or len(methods) == 1 else []
        words += [base[1]] if len(methods) > 1 else []
        return ", ".join([*words, *(["shared start"] if base[2] else [])])

    short = [label(base, target_words(base[0])) for base in bases]
    return short if len(set(short)) == len(short) else [label(base, base[0]) for base in bases]


def arms_words(results: Row, number: int) -> str:
    """`3 kinds of models`, or `3 ways to delete` where there is one kind."""
    bases = [base_of(row) for row in results["tables"]["leaks"]]
    one_kind = len({target for target, *_ in bases}) == 1 < len(set(bases))
    if one_kind:
        return "one way to delete" if number == 1 else f"{number} ways to delete"
    return "one kind of models" if number == 1 else f"{number} kinds of models"


def target_words(target: str) -> str:
    """`cnn (epochs 60, weight decay 0)` of `cnn:train.epochs=60.0,train.weight_decay=0.0`."""
    first, *privately = target.split(" ")
    name, _, settings = first.partition(":")
    changes = []
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        changes.append(f"{key.rpartition('.')[2].replace('_', ' ')} {_number(value)}")
    shown = f"{name} ({', '.join(changes)})" if changes else name
    return " + ".join([shown, *map(defense_words, privately)])


def defense_words(defense: str) -> str:
    """`temperature (T = 4)` of `temperature:t=4.0`."""
    return " + ".join(map(_one_defense, defense.split(" + ")))


def _one_defense(defense: str) -> str:
    kind, _, settings = defense.partition(":")
    changes = []
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        changes.append(f"{_SETTINGS.get(key, key.replace('_', ' '))} = {_number(value)}")
    name = _DEFENSES.get(kind, kind)
    return f"{name} ({', '.join(changes)})" if changes else name


def _number(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def feature_words(feature: str) -> str:
    return FEATURES.get(feature, feature)


def classifier_words(classifier: str) -> str:
    return CLASSIFIERS.get(classifier, classifier)


def overfitting(results: Row, arm: str) -> float | None:
    """Training less test accuracy of an arm's originals, a fraction."""
    return known((results["models"].get(arm, {}).get("original") or {}).get("overfitting"))


def accuracy_of(results: Row, arm: str, part: str) -> float | None:
    """`train` or `test` accuracy of an arm's originals."""
    original = results["models"].get(arm, {}).get("original") or {}
    return known((original.get("accuracy") or {}).get(part))


def bounds(row: Row, key: str, rate: str | None = None) -> Sequence[float | int] | None:
    """The interval of a figure, at a false-positive rate where it has several; None where there is none."""
    found = (row.get("interval") or {}).get(key)
    if rate is not None:
        found = (found or {}).get(rate)
    return found if found is not None and all(known(end) is not None for end in found) else None


def side_of(interval: Sequence[float | int] | None, value: float) -> int:
    """1 where an interval lies above a value, −1 below it, 0 where it holds it or is missing."""
    if interval is None:
        return 0
    return int(interval[0] > value) - int(interval[1] < value)


def apart(first: Sequence[float | int] | None, second: Sequence[float | int] | None) -> int:
    """1 where the second interval lies above the first, −1 below it, 0 where they overlap or one is missing."""
    if first is None or second is None:
        return 0
    return int(second[0] > first[1]) - int(second[1] < first[0])


def shown_rate(rows: Iterable[Row]) -> str | None:
    """The lowest reported false-positive rate that is 1% at least, as `tpr_at_fpr` has it; else the highest."""
    rates = {rate for row in rows for rate in row.get("tpr_at_fpr") or {}}
    enough = [rate for rate in rates if float(rate) >= 0.01]
    if enough:
        return min(enough, key=float)
    return max(rates, key=float, default=None)


def gap_words(gap: float) -> str:
    """`40.0`, `−5.0`: training less test accuracy, in percentage points."""
    return percent(gap).replace("-", "−")


def change(value: Number, interval: Sequence[float | int] | None = None) -> str:
    """A difference of fractions in signed percentage points: `+13.0 [+5.1, +20.2]`."""
    if known(value) is None:
        return MISSING
    text = _signed(value)
    return text if interval is None else f"{text} [{', '.join(map(_signed, interval))}]"


def _signed(value: float | int) -> str:
    text = percent(abs(value))
    return text if text == "0.0" else f"{'−' if value < 0 else '+'}{text}"
