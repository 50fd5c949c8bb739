"""Intervals against independent formulas, at the edges, and by their coverage in simulation."""

import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from mu_jax.attacks.loss import logistic_loss_attack
from mu_jax.config import InputError
from mu_jax.evaluation import intervals
from mu_jax.evaluation.roc import auc, rates, tpr_at_fpr
from mu_jax.evaluation.thresholds import cross_fitted_decisions

NOMINAL = (0.91, 0.985)
"""Where the coverage of a 95% interval may fall in a few hundred simulations."""


def covered(bounds, truth):
    low, high = np.array(bounds).T
    return np.mean((low <= truth) & (truth <= high))


def binormal(rng, members, nonmembers, distance):
    scores = np.concatenate([rng.normal(distance, 1, members), rng.normal(0, 1, nonmembers)])
    return scores, np.arange(members + nonmembers) < members


@pytest.mark.parametrize(
    ("successes", "total", "level"), [(0, 20, 0.95), (20, 20, 0.9), (7, 31, 0.99), (1, 1, 0.5)]
)
def test_proportion_equals_scipy(successes, total, level):
    want = binomtest(successes, total).proportion_ci(level, method="wilson")
    got = intervals.proportion_interval(successes, total, level=level)
    np.testing.assert_allclose(got, (want.low, want.high), atol=1e-12)
    answers = np.arange(total) < successes
    assert intervals.accuracy_interval(answers, level=level) == got


def test_proportion_covers():
    rng = np.random.default_rng(0)
    for rate in (0.5, 0.9):
        drawn = rng.binomial(60, rate, 500)
        assert (
            NOMINAL[0]
            < covered([intervals.proportion_interval(int(k), 60) for k in drawn], rate)
            < NOMINAL[1]
        )


def test_balanced_accuracy_by_hand():
    # TPR 3/4 of 40 and FPR 1/4 of 40: Wilson's half-intervals are the same mirrored, and add in squares.
    member = np.arange(80) < 40
    predicted = np.concatenate([np.arange(40) < 30, np.arange(40) < 10])
    want = binomtest(30, 40).proportion_ci(0.95, method="wilson")
    got = intervals.balanced_accuracy_interval(predicted, member)
    np.testing.assert_allclose(
        got, (0.75 - (0.75 - want.low) / math.sqrt(2), 0.75 + (want.high - 0.75) / math.sqrt(2)), atol=1e-12
    )
    perfect = intervals.balanced_accuracy_interval(member, member)
    assert 0.9 < perfect.low < 1 and perfect.high == 1


def slow_bootstrap(scores, member, fpr, samples, seed):
    """The same resamples, one at a time, through the plain statistics."""
    rng = np.random.default_rng(seed)
    values = []
    draws = [rng.integers(0, side.sum(), (samples, side.sum())) for side in (member, ~member)]
    for m, n in zip(*draws, strict=True):
        again = np.concatenate([scores[member][m], scores[~member][n]])
        truth = np.arange(again.size) < m.size
        values.append((auc(again, truth), tpr_at_fpr(again, truth, fpr)))
    return np.quantile(values, [0.025, 0.975], axis=0).T


def test_roc_intervals_equal_a_slow_bootstrap():
    rng = np.random.default_rng(0)
    scores, member = binormal(rng, 30, 50, 1.0)  # an FPR of 0.1 is five of the 50, exactly
    scores = np.round(scores, 1)  # ties
    got = intervals.roc_intervals(scores, member, (0.1,), samples=200, seed=3)
    area, height = slow_bootstrap(scores, member, 0.1, 200, seed=3)
    np.testing.assert_allclose(got.auc, area, atol=1e-12)
    found = binomtest(round(tpr_at_fpr(scores, member, 0.1) * 30), 30).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(
        got.tpr_at_fpr[0], (min(height[0], found.low), max(height[1], found.high)), atol=1e-12
    )
    assert intervals.auc_interval(scores, member, samples=200, seed=3) == got.auc
    assert intervals.tpr_at_fpr_interval(scores, member, 0.1, samples=200, seed=3) == got.tpr_at_fpr[0]


def test_blocks_do_not_change_the_bounds_of_memory_nor_the_statistics(monkeypatch):
    scores, member = binormal(np.random.default_rng(1), 40, 40, 0.5)
    whole = intervals.auc_interval(scores, member, samples=2000)
    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 700)
    np.testing.assert_allclose(intervals.auc_interval(scores, member, samples=2000), whole, atol=0.015)


def test_perfect_scores_have_an_interval():
    for n in (1, 20):
        member = np.arange(2 * n) < n
        for scores, end in ((member * 1.0, 1), (1.0 - member, 0)):
            low, high = intervals.auc_interval(scores, member)
            assert (low, high)[end] == end
            assert high - low > 0.05
            low, high = intervals.tpr_at_fpr_interval(scores, member, 0.01)
            assert 0 <= low < high <= 1
    # |A − 1| = z√V(A) solved by bisection on paper: n = 20 a side gives about 0.85.
    low = intervals.auc_interval(np.arange(40) * 1.0, np.arange(40) >= 20).low
    v = low * (1 - low) / 400 * (1 + 19 * ((1 - low) / (2 - low) + low / (1 + low)))
    assert 1 - low == pytest.approx(1.959964 * math.sqrt(v), rel=1e-5)


