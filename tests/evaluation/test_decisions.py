"""The block of an attack that decides: hand values, consistency, undefined precision, coverage."""

import json

import jaxtyping
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from mu_jax.attacks.posterior import posterior_attack
from mu_jax.config import InputError
from mu_jax.evaluation import intervals, roc
from mu_jax.evaluation.decisions import evaluate_decisions
from mu_jax.evaluation.membership import evaluate_scores


def plain(value):
    """Whether strict JSON holds it: exact Python types, no NaN, no inf."""
    if type(value) is dict:
        return all(type(k) is str and plain(v) for k, v in value.items())
    if type(value) is list:
        return all(map(plain, value))
    return value is None or (type(value) in (int, float) and bool(json.dumps(value, allow_nan=False)))


def wilson(successes, total, level=0.95):
    bounds = binomtest(successes, total).proportion_ci(level, method="wilson")
    return [bounds.low, bounds.high]


def test_by_hand():
    # 8 members of whom 6 are called, 32 others of whom 4 are.
    member = np.arange(40) < 8
    predicted = np.concatenate([np.arange(8) < 6, np.arange(32) < 4])
    got = evaluate_decisions(predicted.astype(float), predicted, member, fpr=(0.1, 0.125), samples=100)
    assert plain(got)
    assert got["accuracy"] == 34 / 40
    assert got["balanced_accuracy"] == (6 / 8 + 28 / 32) / 2
    assert got["advantage"] == 6 / 8 - 4 / 32
    assert (got["precision"], got["recall"]) == (6 / 10, 6 / 8)
    assert (got["true_positives"], got["false_positives"]) == (6, 4)
    assert (got["members"], got["nonmembers"]) == (8, 32)
    bounds = got["interval"]
    np.testing.assert_allclose(bounds["accuracy"], wilson(34, 40), atol=1e-12)
    np.testing.assert_allclose(bounds["precision"], wilson(6, 10), atol=1e-12)
    np.testing.assert_allclose(bounds["recall"], wilson(6, 8), atol=1e-12)
    balanced = intervals.balanced_accuracy_interval(predicted, member)
    assert bounds["balanced_accuracy"] == list(balanced)
    np.testing.assert_allclose(bounds["advantage"], 2 * np.array(balanced) - 1, atol=1e-12)
    assert bounds["level"] == 0.95
    # Of 32 others, 10% allows 3 and the decision's ties need 4; 12.5% allows them.
    assert [row["tpr"] for row in got["tpr_at_fpr"]] == [0, 6 / 8]
    assert [row["false_positives"] for row in got["tpr_at_fpr"]] == [0, 4]


def test_accuracy_is_not_balanced_where_the_sides_are_not():
    # 900 members and 100 others: 93% of the first and 76% of the second are called members.
    member = np.arange(1000) < 900
    predicted = np.concatenate([np.arange(900) < 837, np.arange(100) < 76])
    got = evaluate_decisions(np.zeros(1000), predicted, member, samples=20)
    assert got["accuracy"] == pytest.approx(0.861)
    assert got["advantage"] == pytest.approx(0.17)
    assert got["balanced_accuracy"] == pytest.approx(0.585)
    assert got["precision"] == pytest.approx(837 / 913)
    # Equally many on both sides, and they are one number.
    half = np.concatenate([np.arange(800, 900), np.arange(900, 1000)])
    got = evaluate_decisions(np.zeros(200), predicted[half], member[half], samples=20)
    assert got["accuracy"] == pytest.approx(got["balanced_accuracy"])


