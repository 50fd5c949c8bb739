"""The blocks of results.json: strict JSON, consistent with the statistics they gather."""

import json

import numpy as np
import pytest

from mu_jax.attacks.loss import logistic_loss_attack
from mu_jax.evaluation import intervals, roc
from mu_jax.evaluation.membership import evaluate_scores, evaluate_shuffle_splits
from mu_jax.evaluation.thresholds import cross_fitted_decisions


def plain(value):
    """Whether strict JSON holds it: exact Python types, no NaN, no inf."""
    if type(value) is dict:
        return all(type(k) is str and plain(v) for k, v in value.items())
    if type(value) is list:
        return all(map(plain, value))
    return type(value) in (int, float) and bool(json.dumps(value, allow_nan=False))


def test_scores_are_described():
    rng = np.random.default_rng(0)
    member = np.arange(90) < 40
    scores = (rng.normal(size=90) - 0.7 * member).astype(np.float32)
    got = evaluate_scores(scores, member, fpr=(0.001, 0.1), samples=200, seed=2)
    assert plain(got)
    predicted = cross_fitted_decisions(scores, member, seed=2)
    assert got["auc"] == roc.auc(scores, member) < 0.5
    assert got["auc_distance"] == 0.5 - got["auc"]
    assert got["accuracy"] == roc.balanced_accuracy(predicted, member)
    assert got["advantage"] == pytest.approx(2 * got["accuracy"] - 1)
    assert got["best_accuracy"] == roc.best_balanced_accuracy(scores, member) >= got["accuracy"]
    assert (got["members"], got["nonmembers"]) == (40, 50)
    low, high = got["interval"]["auc"]
    assert low < got["auc"] < high
    assert got["interval"]["accuracy"] == list(intervals.balanced_accuracy_interval(predicted, member))
    assert got["interval"]["level"] == 0.95
    for row, rate in zip(got["tpr_at_fpr"], (0.001, 0.1), strict=True):
        assert row["fpr"] == rate
        assert row["tpr"] == roc.tpr_at_fpr(scores, member, rate)
        assert row["false_positives"] / 50 <= rate
        assert row["interval"][0] <= row["tpr"] <= row["interval"][1]


@pytest.mark.parametrize("scores", [np.zeros(8), np.array([np.inf] * 4 + [-np.inf] * 4), np.arange(8.0)])
def test_degenerate_scores_are_described_in_strict_json(scores):
    assert plain(evaluate_scores(scores, np.arange(8) < 4, samples=100))


def test_shuffle_splits_are_described():
    rng = np.random.default_rng(0)
    predictions = logistic_loss_attack(rng.exponential(1, 50), rng.exponential(4, 50), splits=4)
    got = evaluate_shuffle_splits(predictions, level=0.9)
    assert plain(got)
    assert got["accuracy"] == predictions.split_accuracy.mean()
    assert got["split_accuracy_sd"] == pytest.approx(np.std(predictions.split_accuracy, ddof=1))
    # Each split holds out as many members as non-members, so accuracy is balanced accuracy.
    assert got["advantage"] == pytest.approx(2 * got["accuracy"] - 1)
    assert (got["members"], got["nonmembers"]) == (50, 50)
    correct = predictions.predicted == predictions.is_member
    assert got["interval"] == {
        "accuracy": list(intervals.shuffle_split_accuracy_interval(correct, predictions.trained, level=0.9)),
        "level": 0.9,
    }
    one = logistic_loss_attack(rng.exponential(1, 50), rng.exponential(4, 50), splits=1)
    assert evaluate_shuffle_splits(one)["split_accuracy_sd"] == 0
