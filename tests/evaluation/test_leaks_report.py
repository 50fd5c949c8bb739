"""The page of the attack on pairs of models: what its words, tables and figures say, and that none of them lies."""

import base64
import copy
import html
import io
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from rich.console import Console

from mu_jax.evaluation.report import drawing
from mu_jax.evaluation.report.leaks_answer import sentences, verdict
from mu_jax.evaluation.report.leaks_figures import (
    curves_of,
    features_figure,
    has_overfitting,
    overfitting_figure,
    roc_figure,
)
from mu_jax.evaluation.report.leaks_page import figures_of, render_leaks_page, study_words, write_leaks_report
from mu_jax.evaluation.report.leaks_remarks import remarks
from mu_jax.evaluation.report.leaks_rows import (
    apart,
    arm_labels,
    base_of,
    best_of,
    change,
    defense_words,
    scenario_words,
    shown_rate,
    side_of,
    target_words,
)
from mu_jax.evaluation.report.leaks_study_figures import defenses_figure, scenarios_figure
from mu_jax.evaluation.report.leaks_tables import (
    attacks_table,
    defenses_table,
    main_table,
    models_table,
    scenario_table,
    transfer_table,
)
from mu_jax.experiments.leaks_table import leaks_summary
from mu_jax.experiments.registry import print_results

LONG = "cnn:train.epochs=60.0,train.weight_decay=0.0"
PRIVATE = "dp_sgd:noise_multiplier=1.2"
FEATURES = ("direct_concat", "sorted_difference")
CLASSIFIERS = ("logistic_regression", "mlp")
# Invented, of the chosen attack on single deletions: AUC, classical AUC, training accuracy, never-members that tie.
ARMS = {
    ("cnn", "retrain", False): (0.62, 0.52, 0.66, 0.0),
    ("cnn", "retrain", True): (0.90, 0.52, 0.66, 0.0),
    (LONG, "retrain", False): (0.80, 0.81, 1.00, 0.0),
}
SCENARIOS = {("single", 1): 0.0, ("group", 10): -0.08, ("intermediates", 5): -0.05, ("remaining", 1): 0.01}
# What each takes from the AUC, from test accuracy, and adds to the Brier score.
DEFENSES = {
    "none": (0, 0, 0),
    "top_k:k=3": (0.01, 0, 0.01),
    "label_only": (0.11, 0, 0.15),
    PRIVATE: (0.12, 0.2, 0.1),
}
HALF = 0.04


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """A third of the resolution: the same drawing in a fraction of the time."""
    monkeypatch.setattr(drawing, "_DPI", 50)


def name_of(target: str, method: str, shares: bool) -> str:
    return f"{target}, {method}" + (", shared start" if shares else "")


def attack_row(auc: float, classical: float, **changes: object) -> dict:
    """Figures of an attack; every interval reaches `HALF` to both sides, of the AUC gained half as far."""
    figures = {"auc": auc, "classical_auc": classical, "auc_gain": auc - classical, "accuracy": auc - 0.05}
    figures |= {"classical_accuracy": classical - 0.03, "deg_count": 0.57, "newly_exposed": 0.31}
    figures |= {"deg_rate": (auc - classical) / 2}
    interval = {key: [value - HALF, value + HALF] for key, value in figures.items()}
    interval["auc_gain"] = [auc - classical - HALF / 2, auc - classical + HALF / 2]
    rates = {"0.001": 0.0, "0.01": 0.04, "0.1": 0.24}
    return {
        **figures,
        "pairs": 400,
        "left_out": 0,
        "ties": {"deleted": 0.0, "never": 0.0},
        "advantage": 0.14,
        "tpr_at_fpr": rates,
        "classical_tpr_at_fpr": {key: value / 2 for key, value in rates.items()},
        "interval": interval
        | {
            "tpr_at_fpr": {key: [value / 2, 2 * value] for key, value in rates.items()},
            "classical_tpr_at_fpr": {key: [0.0, value] for key, value in rates.items()},
        },
        "originals": 10,
        "resampled": "originals",
        "members": 200,
        "nonmembers": 200,
        **changes,
    }


