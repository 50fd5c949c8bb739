"""The study of leaks as rows of strings, the same for the page and for the terminal.

Rates stand in percent, differences of rates in percentage points (pp), intervals in brackets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mu_jax.evaluation.report.class_tables import known, short_name
from mu_jax.evaluation.report.leaks_rows import (
    accuracy_of,
    arm_labels,
    base_labels,
    base_of,
    bounds,
    by_defense,
    change,
    chosen_rows,
    classifier_words,
    defense_words,
    feature_words,
    headline,
    headline_rows,
    overfitting,
    scenario_words,
    shown_rate,
)
from mu_jax.evaluation.report.methods_tables import beneath
from mu_jax.evaluation.report.tables import MISSING, Number, Table, count, percent

Row = Mapping[str, Any]

_SHORT = {
    "direct_concat": "concat",
    "l2": "ℓ2",
    "sorted_concat": "sort concat",
    "direct_difference": "diff",
    "sorted_difference": "sort diff",
    "logistic_regression": "LR",
    "decision_tree": "DT",
    "random_forest": "RF",
    "mlp": "MLP",
}
_NAME, _DEFENSE = 31, 20
"""Characters of an arm's and a defence's name that a terminal has room for."""


def main_table(results: Row, compact: bool = False) -> Table:
    """A row an arm and defence: the chosen attack on the headline scenario, and how well the originals do.

    `compact` is for a terminal of 120 columns: an interval of the AUC alone, in whole percent.
    """
    rows = headline_rows(results)
    labels, rate = base_labels(results), shown_rate(rows)
    defended = any(row["defense"] != "none" for row in rows)
    if compact:
        return _compact_table(results, rows, defended)
    at = f" % at {_rate(rate)}% FPR"
    header = ["Model", *(["Defence"] if defended else []), "Features", "Classifier", "AUC %"]
    header += ["Classical AUC %", "AUC gained, pp", "DegCount %", "DegRate, pp", f"TPR{at}"]
    header += [f"Classical TPR{at}", "Newly exposed %", "Ties, deleted / never %", "Train / test %"]
    return header, [
        [
            labels[base_of(row)],
            *([defense_words(row["defense"])] if defended else []),
            feature_words(row["feature"]),
            classifier_words(row["classifier"]),
            *_strength(row),
            _at(row, "tpr_at_fpr", rate),
            _at(row, "classical_tpr_at_fpr", rate),
            _rated(row, "newly_exposed"),
            _ties(row),
            " / ".join(percent(accuracy_of(results, row["arm"], part)) for part in ("train", "test")),
        ]
        for row in rows
    ]


def _compact_table(results: Row, rows: Sequence[Row], defended: bool) -> Table:
    """Where there are defences, they take the room of the classical attack, TPR and training accuracy."""
    labels, rate = base_labels(results), shown_rate(rows)
    header = ["Model", *(["Defence"] if defended else []), "Attack", "AUC %"]
    header += (
        ["DegRate pp", "Test %"]
        if defended
        else ["Classic %", "DegRate pp", f"TPR@{_rate(rate)}%", "Train/test %"]
    )
    found = []
    for row in rows:
        train, test = (percent(accuracy_of(results, row["arm"], part)) for part in ("train", "test"))
        cells = [short_name(labels[base_of(row)], _NAME)]
        cells += [short_name(defense_words(row["defense"]), _DEFENSE)] if defended else []
        cells += [f"{_short(row['feature'])}, {_short(row['classifier'])}", _rounded(row, "auc")]
        if defended:
            cells += [change(row.get("deg_rate")), test]
        else:
            cells += [percent(row.get("classical_auc")), change(row.get("deg_rate"))]
            cells += [percent((row.get("tpr_at_fpr") or {}).get(rate)), f"{train}/{test}"]
        found.append(cells)
    return header, found


def scenario_table(results: Row) -> Table:
    """A row an arm and scenario without a defence: the chosen attack on it."""
    rows = chosen_rows(results, defense="none")
    labels, rate = arm_labels(results), shown_rate(rows)
    header = ["Model", "Scenario", "Pairs", "Features", "Classifier", "AUC %", "Classical AUC %"]
    header += ["AUC gained, pp", "DegCount %", "DegRate, pp", f"TPR % at {_rate(rate)}% FPR"]
    header += ["Newly exposed %", "Ties, deleted / never %"]
    return header, [
        [
            labels[row["arm"]],
            scenario_words(row["scenario"], row["size"]),
            count(row.get("pairs")),
            feature_words(row["feature"]),
            classifier_words(row["classifier"]),
            *_strength(row),
            _at(row, "tpr_at_fpr", rate),
            _rated(row, "newly_exposed"),
            _ties(row),
        ]
        for row in rows
    ]


def attacks_table(results: Row) -> Table:
    """Every feature construction with every classifier, on the headline scenario; a dot marks the chosen one."""
    kind, size = headline(results)
    rows = [row for row in results["tables"]["leaks"] if (row["scenario"], row["size"]) == (kind, size)]
    labels, rate = base_labels(results), shown_rate(rows)
    header = ["Model", "Defence", "Features", "Classifier", "Chosen", "AUC on shadow %", "AUC %"]
    header += ["Classical AUC %", "AUC gained, pp", "DegCount %", "DegRate, pp", "Accuracy %"]
    header += ["Classical accuracy %", "Advantage, pp", f"TPR % at {_rate(rate)}% FPR", "Newly exposed %"]
    return header, [
        [
            labels[base_of(row)],
            defense_words(row["defense"]),
            feature_words(row["feature"]),
            classifier_words(row["classifier"]),
            "•" if row["chosen"] else "",
            percent(row.get("selection_auc")),
            *_strength(row),
            _rated(row, "accuracy"),
            _rated(row, "classical_accuracy"),
            percent(row.get("advantage")),
            _at(row, "tpr_at_fpr", rate),
            _rated(row, "newly_exposed"),
        ]
        for row in rows
    ]


def transfer_table(results: Row) -> Table:
    """A row a shadow unlike its target, by its data or its kind of model; beside it the shadow that is like it."""
    labels = arm_labels(results)
    home = {
        (row["arm"], row["defense"], row["scenario"], row["size"]): row.get("auc")
        for row in chosen_rows(results)
    }
    header = ["Target", "Shadow models", "Shadow data", "Defence", "Scenario", "Features", "Classifier"]
    header += ["AUC %", "with a shadow like it %", "Classical AUC %", "AUC gained, pp", "DegRate, pp"]
    return header, [
        [
            labels.get(row["arm"], row["arm"]),
            labels.get(row["shadow_arm"], row["shadow_arm"]),
            row["shadow_data"],
            defense_words(row["defense"]),
            scenario_words(row["scenario"], row["size"]),
            feature_words(row["feature"]),
            classifier_words(row["classifier"]),
            _rated(row, "auc"),
            percent(home.get((row["arm"], row["defense"], row["scenario"], row["size"]))),
            _rated(row, "classical_auc"),
            change(row.get("auc_gain"), bounds(row, "auc_gain")),
            change(row.get("deg_rate"), bounds(row, "deg_rate")),
        ]
        for row in results["tables"].get("transfer") or []
    ]


def defenses_table(results: Row) -> Table:
    """A row a base and defence: what is left of the models' use, and of the attack, on the headline scenario."""
    labels = base_labels(results)
    groups = by_defense(results)
    private = any("epsilon" in row for rows in groups.values() for row in rows.values())
    header = ["Model", "Defence", "Test %", "Brier score", *(["ε"] if private else []), "AUC %"]
    header += ["Change of AUC, pp", "Classical AUC %", "DegRate, pp", "Features", "Classifier"]
    found = []
    for base, rows in groups.items():
        plain = rows.get("none", {})
        for name, row in rows.items():
            change_of_auc = None if name == "none" else _less(row.get("auc"), plain.get("auc"))
            brier = known(row.get("brier"))
            cells = [labels.get(base, row["arm"]), defense_words(name), percent(row.get("test_accuracy"))]
            cells += [MISSING if brier is None else f"{brier:.3f}", *([_privacy(row)] if private else [])]
            cells += [_rated(row, "auc"), change(change_of_auc), _rated(row, "classical_auc")]
            cells += [change(row.get("deg_rate"), bounds(row, "deg_rate"))]
            cells += [feature_words(row["feature"]), classifier_words(row["classifier"])]
            found.append(cells)
    return header, found