def test_constant_scores_have_an_interval_around_one_half():
    low, high = intervals.auc_interval(np.zeros(40), np.arange(40) < 20)
    assert low < 0.5 < high and low == pytest.approx(1 - high)


@pytest.mark.parametrize(("members", "nonmembers", "distance"), [(80, 80, 0.0), (40, 120, 0.8)])
def test_roc_intervals_cover(members, nonmembers, distance):
    rng = np.random.default_rng(0)
    areas, heights, found = [], [], []
    for s in range(300):
        scores, member = binormal(rng, members, nonmembers, distance)
        got = intervals.roc_intervals(scores, member, (0.1,), samples=200, seed=s)
        areas.append(got.auc)
        heights.append(got.tpr_at_fpr[0])
        found.append((auc(scores, member), tpr_at_fpr(scores, member, 0.1)))
    area, height = norm.cdf(distance / math.sqrt(2)), norm.sf(norm.isf(0.1) - distance)
    assert NOMINAL[0] < covered(areas, area) < NOMINAL[1]
    assert NOMINAL[0] < covered(heights, height) < NOMINAL[1]
    np.testing.assert_allclose(np.mean(found, axis=0), (area, height), atol=0.015)


@pytest.mark.parametrize("distance", [0.0, 0.5])
def test_cross_fitted_accuracy_covers(distance):
    rng = np.random.default_rng(0)
    bounds, truth = [], []
    for s in range(400):
        scores, member = binormal(rng, 80, 80, distance)
        predicted = cross_fitted_decisions(scores, member, seed=s)
        bounds.append(intervals.balanced_accuracy_interval(predicted, member))
        tpr, fpr = rates(predicted, member)
        truth.append((tpr + 1 - fpr) / 2)
    expected = 0.5 if distance == 0 else np.mean(truth)
    # Of the average over draws of the thresholds it covers a little less, as its docstring says.
    assert (NOMINAL[0] if distance == 0 else 0.88) < covered(bounds, expected) < NOMINAL[1]


def test_shuffle_split_accuracy_covers_one_half_on_noise():
    rng = np.random.default_rng(0)
    bounds = []
    for s in range(120):
        got = logistic_loss_attack(rng.exponential(1, 60), rng.exponential(1, 60), seed=s)
        bounds.append(intervals.shuffle_split_accuracy_interval(got.predicted == got.is_member, got.trained))
    assert NOMINAL[0] < covered(bounds, 0.5) < NOMINAL[1]


def test_shuffle_split_accuracy_by_hand():
    # p(1 − p)/T·(1/S + T/trained) with T = 20, S = 10, trained = 180 is that of 20/(1/10 + 1/9) answers.
    correct = np.tile(np.arange(20) < 12, (10, 1))
    n, p, z = 20 / (1 / 10 + 1 / 9), 0.6, 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    got = intervals.shuffle_split_accuracy_interval(correct, 180)
    np.testing.assert_allclose(got, (middle - half, middle + half), rtol=1e-6)
    sure = intervals.shuffle_split_accuracy_interval(np.ones((10, 20), bool), 180)
    assert 0.9 < sure.low < 1 and sure.high == 1


def test_ten_thousand_examples_take_seconds():
    scores, member = binormal(np.random.default_rng(0), 5000, 5000, 0.3)
    start = time.perf_counter()
    low, high = intervals.auc_interval(scores, member)
    assert time.perf_counter() - start < 10
    assert low < norm.cdf(0.3 / math.sqrt(2)) < high and high - low < 0.03


def test_level_widens():
    scores, member = binormal(np.random.default_rng(0), 50, 50, 0.5)
    narrow, wide = (intervals.roc_intervals(scores, member, (0.1,), level=v) for v in (0.5, 0.99))
    assert wide.auc.low < narrow.auc.low < narrow.auc.high < wide.auc.high
    assert (
        wide.tpr_at_fpr[0].low
        < narrow.tpr_at_fpr[0].low
        < narrow.tpr_at_fpr[0].high
        < wide.tpr_at_fpr[0].high
    )


def test_bad_input_is_refused():
    scores, member = binormal(np.random.default_rng(0), 5, 5, 0.5)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(InputError, match="level"):
            intervals.auc_interval(scores, member, level=level)
        with pytest.raises(InputError, match="level"):
            intervals.proportion_interval(1, 2, level=level)
    with pytest.raises(InputError, match="samples"):
        intervals.auc_interval(scores, member, samples=0)
    for successes, total in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(InputError, match="successes"):
            intervals.proportion_interval(successes, total)
    with pytest.raises(InputError, match="at least one answer"):
        intervals.shuffle_split_accuracy_interval(np.ones((3, 4), bool), 0)