def make_results(
    arms: dict = ARMS,
    scenarios: dict = SCENARIOS,
    defenses: tuple[str, ...] = ("none",),
    transfer: bool = True,
) -> dict:
    """Invented results with the keys that the experiment gives them."""
    leaks, roc, cost, figures = [], [], [], {}
    headline = next(iter(scenarios))
    for (target, method, shares), (auc, classical, train, ties) in arms.items():
        for defense in defenses:
            lost, of_test, of_brier = DEFENSES[defense]
            private = defense == PRIVATE
            mine = f"{target} {PRIVATE}" if private else target
            arm = name_of(mine, method, shares)
            test = 0.60 - of_test
            facts = {"arm": arm, "target": mine, "method": method, "shares_start": shares, "defense": defense}
            figures[arm] = {
                "accuracy": {"retain": train, "forget": test, "test": test, "train": train},
                "original": {"accuracy": {"train": train, "test": test}, "overfitting": train - test},
                "accuracy_sd": {"original_train": 0.01, "original_test": 0.02, "retain": 0.01},
                "released": {},
                "privacy": {"epsilon": 3.21, "delta": 1e-5} if private else {},
                "diverged": 0,
            }
            for (kind, size), moved in scenarios.items():
                here = facts | {"scenario": kind, "size": size}
                # Sorted differences by an MLP are chosen; concatenations fall behind, but on what overfits.
                for number, (feature, classifier) in enumerate(
                    (feature, classifier) for feature in FEATURES for classifier in CLASSIFIERS
                ):
                    chosen = number == 3
                    behind = 0.0 if chosen else 0.02 if train == 1.0 else 0.03 * (3 - number) + 0.04
                    row = attack_row(auc + moved - lost - behind, classical)
                    row |= {"feature": feature, "classifier": classifier, "chosen": chosen}
                    row |= {"selection_auc": 0.7 + 0.02 * number, "ties": {"deleted": 0.1, "never": ties}}
                    leaks.append(here | row)
                    if chosen and (kind, size) == headline:
                        kept = ("feature", "classifier", "auc", "classical_auc", "deg_rate", "interval")
                        cost.append(
                            here
                            | {key: row[key] for key in kept}
                            | {"test_accuracy": test, "brier": 0.5 + of_brier}
                            | figures[arm]["privacy"]
                        )
                        for attack, power in (("pair", 3.0), ("classical", 1.5)):
                            fpr = np.linspace(0, 1, 11)
                            curve = {"fpr": fpr.tolist(), "tpr": (fpr ** (1 / power)).tolist()}
                            roc.append(here | {"attack": attack} | curve)
    order = list(scenarios)
    leaks.sort(key=lambda row: -row["selection_auc"])
    leaks.sort(key=lambda row: order.index((row["scenario"], row["size"])))
    leaks.sort(key=lambda row: list(figures).index(row["arm"]))
    moves = []
    if transfer and len(figures) > 1:
        first, other = next(iter(figures)), list(figures)[-1]
        asked = next(row for row in cost if row["arm"] == first)
        facts = {key: asked[key] for key in ("arm", "target", "method", "shares_start", "defense")}
        facts |= {key: asked[key] for key in ("scenario", "size", "feature", "classifier")}
        moves = [facts | attack_row(0.58, 0.51) | {"shadow_arm": other, "shadow_data": "CIFAR-10"}]
    return {
        "experiment": "unlearning_leaks",
        "question": "Does deleting <give> away?",
        "seed": 7,
        "data": {
            "source": "tfds:cifar10",
            "name": "CIFAR-10",
            "classes": 10,
            "image_shape": [32, 32, 3],
            "label_noise": 0.0,
            "class_names": [str(i) for i in range(10)],
            "tabular": False,
            "side": 6000,
            "training_examples": 2000,
            "other_source": "",
        },
        "study": {
            "originals": 10,
            "unlearned": 20,
            "targets": [{"name": "cnn", "architecture": "cnn", "width": 16, "parameters": 12_345}],
            "interval_level": 0.95,
            "fpr": [0.001, 0.01, 0.1],
            "models": 1234,
            "seconds": {"cnn, shadow": 30.0, "cnn, target": 31.0},
            "trained_samples": {"cnn, shadow": 10_000, "cnn, target": 10_000},
            "compile_seconds": {"cnn": 4.0},
        },
        "models": figures,
        "tables": {"leaks": leaks, "transfer": moves, "defenses": cost, "roc": roc},
        "environment": {"jax": "0.10.2", "device": "2 × cpu"},
    }


