"""The pigeonhole bootstrap against resamples written out, the error of its bins, and its coverage."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from mu_jax.config import InputError
from mu_jax.evaluation import two_way_bootstrap as two_way
from mu_jax.evaluation.intervals import auc_interval
from mu_jax.evaluation.roc import auc, balanced_accuracy, roc_curve, tpr_at_fpr


def halves(rng, targets, examples):
    """Membership with each example in exactly half of the targets."""
    return rng.random((targets, examples)).argsort(axis=0) < targets // 2


def intervals_of(scores, member, **settings):
    bins = two_way.score_bins(roc_curve(scores.ravel(), member.ravel()))
    return two_way.two_way_intervals(bins.index(scores), member, bins.lowest.size, **settings)


def slow_bootstrap(scores, member, called, fpr, samples, seed):
    """The same draws, each resample written out pair by pair."""
    rng = np.random.default_rng(seed)
    targets, examples = scores.shape
    values = []
    while len(values) < samples:
        w = rng.multinomial(targets, np.full(targets, 1 / targets))
        v = np.bincount(rng.integers(0, examples, examples), minlength=examples)
        pairs = [
            (t, n) for t in range(targets) for n in range(examples) for _ in range(int(w[t]) * int(v[n]))
        ]
        s, m, c = (np.array([matrix[pair] for pair in pairs]) for matrix in (scores, member, called))
        if m.all() or not m.any():
            continue
        values.append((auc(s, m), tpr_at_fpr(s, m, fpr), balanced_accuracy(c, m)))
    return np.array(values)


@pytest.mark.parametrize(("targets", "examples"), [(4, 9), (2, 2)])
def test_equals_resamples_written_out(targets, examples):
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(targets, examples)), 1)  # ties
    scores[0, 0], scores[-1, -1] = np.inf, -np.inf
    member = np.tile(np.arange(examples) % 2 == 0, (targets, 1)) ^ (np.arange(targets) % 2 == 0)[:, None]
    called = rng.random(member.shape) < 0.5
    got = intervals_of(scores, member, fpr=(0.2,), called=called, samples=60, seed=5, level=0.8)
    slow = slow_bootstrap(scores, member, called, 0.2, 60, seed=5)
    want = np.quantile(slow, two_way.expanded_tails(targets, 0.8), axis=0).T
    np.testing.assert_allclose((got.auc, got.tpr_at_fpr[0], got.accuracy), want, atol=1e-12)
    assert got.samples == 60


def test_expanded_tails_by_hand():
    low, high = two_way.expanded_tails(16, 0.95)
    assert low == pytest.approx(norm.cdf(-student.ppf(0.975, 15) * np.sqrt(16 / 15)), rel=1e-9)
    assert low == pytest.approx(0.0139, abs=1e-4) and high == 1 - low
    np.testing.assert_allclose(two_way.expanded_tails(100_000, 0.9), (0.05, 0.95), atol=1e-4)


def test_few_distinct_scores_have_a_bin_each():
    bins = two_way.score_bins(roc_curve(np.array([3.0, 1.0, -np.inf, 3.0]), np.array([True, False] * 2)))
    np.testing.assert_array_equal(bins.lowest, [3, 1, -np.inf])
    np.testing.assert_array_equal(bins.index(np.array([[3.0, 2.0, 1.0, -np.inf]])), [[0, 1, 1, 2]])
    assert [bins.called(x) for x in (np.inf, 3.0, 2.0, 1.0, -np.inf)] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("tied", [0.0, 0.3])
def test_coarse_bins_err_within_their_bound(tied):
    rng = np.random.default_rng(1)
    member = rng.random((4, 50_000)) < 0.5
    scores = rng.normal(size=member.shape) + 0.7 * member
    scores[rng.random(member.shape) < tied] = 0.3  # one score with very many ties
    flat, truth = scores.ravel(), member.ravel()
    bins = two_way.score_bins(roc_curve(flat, truth))
    assert 8_000 < bins.lowest.size < 20_000
    index = bins.index(scores).ravel()
    assert (np.diff(bins.lowest) < 0).all() and (flat >= bins.lowest[index]).all()
    assert abs(auc(-index, truth) - auc(flat, truth)) <= (2**-13 + 1 / np.sum(~truth)) / 2
    for rate in (0.0001, 0.001, 0.01, 0.1):
        coarse = tpr_at_fpr(-index, truth, rate)
        assert tpr_at_fpr(flat, truth, rate * (1 - 1 / 128)) <= coarse <= tpr_at_fpr(flat, truth, rate)


def test_samples_shrink_with_the_number_of_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    member = halves(rng, 2, 10)
    scores = rng.normal(size=member.shape)
    assert intervals_of(scores, member).samples == 1000
    monkeypatch.setattr(two_way, "PAIR_VISITS", 20 * 300)
    assert intervals_of(scores, member).samples == 300
    monkeypatch.setattr(two_way, "PAIR_VISITS", 20)
    assert intervals_of(scores, member).samples == two_way.FEWEST_SAMPLES


def test_auc_of_scores_that_know_nothing_is_covered():
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(100):
        member = halves(rng, 6, 80)
        scores = 0.5 * rng.normal(size=(6, 1)) + 2 * rng.normal(size=(1, 80)) + rng.normal(size=member.shape)
        low, high = intervals_of(scores, member, samples=100, seed=seed).auc
        covered.append(low <= 0.5 <= high)
    assert np.mean(covered) >= 0.92


def test_targets_that_differ_are_covered_where_pairs_taken_as_independent_are_not():
    rng = np.random.default_rng(0)

    def drawn(targets, examples):
        member = halves(rng, targets, examples)
        gain = 0.8 * np.exp(0.8 * rng.normal(size=(targets, 1)))
        return np.round(gain * member + rng.normal(size=member.shape), 2), member

    truth = np.mean([auc(s.ravel(), m.ravel()) for s, m in (drawn(2000, 40) for _ in range(5))])
    covered = []
    for seed in range(60):
        scores, member = drawn(10, 300)
        pairs = auc_interval(scores.ravel(), member.ravel(), samples=100, seed=seed)
        both = intervals_of(scores, member, samples=100, seed=seed).auc
        covered.append([low <= truth <= high for low, high in (both, pairs)])
    both, pairs = np.mean(covered, axis=0)
    assert both > 0.8
    assert pairs < 0.6


def test_bad_input():
    rng = np.random.default_rng(0)
    member = halves(rng, 2, 10)
    scores = rng.normal(size=member.shape)
    with pytest.raises(InputError, match="at least 2 targets"):
        intervals_of(scores[:1], np.arange(10)[None] < 5)
    with pytest.raises(InputError, match="samples is 0, but expected a positive"):
        intervals_of(scores, member, samples=0)
    with pytest.raises(InputError, match="level is 95.0, but expected a coverage"):
        intervals_of(scores, member, level=95.0)
