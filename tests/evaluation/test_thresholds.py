"""Cross-fitted thresholds: honest on noise, right on signal."""

import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.evaluation.roc import balanced_accuracy, best_balanced_accuracy
from mu_jax.evaluation.thresholds import best_threshold, cross_fitted_decisions


def test_threshold_lies_half_way():
    member = np.array([True, True, False, False])
    assert best_threshold(np.array([5.0, 4.0, 2.0, 1.0]), member) == 3
    # One member above, one below all others: calling one or both is as good, and the higher threshold wins.
    assert best_threshold(np.array([9.0, 1.0, 5.0, 2.0]), np.array([True, True, False, False])) == 7


def test_threshold_at_the_ends():
    member = np.array([True, False])
    assert best_threshold(np.array([0.0, 1.0]), member) == np.inf  # nobody: any call is wrong
    for upper, lower in ((np.inf, 1.0), (1.0, -np.inf), (np.inf, -np.inf)):
        assert lower < best_threshold(np.array([upper, lower]), member) < upper
    close = np.nextafter(1.0, 2.0)
    assert best_threshold(np.array([close, 1.0]), member) == close  # no float64 between them
    largest = np.finfo(float).max
    assert best_threshold(np.array([largest, largest / 2]), member) == pytest.approx(0.75 * largest)


def test_equals_a_slow_twin():
    rng = np.random.default_rng(0)
    member = np.arange(60) < 24
    scores = rng.normal(size=60) + member
    deal, fold = np.random.default_rng(5), np.empty(60)
    for side in (member, ~member):
        fold[side] = deal.permutation(np.arange(side.sum()) % 3)
    want = np.empty(60, bool)
    for k in range(3):
        train, test = fold != k, fold == k
        ordered = np.sort(scores[train])[::-1]
        thresholds = [np.inf, *((ordered[1:] + ordered[:-1]) / 2), -np.inf]
        accuracy = [balanced_accuracy(scores[train] >= t, member[train]) for t in thresholds]
        # The first of the best, by counts that do not round.
        best = next(t for t, value in zip(thresholds, accuracy, strict=True) if value > max(accuracy) - 1e-9)
        want[test] = scores[test] >= best
    np.testing.assert_array_equal(cross_fitted_decisions(scores, member, folds=3, seed=5), want)
    assert np.any(want != cross_fitted_decisions(scores, member, folds=3, seed=6))


def test_separable_scores_are_told_apart():
    scores = np.concatenate([np.linspace(2, 3, 20), np.linspace(0, 1, 50)])
    member = np.arange(70) < 20
    np.testing.assert_array_equal(cross_fitted_decisions(scores, member, seed=1), member)
    infinite = np.where(member, np.inf, -np.inf)
    np.testing.assert_array_equal(cross_fitted_decisions(infinite, member, seed=1), member)
    # Where nobody is best called a member, an infinite score is not either.
    assert not np.any(cross_fitted_decisions(-infinite, member, seed=1))


@pytest.mark.parametrize("folds", [2, 5])
def test_noise_gives_one_half_where_the_best_threshold_does_not(folds):
    rng = np.random.default_rng(0)
    member = np.arange(100) < 50
    honest, best = [], []
    for s in range(300):
        scores = rng.normal(size=100)
        honest.append(balanced_accuracy(cross_fitted_decisions(scores, member, folds=folds, seed=s), member))
        best.append(best_balanced_accuracy(scores, member))
    assert abs(np.mean(honest) - 0.5) < 4 * 0.05 / np.sqrt(300)
    assert np.mean(best) > 0.54


@pytest.mark.parametrize("folds", [1, 3])
def test_folds_that_cannot_be_dealt_are_refused(folds):
    with pytest.raises(InputError, match="expected 2 to as many"):
        cross_fitted_decisions(
            np.arange(6.0), np.array([True, True, False, False, False, False]), folds=folds
        )


def test_scores_of_another_shape_are_refused():
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        cross_fitted_decisions(np.zeros(5), np.array([True, True, False, False]))