def chosen(results: dict, **wanted: object) -> dict:
    """The one chosen row of these facts, to place a figure in."""
    (row,) = (
        row
        for row in results["tables"]["leaks"]
        if row["chosen"] and all(row[key] == value for key, value in wanted.items())
    )
    return row


def figure_of(draw, results: dict):
    with drawing.drawing():
        return draw(results)


def visible(text: str) -> str:
    """The page's words, as a reader sees them."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_names_are_short_and_stay_apart():
    assert target_words(LONG) == "cnn (epochs 60, weight decay 0)"
    assert target_words("cnn") == "cnn"
    assert target_words(f"{LONG} {PRIVATE}") == "cnn (epochs 60, weight decay 0) + DP-SGD (σ = 1.2)"
    assert defense_words("temperature:t=16.0") == "temperature (T = 16)"
    assert defense_words(f"{PRIVATE} + label_only") == "DP-SGD (σ = 1.2) + label only"
    assert scenario_words("online", 5) == "online, 5 for 5"
    assert list(arm_labels(make_results()).values()) == [
        "cnn",
        "cnn, shared start",
        "cnn (epochs 60, weight decay 0)",
    ]
    # Of several methods each has its own; settings that would be called alike keep their names.
    arms = {("cnn:train.width=3", "retrain", False): (0.6, 0.5, 0.7, 0.0)}
    arms |= {("cnn:model.width=3", "sisa", False): (0.6, 0.5, 0.7, 0.0)}
    assert list(arm_labels(make_results(arms)).values()) == ["cnn (width 3), retrain", "cnn (width 3), sisa"]
    arms = {(target, "retrain", shares): values for (target, _, shares), values in arms.items()}
    assert list(arm_labels(make_results(arms)).values()) == ["cnn:train.width=3", "cnn:model.width=3"]


def test_of_one_kind_of_models_the_ways_to_delete_are_told_apart():
    ways = {(LONG, method, False): (0.6, 0.5, 0.7, 0.0) for method in ("retrain", "sisa", "amun")}
    results = make_results(ways)
    assert list(arm_labels(results).values()) == ["retrain", "sisa", "amun"]
    assert study_words(results).startswith(
        "3 ways to delete from cnn (epochs 60, weight decay 0), 10 originals"
    )
    assert "in 3 of 3 ways to delete, most in retrain: an AUC" in verdict(results)
    assert (
        sentences(results)[0].startswith("Of 3 ways to delete the attack")
        and "points of AUC" not in (sentences(results)[0])
    )
    assert study_words(make_results(defenses=tuple(DEFENSES))).startswith("3 kinds of models, 10 originals")


def test_intervals_that_touch_do_not_tell_attacks_apart():
    assert (side_of([0.5, 0.6], 0.5), side_of([0.51, 0.6], 0.5), side_of([0.4, 0.49], 0.5)) == (0, 1, -1)
    assert (apart([0.1, 0.2], [0.2, 0.3]), apart([0.1, 0.2], [0.21, 0.3]), apart([0.3, 0.4], [0.1, 0.2])) == (
        0,
        1,
        -1,
    )
    assert side_of(None, 0.5) == apart(None, [0, 1]) == 0


def test_differences_of_rates_have_signs():
    assert change(0.131, [-0.05, 0.2]) == "+13.1 [−5.0, +20.0]"
    assert change(-0.0001) == "0.0" and change(None) == "–" and change(float("nan")) == "–"


def test_the_attack_shown_is_the_one_that_shadow_pairs_name():
    rows = [{"selection_auc": 0.6, "auc": 0.9}, {"selection_auc": 0.7, "auc": 0.8}]
    assert best_of(rows)["auc"] == 0.8
    assert best_of([{"selection_auc": None, "auc": 0.9}])["auc"] == 0.9
    assert best_of([{"selection_auc": None}, {"selection_auc": None}]) is None
    assert shown_rate(make_results()["tables"]["leaks"]) == "0.01"
    assert shown_rate([{"tpr_at_fpr": {"0.001": 0.1, "0.002": 0.2}}]) == "0.002" and shown_rate([]) is None


def test_main_table_by_hand():
    results = make_results()
    header, rows = main_table(results)
    assert [row[0] for row in rows] == list(arm_labels(results).values())
    cells = dict(zip(header, rows[0], strict=True))
    assert cells == {
        "Model": "cnn",
        "Features": "sorted difference",
        "Classifier": "MLP",
        "AUC %": "62.0 [58.0, 66.0]",
        "Classical AUC %": "52.0 [48.0, 56.0]",
        "AUC gained, pp": "+10.0 [+8.0, +12.0]",
        "DegCount %": "57.0 [53.0, 61.0]",
        "DegRate, pp": "+5.0 [+1.0, +9.0]",
        "TPR % at 1% FPR": "4.0 [2.0, 8.0]",
        "Classical TPR % at 1% FPR": "2.0 [0.0, 4.0]",
        "Newly exposed %": "31.0 [27.0, 35.0]",
        "Ties, deleted / never %": "10.0 / 0.0",
        "Train / test %": "66.0 / 60.0",
    }
    header, rows = main_table(results, compact=True)
    assert rows[2] == [
        "cnn (epochs 60, weight decay 0)",
        "sort diff, MLP",
        "80.0 [76, 84]",
        "81.0",
        "−0.5",
        "4.0",
        "100.0/60.0",
    ]
    assert all(len(row) == len(header) for row in rows)


def test_further_tables_by_hand():
    results = make_results()
    header, rows = scenario_table(results)
    assert len(rows) == 3 * 4
    cells = dict(zip(header, next(row for row in rows if row[1] == "group of 10"), strict=True))
    assert (cells["Pairs"], cells["AUC %"], cells["AUC gained, pp"]) == (
        "400",
        "54.0 [50.0, 58.0]",
        "+2.0 [0.0, +4.0]",
    )
    header, rows = attacks_table(results)
    # Of the first scenario alone: arms, features and classifiers.
    assert len(rows) == 3 * 4
    dots = [row for row in rows if row[header.index("Chosen")] == "•"]
    assert [row[header.index("AUC on shadow %")] for row in dots] == ["76.0"] * 3
    assert dots[0][header.index("Accuracy %")] == "57.0 [53.0, 61.0]"
    header, rows = transfer_table(results)
    assert rows[0][:5] == ["cnn", "cnn (epochs 60, weight decay 0)", "CIFAR-10", "none", "single deletion"]
    cells = dict(zip(header, rows[0], strict=True))
    assert (cells["AUC %"], cells["with a shadow like it %"]) == ("58.0 [54.0, 62.0]", "62.0")
    header, rows = models_table(results)
    assert rows[1] == [
        "cnn, shared start",
        "cnn, retrain, shared start",
        "66.0 (± 1.0)",
        "60.0 (± 2.0)",
        "6.0",
        "66.0 (± 1.0)",
        "60.0",
        "60.0",
        "0",
    ]
    assert len(rows[0]) == len(header)


def test_defences_stand_beside_their_own_models_without_one():
    results = make_results(defenses=tuple(DEFENSES))
    header, rows = defenses_table(results)
    assert len(rows) == 3 * 4
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert [one["Model"] for one in cells[:4]] == ["cnn"] * 4
    assert [one["Defence"] for one in cells[:4]] == [
        "none",
        "top-k (k = 3)",
        "label only",
        "DP-SGD (σ = 1.2)",
    ]
    assert [one["Change of AUC, pp"] for one in cells[:4]] == ["–", "−1.0", "−11.0", "−12.0"]
    assert (cells[3]["Test %"], cells[3]["Brier score"], cells[3]["ε"]) == (
        "40.0",
        "0.600",
        "3.21 (δ = 1e-05)",
    )
    assert cells[0]["ε"] == "–"
    # Too little noise for a promise.
    results["tables"]["defenses"][3]["epsilon"] = None
    header, rows = defenses_table(results)
    assert rows[3][header.index("ε")] == "∞ (δ = 1e-05)"
    assert "ε" not in defenses_table(make_results(defenses=("none", "label_only")))[0]
    header, rows = main_table(results)
    assert header[1] == "Defence" and len(rows) == 3 * 4
    assert base_of(
        {"target": f"mlp {PRIVATE}", "method": "retrain", "shares_start": False, "defense": PRIVATE}
    ) == (
        "mlp",
        "retrain",
        False,
    )


def test_the_verdict_says_what_intervals_carry():
    results = make_results()
    assert verdict(results) == (
        "The attack on pairs tells deleted members from examples that were never learned in 3 of 3 kinds of models, "
        "most in cnn, shared start: an AUC of 90.0% [86.0, 94.0], ahead of the classical attack's 52.0% "
        "(+38.0 [+36.0, +40.0] points)"
    )
    row = chosen(results, arm="cnn, retrain, shared start", scenario="single")
    row["interval"]["auc_gain"] = [-0.01, 0.6]
    assert "not told apart from the classical" in verdict(results)
    row["interval"]["auc_gain"] = [-0.02, -0.01]
    assert "behind the classical" in verdict(results)
    for one in results["tables"]["leaks"]:
        one["interval"]["auc"] = [0.5, 0.9]
    assert verdict(results).startswith(
        "In none of 3 kinds of models does the attack on pairs tell deleted members"
    )
    alone = make_results(dict([*ARMS.items()][:1]), {("remaining", 1): 0.0})
    assert "tells members that stay from examples that were never learned in cnn: an AUC of 62.0%" in verdict(
        alone
    )
    chosen(alone)["interval"]["auc"] = [0.45, 0.7]
    assert verdict(alone).startswith("In cnn the attack on pairs does not tell members that stay")
    chosen(alone)["auc"] = None
    assert verdict(alone) == "No pair of models could be attacked"


def test_gains_by_overfitting():
    results = make_results()
    gains = sentences(results)[0]
    assert "ahead of the classical one in 2, behind it in 0, and not told apart from it in 1" in gains
    assert "gains +10.0 [+8.0, +12.0] points of AUC at 6.0 points (cnn)" in gains
    assert "−1.0 [−3.0, +1.0] points of AUC at 40.0 points (cnn (epochs 60, weight decay 0))" in gains
    assert gains.endswith("less where models overfit more")
    chosen(results, arm="cnn, retrain", scenario="single")["interval"]["auc_gain"] = [0.0, 0.2]
    assert sentences(results)[0].endswith("not told apart")


def test_which_kind_of_model_leaks_most():
    results = make_results()
    arms = sentences(results)[1]
    assert arms.startswith(
        "Most leaks in cnn, shared start: an AUC of 90.0% [86.0, 94.0] by sorted difference, MLP"
    )
    assert "least in cnn: an AUC of 62.0%" in arms and "overlap" not in arms
    assert "changes by +28.0 points on average over one kind of models: higher in 1 of 1" in arms
    chosen(results, arm="cnn, retrain", scenario="single")["interval"]["auc"] = [0.5, 0.86]
    arms = sentences(results)[1]
    assert "(the intervals overlap)" in arms and "higher in 0 of 1, lower in 0, not told apart in 1" in arms


def test_concatenations_beside_differences():
    results = make_results()
    features = sentences(results)[2]
    # 0.62 − 0.10 against 0.62; of what overfits 0.78 against 0.80, within the intervals.
    assert "differences ahead in cnn (6.0 points overfitted, 52.0% and 62.0%)" in features
    assert (
        "not told apart in cnn (epochs 60, weight decay 0) (40.0 points overfitted, 78.0% and 80.0%)"
        in features
    )
    for row in results["tables"]["leaks"]:
        if row["target"] == LONG and row["feature"] == "direct_concat":
            row["auc"], row["interval"]["auc"] = 0.9, [0.87, 0.93]
    assert (
        "concatenations ahead in cnn (epochs 60, weight decay 0) (40.0 points overfitted, 90.0% and 80.0%)"
        in (sentences(results)[2])
    )
    # Where nobody knows how much a model overfits, the sentence does not say it; negative is less than nothing.
    for arm in results["models"]:
        results["models"][arm]["original"]["overfitting"] = -0.03 if "60" in arm else None
    features = sentences(results)[2]
    assert (
        "weight decay 0) (−3.0 points overfitted, " in features
        and "ahead in cnn (52.0% and 62.0%)" in features
    )
    # One family, or nothing to choose between its attacks by: nothing is said.
    for row in results["tables"]["leaks"]:
        row["selection_auc"] = None
    assert not any("concatenations" in text for text in sentences(results))


def test_trends_over_sizes():
    sizes = sentences(make_results())[3]
    assert sizes == (
        "The AUC changes on average from single deletion to group of 10 by −8.0 points (higher in 0 of 3, lower in 0, "
        "not told apart in 3); from single deletion to 5 intermediates by −5.0 points (higher in 0 of 3, lower in 0, "
        "not told apart in 3)"
    )
    results = make_results(scenarios={("group", 50): -0.2, ("group", 2): 0.0, ("online", 5): 0.0})
    (sizes,) = (text for text in sentences(results) if "changes on average from" in text)
    assert sizes.endswith(
        "from group of 2 to group of 50 by −20.0 points (higher in 0 of 3, lower in 3, not told apart in 0)"
    )
    assert not any(
        "on average from" in text for text in sentences(make_results(scenarios={("single", 1): 0.0}))
    )


def test_defences_that_help_and_what_they_cost():
    results = make_results(defenses=tuple(DEFENSES))
    text = sentences(results)[4]
    assert (
        "weaker under label only (−11.0, in 3 of 3) and DP-SGD (σ = 1.2) (−12.0, in 3 of 3, test accuracy −20.0)"
        in (text)
    )
    assert text.endswith("not told apart under top-k (k = 3) (−1.0, in 3 of 3)")
    for row in results["tables"]["defenses"]:
        row["interval"] = row["interval"] | {"auc": [0.45, 0.95]}
    assert "Defences cannot be judged: without one the attack's AUC is not told from 50%" in sentences(
        results
    )
    assert len(sentences(make_results())) == 4


def test_an_attack_without_intervals_is_told_apart_from_nothing():
    results = make_results(defenses=tuple(DEFENSES))
    for table in results["tables"].values():
        for row in table:
            row.pop("interval", None)
    assert verdict(results).startswith("In none of 3")
    assert (
        "ahead of the classical one in 0, behind it in 0, and not told apart from it in 3"
        in sentences(results)[0]
    )
    assert main_table(results)[1][0][4] == "62.0"
    for name, draw in figures_of(results).items():
        assert figure_of(draw, results).axes, name


def test_remarks_say_what_weakens_the_figures():
    found = " | ".join(remarks(make_results()))
    assert "ties" not in found and "diverged" not in found and "originals only" not in found
    assert "at 1% FPR an attack may call 2 of 200 never-members wrongly" in found
    arms = {
        ("decision_tree", "retrain", False): (0.9, 0.6, 1.0, 0.7),
        ("mlp", "retrain", False): (0.4, 0.5, 0.9, 0.05),
    }
    results = make_results(arms)
    results["study"]["originals"] = 3
    results["models"]["mlp, retrain"]["diverged"] = 2
    for row in results["tables"]["leaks"]:
        row |= {"left_out": 5, "resampled": "pairs", "nonmembers": 2000}
    found = " | ".join(remarks(results))
    assert "ties alarm" in found and "decision_tree (70.0%, of deleted ones 10.0%)" in found
    assert "mlp (5.0%" not in found
    assert "below 50% in mlp" in found
    assert "resample 3 originals only" in found and "resample pairs" in found and "wrongly" not in found
    assert "models of the target that diverged: 2 of mlp" in found
    assert "40 pairs of all scenarios" in found
    for row in results["tables"]["leaks"]:
        row["selection_auc"] = None
    assert any("too few pairs to choose an attack by" in text for text in remarks(results))


def test_report_writes_one_page_with_all_in_it(tmp_path):
    results = make_results(defenses=tuple(DEFENSES))
    config = {"seed": 7, "evaluation": {"bootstrap_samples": 1500}, "data": {"source": "digits </pre>"}}
    path = write_leaks_report(tmp_path, results, config)
    text = path.read_text(encoding="utf-8")
    names = {"roc", "features", "overfitting", "scenarios", "defenses"}
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == names
    for name in names:
        png = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert base64.b64encode(png).decode() in text
        with Image.open(io.BytesIO(png)) as image:
            assert np.ptp(np.asarray(image.convert("RGB"))) > 100
    assert not re.search(r'(?:src|href)="(?!data:)', text) and "<script" not in text and "http" not in text
    assert "<give>" not in text and "digits </pre>" not in text.replace("</pre></details>", "")
    words = visible(text)
    order = [
        verdict(results),
        "The chosen attack: single deletion",
        "Both attacks at every threshold",
        "How a pair becomes features",
        "Leak by overfitting",
        "By scenario",
        "Defences: what is left",
        "Transfer",
        "What was measured, and how",
        "Every feature construction with every classifier",
        "All settings",
    ]
    places = [words.index(one) for one in order]
    assert places == sorted(places)
    for sentence in [*sentences(results), *remarks(results)]:
        assert sentence[1:] in words
    assert "10 originals a side, 20 deleted and 20 never learned examples of each · 2,000 training" in words
    assert (
        "1,500 bootstrap resamples" in words
        and "training 61 s" in words
        and "examples trained 20,000" in words
    )
    assert "DegRate: by how much" in words and "ε bounds" in words


def test_what_a_study_lacks_is_left_out_of_its_page(tmp_path):
    results = make_results(dict([*ARMS.items()][:1]), {("single", 1): 0.0})
    for row in results["tables"]["leaks"]:
        row["feature"] = "l2"
    assert list(figures_of(results)) == ["roc"]
    path = write_leaks_report(tmp_path, results, {})
    words = visible(path.read_text(encoding="utf-8"))
    assert "Transfer" not in words and "Defences: what" not in words and "Leak by overfitting" not in words
    assert "one kind of models" in words and sentences(results) == []
    for table in ("leaks", "transfer", "defenses", "roc"):
        results["tables"][table] = []
    assert figures_of(results) == {}
    assert "No pair of models could be attacked" in visible(render_leaks_page(results, {}, {}))
    assert "None" not in " ".join(models_table(results)[1][0])


def test_a_study_under_a_defence_alone():
    results = make_results(scenarios={("single", 1): 0.0}, defenses=("label_only",))
    assert verdict(results).startswith("The attack on pairs tells") and "under label only" in verdict(results)
    assert "scenarios" not in figures_of(results) and "defenses" not in figures_of(results)
    assert len(main_table(results)[1]) == 3


def test_curves_have_a_panel_each_and_no_more_than_six():
    results = make_results()
    figure = figure_of(roc_figure, results)
    assert [axes.get_title() for axes in figure.axes] == list(arm_labels(results).values())
    guess, pair, classical = figure.axes[0].lines
    assert list(guess.get_xdata()) == [0, 100]
    assert pair.get_ydata() == pytest.approx(100 * np.linspace(0, 1, 11) ** (1 / 3))
    assert classical.get_ydata() == pytest.approx(100 * np.linspace(0, 1, 11) ** (1 / 1.5))
    assert pair.get_label() == "pairs: 62.0 [58.0, 66.0]"
    arms = {
        (f"mlp:train.epochs={n}.0", "retrain", False): (0.5 + 0.01 * n, 0.5, 0.9, 0.0) for n in range(1, 9)
    }
    results = make_results(arms)
    assert list(curves_of(results)) == [f"mlp:train.epochs={n}.0, retrain" for n in range(3, 9)]
    assert len(figure_of(roc_figure, results).axes) == 6
    defended = make_results(arms, {("single", 1): 0.0}, ("none", "label_only"))
    assert "Of 8 kinds of models, the first 3." in visible(render_leaks_page(defended, {}, {"defenses": b""}))
    assert "Of 8 kinds of models, the 6 with the highest AUC." in visible(
        render_leaks_page(results, {}, {"roc": b""})
    )


def test_features_are_drawn_with_the_classifier_that_shadow_pairs_name():
    results = make_results()
    (axes,) = figure_of(features_figure, results).axes
    points = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    assert len(points) == 3 * 2
    # Concatenations by an MLP, chosen within the construction; then sorted differences, chosen over all.
    assert [float(line.get_xdata()[0]) for line in points[:2]] == pytest.approx([100 * (0.62 - 0.10), 62.0])
    assert [line.get_fillstyle() for line in points[:2]] == ["none", "full"]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(arm_labels(results).values())
    strokes = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_color() == "#222222"]
    assert [float(line.get_xdata()[0]) for line in strokes] == pytest.approx([52.0, 52.0, 81.0])


def test_overfitting_needs_kinds_that_differ_in_it():
    results = make_results()
    left, right = figure_of(overfitting_figure, results).axes
    alone = next(line for line in left.lines if line.get_label() == "retrain")
    assert list(alone.get_ydata()) == pytest.approx([5.0, -0.5])
    assert np.asarray(alone.get_xdata()) == pytest.approx([6, 40], abs=0.5)
    assert any(
        list(line.get_ydata()) == pytest.approx([52.0, 81.0])
        for line in right.lines
        if len(line.get_xdata()) == 2
    )
    assert not has_overfitting(make_results(dict([*ARMS.items()][:2])))
    results["models"]["cnn, retrain"]["original"] = {"accuracy": {}, "overfitting": None}
    assert figure_of(overfitting_figure, results).axes


def test_scenarios_are_columns_and_sizes_are_joined():
    results = make_results(scenarios={("single", 1): 0.0, ("group", 10): -0.08, ("group", 2): -0.02})
    (axes,) = figure_of(scenarios_figure, results).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "single deletion",
        "group of 2",
        "group of 10",
    ]
    joined = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 2]
    assert [list(line.get_ydata()) for line in joined] == [pytest.approx([60.0, 54.0])]
    # An arm that has no version of a scenario has no point there.
    results["tables"]["leaks"] = [
        row
        for row in results["tables"]["leaks"]
        if row["shares_start"] is False or row["scenario"] == "single"
    ]
    (axes,) = figure_of(scenarios_figure, results).axes
    assert len(axes.get_xticks()) == 3


def test_defences_are_points_of_utility_and_strength():
    results = make_results(defenses=tuple(DEFENSES))
    axes = figure_of(defenses_figure, results).axes
    assert len(axes) == 3 * 2
    points = {line.get_label(): line for line in axes[0].lines if not line.get_label().startswith("_")}
    assert list(points) == ["none", "top-k (k = 3)", "label only", "DP-SGD (σ = 1.2)"]
    private = points["DP-SGD (σ = 1.2)"]
    assert (float(private.get_xdata()[0]), float(private.get_ydata()[0])) == pytest.approx((40.0, 50.0))
    assert to_hex(points["none"].get_color()) == "#222222"
    assert len({to_hex(line.get_color()) for line in points.values()}) == 4
    # Three of one test accuracy stand side by side around it, in the order of the study.
    assert np.ptp(axes[0].get_xlim()) > 20
    alike = [float(points[name].get_xdata()[0]) for name in list(points)[:3]]
    assert alike == sorted(set(alike)) and alike[1] == pytest.approx(60.0) and alike[2] - alike[0] < 1
    at = [float(line.get_xdata()[0]) for line in axes[1].lines if line.get_marker() not in ("None", None, "")]
    assert at == pytest.approx([0.5, 0.51, 0.65, 0.6])


def test_defences_of_equal_use_do_not_blow_up_its_axis():
    axes = figure_of(defenses_figure, make_results(defenses=("none", "label_only"))).axes
    assert axes[0].get_xlim() == pytest.approx((57.5, 62.5)) and np.ptp(axes[1].get_xlim()) == pytest.approx(
        0.165
    )


def test_names_are_no_formulas_and_no_markup():
    arms = {("cnn:model.name=$x^$<b>猫", *key[1:]): values for key, values in list(ARMS.items())[:2]}
    results = make_results(arms, defenses=("none", "label_only"))
    for name, draw in figures_of(results).items():
        with drawing.drawing():
            assert drawing.as_png(draw(results)), name
    assert "<b>" not in render_leaks_page(results, {}, {})


@pytest.mark.parametrize("defenses", [("none",), tuple(DEFENSES)])
def test_summary_for_the_terminal(tmp_path, defenses):
    results = make_results(defenses=defenses)
    title, (header, rows), lines = leaks_summary(results, tmp_path)
    assert title == (
        "CIFAR-10: 3 kinds of models, 10 originals a side, 20 deleted and 20 never learned examples of each"
    )
    assert [len(row) for row in rows] == [len(header)] * 3 * len(defenses)
    assert lines[0] == verdict(results)
    console = Console(width=120, file=io.StringIO())
    print_results(copy.deepcopy(results), tmp_path, done_before=False, console=console)
    printed = console.file.getvalue().splitlines()
    table = [line for line in printed if line.startswith(("┃", "│", "┏", "┡", "└"))]
    assert max(map(len, table)) <= 120
    # A row of the table takes one line.
    assert len([line for line in table if line.startswith("│")]) == 3 * len(defenses)
    assert printed[-1] == f"report: {tmp_path / 'report.html'}"