def test_equals_scikit_learn_and_the_attack_without_decisions():
    rng = np.random.default_rng(0)
    member = rng.random(300) < 0.3
    scores = np.round(rng.normal(size=300) + member, 1)  # ties
    predicted = scores > 0.7
    got = evaluate_decisions(scores, predicted, member, fpr=(0.01, 0.1), level=0.9, samples=200, seed=3)
    assert plain(got)
    for name, function in (
        ("accuracy", metrics.accuracy_score),
        ("balanced_accuracy", metrics.balanced_accuracy_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
    ):
        assert got[name] == pytest.approx(function(member, predicted), abs=1e-12)
        low, high = got["interval"][name]
        assert low < got[name] < high
    low, high = got["interval"]["advantage"]
    assert low < got["advantage"] == roc.advantage(predicted, member) < high
    assert got["auc"] == pytest.approx(metrics.roc_auc_score(member, scores), abs=1e-12)
    same = evaluate_scores(scores, member, fpr=(0.01, 0.1), level=0.9, samples=200, seed=3)
    for key in ("auc", "auc_distance", "tpr_at_fpr", "members", "nonmembers"):
        assert got[key] == same[key]
    assert got["interval"]["auc"] == same["interval"]["auc"]


@pytest.mark.parametrize("everybody", [False, True])
def test_where_nobody_is_called_precision_is_undefined(everybody):
    member = np.arange(30) < 10
    got = evaluate_decisions(np.arange(30.0), np.full(30, everybody), member, samples=50)
    assert plain(got)
    assert got["balanced_accuracy"] == 0.5 and got["advantage"] == 0
    low, high = got["interval"]["advantage"]
    assert low < 0 < high
    if everybody:
        assert got["precision"] == got["accuracy"] == 1 / 3 and got["recall"] == 1
    else:
        assert got["precision"] is None and got["interval"]["precision"] is None
        assert got["recall"] == 0 and got["accuracy"] == 2 / 3
        low, high = got["interval"]["recall"]
        assert low == 0 < high


@pytest.mark.parametrize("wrong", [False, True])
def test_perfect_and_perverse_decisions_have_intervals(wrong):
    member = np.arange(40) < 20
    predicted = member ^ wrong
    got = evaluate_decisions(predicted.astype(float), predicted, member, samples=50)
    end = 0.0 if wrong else 1.0
    for key in ("auc", "accuracy", "balanced_accuracy", "precision", "recall"):
        assert got[key] == end
        low, high = got["interval"][key]
        assert (high if end else low) == pytest.approx(end, abs=1e-12)
        assert high - low > 0.05
    assert got["advantage"] == 2 * end - 1


def test_a_single_example_a_side_is_described():
    got = evaluate_decisions(
        np.array([1.0, 0.0]), np.array([True, False]), np.array([True, False]), samples=20
    )
    assert plain(got) and got["accuracy"] == 1 and got["interval"]["accuracy"][0] < 0.5


@pytest.mark.parametrize("fixed", [True, False])
def test_intervals_cover(fixed):
    # TPR 0.6 and FPR 0.3, a third of 180 examples members, on average or exactly: what the figures tend to.
    truth = {
        "accuracy": 0.6 / 3 + 0.7 * 2 / 3,
        "balanced_accuracy": 0.65,
        "advantage": 0.3,
        "precision": 0.5,
        "recall": 0.6,
    }
    rng = np.random.default_rng(0)
    member, inside = np.arange(180) < 60, dict.fromkeys(truth, 0)
    for _ in range(400):
        member = member if fixed else rng.random(180) < 1 / 3
        predicted = rng.random(180) < np.where(member, 0.6, 0.3)
        bounds = evaluate_decisions(np.zeros(180), predicted, member, fpr=(), samples=1)["interval"]
        for key, value in truth.items():
            inside[key] += bounds[key][0] <= value <= bounds[key][1]
    for key, count in inside.items():
        # Precision's is too wide where the sides are fixed, as its docstring says.
        assert 0.91 < count / 400 < (1.001 if fixed and key == "precision" else 0.985), key


def test_null_posteriors_are_judged_at_one_half():
    rng = np.random.default_rng(0)
    covered = {"auc": 0, "accuracy": 0, "advantage": 0}
    member = np.arange(100) < 50
    for _ in range(100):
        rows = rng.dirichlet(np.full(5, 0.5), 160)
        attack = posterior_attack(rows[:30], rows[30:60], rows[60:])
        got = evaluate_decisions(attack.scores, attack.predicted, member, fpr=(), samples=100)
        for key in covered:
            low, high = got["interval"][key]
            covered[key] += low <= (0 if key == "advantage" else 0.5) <= high
    # 95 of 100 expected with a standard deviation of 2.2.
    assert all(count >= 87 for count in covered.values()), covered


def test_bad_input_is_refused():
    scores, predicted, member = np.arange(4.0), np.arange(4) > 1, np.arange(4) < 2
    with pytest.raises(InputError, match="4 members and 0 non-members"):
        evaluate_decisions(scores, predicted, np.ones(4, bool))
    with pytest.raises(InputError, match="1 of 4 scores are NaN"):
        evaluate_decisions(np.array([np.nan, 0, 1, 2]), predicted, member)
    with pytest.raises(InputError, match="level"):
        evaluate_decisions(scores, predicted, member, level=95.0)
    with pytest.raises(InputError, match="rate in"):
        evaluate_decisions(scores, predicted, member, fpr=(2.0,))
    for bad in (predicted[:3], predicted.astype(int)):
        with pytest.raises((InputError, jaxtyping.TypeCheckError)):
            evaluate_decisions(scores, bad, member)
