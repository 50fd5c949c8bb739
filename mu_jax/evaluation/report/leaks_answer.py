"""The answer of the study of leaks in words: whether deleting gives away who was deleted, where, and what helps.

Two attacks are told apart where an interval says so: that of their difference where there is one, else where their own
intervals do not overlap, which errs towards not telling.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.evaluation.report.class_tables import known, listed
from mu_jax.evaluation.report.leaks_rows import (
    FAMILIES,
    apart,
    arm_labels,
    arms_words,
    best_of,
    bounds,
    by_defense,
    change,
    chosen_rows,
    classifier_words,
    defense_words,
    feature_words,
    gap_words,
    headline,
    overfitting,
    plain_rows,
    scenario_words,
    side_of,
)
from mu_jax.evaluation.report.tables import percent

Row = Mapping[str, Any]

_SIZED = ("group", "intermediates", "online")
_MOST_NAMED = 4


def verdict(results: Row) -> str:
    """Whether the attack on pairs tells deleted examples, how well at most, and whether better than the classical."""
    rows = [row for row in plain_rows(results) if known(row.get("auc")) is not None]
    if not rows:
        return "No pair of models could be attacked"
    asked = "members that stay" if headline(results)[0] == "remaining" else "deleted members"
    leaks = [row for row in rows if side_of(bounds(row, "auc"), 0.5) > 0]
    several = len(rows) > 1
    if not leaks:
        told = (
            f"In none of {arms_words(results, len(rows))} does the attack on pairs tell"
            if several
            else (f"In {_label(results, rows[0])} the attack on pairs does not tell")
        )
        return f"{told} {asked} from examples that were never learned: no interval of its AUC lies above 50%"
    best = max(leaks, key=lambda row: row["auc"])
    compared = {1: "ahead of", -1: "behind", 0: "not told apart from"}[side_of(bounds(best, "auc_gain"), 0.0)]
    where = f"in {len(leaks)} of {arms_words(results, len(rows))}, most in" if several else "in"
    return (
        f"The attack on pairs tells {asked} from examples that were never learned {where} "
        f"{_label(results, best)}: an AUC of {_auc(best)}, {compared} the classical attack's "
        f"{percent(best.get('classical_auc'))}% ({change(best.get('auc_gain'), bounds(best, 'auc_gain'))} points)"
    )


def sentences(results: Row) -> list[str]:
    """What was found, computed from the figures; what a study has no figures of is left out."""
    found = [_gains(results), _arms(results), _features(results), _sizes(results), _defenses(results)]
    return [sentence for sentence in found if sentence]


def _gains(results: Row) -> str:
    """Beside the classical attack, over arms and by how much the models overfit."""
    rows = [row for row in plain_rows(results) if known(row.get("auc_gain")) is not None]
    if len(rows) < 2:
        return ""
    sides = [side_of(bounds(row, "auc_gain"), 0.0) for row in rows]
    text = (
        f"Of {arms_words(results, len(rows))} the attack on pairs is ahead of the classical one in {sides.count(1)}, "
        f"behind it in {sides.count(-1)}, and not told apart from it in {sides.count(0)}"
    )
    by_gap = _by_overfitting(results)
    if len(by_gap) < 2:
        return text

    def gain(place: int) -> str:
        gap, row = by_gap[place]
        return f"{change(row['auc_gain'], bounds(row, 'auc_gain'))} points of AUC at {gap_words(gap)} points"

    least, most = (by_gap[place][1] for place in (0, -1))
    order = apart(bounds(least, "auc_gain"), bounds(most, "auc_gain"))
    words = {1: "more where models overfit more", -1: "less where models overfit more", 0: "not told apart"}
    return (
        f"{text}; by the distance of training from test accuracy it gains {gain(0)} ({_label(results, least)}) and "
        f"{gain(-1)} ({_label(results, most)}): {words[order]}"
    )


def _arms(results: Row) -> str:
    """Which arm leaks most and which least, and what a shared start does."""
    rows = sorted(
        (row for row in plain_rows(results) if known(row.get("auc")) is not None), key=lambda row: -row["auc"]
    )
    if len(rows) < 2:
        return ""
    most, least = rows[0], rows[-1]
    ends = " (the intervals overlap)" if not apart(bounds(least, "auc"), bounds(most, "auc")) else ""
    text = f"Most leaks in {_named(results, most)}, least in {_named(results, least)}{ends}"
    pairs = _with_and_without_start(rows)
    if not pairs:
        return text
    sides = [apart(bounds(alone, "auc"), bounds(shared, "auc")) for alone, shared in pairs]
    mean = float(np.mean([shared["auc"] - alone["auc"] for alone, shared in pairs]))
    return (
        f"{text}; where a retrained model shares its original's start the AUC changes by {change(mean)} points on "
        f"average over {_kinds(len(pairs))}: {_in(sides, 'higher', 'lower')}"
    )


def _features(results: Row) -> str:
    """Concatenations beside differences, each by the attack of its family that did best on shadow pairs."""
    found: dict[int, list[str]] = {1: [], -1: [], 0: []}
    gaps = {row["arm"]: overfitting(results, row["arm"]) for row in plain_rows(results)}
    # Those that nobody knows the overfitting of last.
    for row in sorted(
        plain_rows(results), key=lambda row: (gaps[row["arm"]] is None, gaps[row["arm"]] or 0.0)
    ):
        best = [_best_of_family(results, row, kinds) for kinds in FAMILIES.values()]
        if None in best:
            continue
        concat, difference = best
        gap = gaps[row["arm"]]
        overfitted = "" if gap is None else f"{gap_words(gap)} points overfitted, "
        side = apart(bounds(concat, "auc"), bounds(difference, "auc"))
        figures = f"{percent(concat['auc'])}% and {percent(difference['auc'])}%"
        found[side].append(f"{_label(results, row)} ({overfitted}{figures})")
    words = {-1: "concatenations ahead in", 1: "differences ahead in", 0: "not told apart in"}
    parts = [f"{words[side]} {_some(names)}" for side, names in found.items() if names]
    return f"By AUC of concatenations and of differences: {'; '.join(parts)}" if parts else ""


def _sizes(results: Row) -> str:
    """From a single deletion, or the smallest size, to the largest of each kind of scenario."""
    rows = _by_scenario(results)
    parts = []
    for kind in _SIZED:
        sizes = sorted({size for found, size in rows if found == kind})
        if not sizes:
            continue
        # A group of one is a single deletion, and so is one intermediate model.
        first = ("single", 1) if ("single", 1) in rows and kind != "online" else (kind, sizes[0])
        if first == (kind, sizes[-1]):
            continue
        start, end = rows[first], rows[kind, sizes[-1]]
        arms = [arm for arm in start if arm in end]
        if not arms:
            continue
        mean = float(np.mean([end[arm]["auc"] - start[arm]["auc"] for arm in arms]))
        sides = [apart(bounds(start[arm], "auc"), bounds(end[arm], "auc")) for arm in arms]
        parts.append(
            f"from {scenario_words(*first)} to {scenario_words(kind, sizes[-1])} by {change(mean)} points "
            f"({_in(sides, 'higher', 'lower')})"
        )
    return f"The AUC changes on average {'; '.join(parts)}" if parts else ""


def _defenses(results: Row) -> str:
    """Which defences take the attack's AUC below the undefended one's interval, and at what price."""
    changes: dict[str, list[tuple[int, float, float | None]]] = {}
    undefended = []
    for rows in by_defense(results).values():
        plain = rows.get("none")
        if plain is None or known(plain.get("auc")) is None:
            continue
        undefended.append(side_of(bounds(plain, "auc"), 0.5))
        for name, row in rows.items():
            if name == "none" or known(row.get("auc")) is None:
                continue
            price = [known(one.get("test_accuracy")) for one in (plain, row)]
            cost = None if None in price else price[1] - price[0]
            side = apart(bounds(plain, "auc"), bounds(row, "auc"))
            changes.setdefault(name, []).append((side, row["auc"] - plain["auc"], cost))
    if not changes:
        return ""
    if not any(side > 0 for side in undefended):
        return "Defences cannot be judged: without one the attack's AUC is not told from 50%"
    groups: dict[str, list[str]] = {"weaker under": [], "stronger under": [], "not told apart under": []}
    for name, found in changes.items():
        sides = [side for side, *_ in found]
        group = "weaker under" if -1 in sides else "stronger under" if 1 in sides else "not told apart under"
        # Where they disagree, the count says so.
        count = max(sides.count(-1), sides.count(1)) if any(sides) else sides.count(0)
        costs = [cost for *_, cost in found if cost is not None]
        text = f"{defense_words(name)} ({change(float(np.mean([moved for _, moved, _ in found])))}"
        if len(found) > 1:
            text += f", in {count} of {len(found)}"
        if costs and abs(np.mean(costs)) >= 0.0005:
            text += f", test accuracy {change(float(np.mean(costs)))}"
        groups[group].append(f"{text})")
    parts = [f"{words} {listed(names)}" for words, names in groups.items() if names]
    return f"Against an attacker who knows the defence, by points of AUC: {'; '.join(parts)}"


def _by_overfitting(results: Row) -> list[tuple[float, Row]]:
    """(training less test accuracy, the chosen attack) of the undefended arms of one way to delete, least first.

    The way that most kinds of models have, the first of several: a method's leak must not pass for overfitting's.
    """
    groups: dict[tuple[str, bool], list[tuple[float, Row]]] = {}
    for row in plain_rows(results):
        gap = overfitting(results, row["arm"])
        if gap is not None and known(row.get("auc")) is not None and known(row.get("auc_gain")) is not None:
            groups.setdefault((row["method"], row["shares_start"]), []).append((gap, row))
    most = max(groups.values(), key=len, default=[])
    return sorted(most, key=lambda one: one[0])


def _best_of_family(results: Row, row: Row, kinds: Sequence[str]) -> Row | None:
    facts = ("arm", "defense", "scenario", "size")
    mine = [
        one
        for one in results["tables"]["leaks"]
        if one["feature"] in kinds
        and known(one.get("auc")) is not None
        and all(one[key] == row[key] for key in facts)
    ]
    return best_of(mine)


def _by_scenario(results: Row) -> dict[tuple[str, int], dict[str, Row]]:
    """The chosen attacks without a defence, by scenario and arm."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for row in chosen_rows(results, defense="none"):
        if known(row.get("auc")) is not None:
            found.setdefault((row["scenario"], row["size"]), {})[row["arm"]] = row
    return found