def models_table(results: Row) -> Table:
    """A row an arm: accuracies of the target's originals and of the models after a deletion, mean ± sd over models."""
    labels = arm_labels(results)
    header = ["Model", "Name in results.json", "Original: train %", "Original: test %", "Train less test, pp"]
    header += ["After: retained %", "After: deleted %", "After: test %", "Diverged"]
    parts = {"original_train": "train", "original_test": "test"}
    found = []
    for arm, figures in results["models"].items():
        spread, after = figures.get("accuracy_sd") or {}, figures.get("accuracy") or {}
        cells = [labels[arm], arm]
        cells += [
            beneath(accuracy_of(results, arm, part), spread.get(key), percent) for key, part in parts.items()
        ]
        cells.append(percent(overfitting(results, arm)))
        cells += [
            beneath(after.get(part), spread.get(part), percent) for part in ("retain", "forget", "test")
        ]
        found.append([*cells, count(figures.get("diverged"))])
    return header, found


def _strength(row: Row) -> list[str]:
    """AUC, classical AUC, their difference, DegCount and DegRate, each with its interval."""
    return [
        _rated(row, "auc"),
        _rated(row, "classical_auc"),
        change(row.get("auc_gain"), bounds(row, "auc_gain")),
        _rated(row, "deg_count"),
        change(row.get("deg_rate"), bounds(row, "deg_rate")),
    ]


def _rated(row: Row, key: str) -> str:
    return percent(row.get(key), bounds(row, key))


def _rounded(row: Row, key: str) -> str:
    """As `_rated`, its interval in whole percent."""
    interval = bounds(row, key)
    text = percent(row.get(key))
    return text if interval is None else f"{text} [{', '.join(f'{100 * end:.0f}' for end in interval)}]"


def _at(row: Row, key: str, rate: str | None) -> str:
    return percent((row.get(key) or {}).get(rate), bounds(row, key, rate) if rate else None)


def _rate(rate: str | None) -> str:
    return MISSING if rate is None else f"{100 * float(rate):g}"


def _ties(row: Row) -> str:
    ties = row.get("ties") or {}
    return f"{percent(ties.get('deleted'))} / {percent(ties.get('never'))}"


def _less(value: Number, other: Number) -> float | None:
    return None if known(value) is None or known(other) is None else value - other


def _privacy(row: Row) -> str:
    if "epsilon" not in row:
        return MISSING
    epsilon, delta = known(row["epsilon"]), known(row.get("delta"))
    # JSON has no infinity: too little noise to promise anything is written as null.
    return ("∞" if epsilon is None else f"{epsilon:.3g}") + ("" if delta is None else f" (δ = {delta:g})")


def _short(name: str) -> str:
    return _SHORT.get(name, name)