def _with_and_without_start(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    places = {(row["target"], row["method"], row["shares_start"]): row for row in rows}
    found = []
    for (target, method, shares), row in places.items():
        alone = places.get((target, method, False))
        if shares and alone is not None:
            found.append((alone, row))
    return found


def _in(sides: Sequence[int], up: str, down: str) -> str:
    """`higher in 2 of 3, lower in 0, not told apart in 1`."""
    return f"{up} in {sides.count(1)} of {len(sides)}, {down} in {sides.count(-1)}, not told apart in {sides.count(0)}"


def _kinds(number: int) -> str:
    return "one kind of models" if number == 1 else f"{number} kinds of models"


def _some(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return listed(names)
    return f"{', '.join(names[: _MOST_NAMED - 1])} and {len(names) - _MOST_NAMED + 1} others"


def _label(results: Row, row: Row) -> str:
    defended = "" if row["defense"] == "none" else f" under {defense_words(row['defense'])}"
    return arm_labels(results)[row["arm"]] + defended


def _named(results: Row, row: Row) -> str:
    attack = f"{feature_words(row['feature'])}, {classifier_words(row['classifier'])}"
    return f"{_label(results, row)}: an AUC of {_auc(row)} by {attack}"


def _auc(row: Row) -> str:
    interval = bounds(row, "auc")
    return f"{percent(row['auc'])}%" + percent(row["auc"], interval).removeprefix(percent(row["auc"]))
