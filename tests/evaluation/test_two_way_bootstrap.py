"""Standard errors and resamples against both written out, the error of bins, and coverage and width of intervals."""

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


def slow_bootstrap(scores, member, fpr, samples, seed):
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
        s, m = (np.array([matrix[pair] for pair in pairs]) for matrix in (scores, member))
        if m.all() or not m.any():
            continue
        values.append(tpr_at_fpr(s, m, fpr))
    return np.array(values)


@pytest.mark.parametrize(("targets", "examples"), [(4, 9), (2, 2)])
def test_equals_resamples_written_out(targets, examples):
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(targets, examples)), 1)  # ties
    scores[0, 0], scores[-1, -1] = np.inf, -np.inf
    member = np.tile(np.arange(examples) % 2 == 0, (targets, 1)) ^ (np.arange(targets) % 2 == 0)[:, None]
    got = intervals_of(scores, member, fpr=(0.2,), samples=60, seed=5, level=0.8)
    slow = slow_bootstrap(scores, member, 0.2, 60, seed=5)
    want = np.quantile(slow, two_way.expanded_tails(targets, 0.8))
    np.testing.assert_allclose(got.tpr_at_fpr[0], want, atol=1e-12)
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
    assert intervals_of(scores, member).samples == 0
    assert intervals_of(scores, member, fpr=(0.1,)).samples == 1000
    monkeypatch.setattr(two_way, "PAIR_VISITS", 20 * 300)
    assert intervals_of(scores, member, fpr=(0.1,)).samples == 300
    monkeypatch.setattr(two_way, "PAIR_VISITS", 20)
    assert intervals_of(scores, member, fpr=(0.1,)).samples == two_way.FEWEST_SAMPLES


def slow_error(member, psi):
    """Variance and degrees of freedom, from least squares with a column for each effect."""
    targets, examples = member.shape
    theta, noise, rest = np.zeros(targets), 0.0, psi.copy()
    for side in (member, ~member):
        t, n = np.nonzero(side)
        seen = np.unique(n)
        design = np.hstack([t[:, None] == np.arange(targets), n[:, None] == seen]).astype(float)
        inverse = np.linalg.pinv(design)
        fit = inverse @ psi[side]
        count = side.sum(axis=1)
        # Effects of targets that weigh up to 0, as a linear map of the influences.
        effects = (np.eye(targets) - count / count.sum()) @ inverse[:targets]
        rank = np.linalg.matrix_rank(design)
        pair = np.sum((psi[side] - design @ fit) ** 2) / (len(t) - rank)
        theta += count * (effects @ psi[side])
        noise += pair * np.sum((count[:, None] * effects) ** 2)
        rest[side] -= (effects @ psi[side])[t]
    by_target = max(0, np.sum(theta**2) - noise) * targets / (targets - 1)
    by_example = np.sum(rest.sum(axis=0) ** 2) * examples / (examples - 2)
    total = by_target + by_example
    return total, total**2 / (by_target**2 / (targets - 1) + by_example**2 / (examples - 1))


def interval_by_hand(value, variance, freedom, level):
    odds, half = value / (1 - value), student.ppf((1 + level) / 2, freedom) * variance**0.5
    ends = [odds * np.exp(sign * half / (value * (1 - value))) for sign in (-1, 1)]
    return [end / (1 + end) for end in ends]


@pytest.mark.parametrize("spread", [0.0, 1.5])
@pytest.mark.parametrize("block", [2**20, 21])
def test_auc_and_accuracy_equal_influences_written_out(monkeypatch, block, spread):
    monkeypatch.setattr(two_way, "BLOCK_PAIRS", block)
    rng = np.random.default_rng(3)
    member = rng.random((5, 14)) < 0.45
    gain = 0.7 + spread * rng.normal(size=(5, 1))
    scores = np.round(rng.normal(size=member.shape) + rng.normal(size=14) + gain * member, 1)
    called = scores > 0.3
    got = intervals_of(scores, member, called=called, level=0.9)
    m, n = scores[member], scores[~member]
    area, right = auc(scores.ravel(), member.ravel()), balanced_accuracy(called.ravel(), member.ravel())
    tpr, fpr = called[member].mean(), called[~member].mean()
    of_auc, of_accuracy = np.empty((2, *member.shape))
    for pair in np.ndindex(*member.shape):
        x, y = scores[pair], called[pair]
        if member[pair]:
            of_auc[pair] = (np.mean((n < x) + (n == x) / 2) - area) / m.size
            of_accuracy[pair] = (y - tpr) / (2 * m.size)
        else:
            of_auc[pair] = (np.mean((m > x) + (m == x) / 2) - area) / n.size
            of_accuracy[pair] = (fpr - y) / (2 * n.size)
    for found, value, psi in ((got.auc, area, of_auc), (got.accuracy, right, of_accuracy)):
        assert abs(psi.sum()) < 1e-12
        np.testing.assert_allclose(found, interval_by_hand(value, *slow_error(member, psi), 0.9), rtol=1e-8)


def test_tpr_equals_influences_written_out():
    rng = np.random.default_rng(4)
    member = halves(rng, 4, 60)
    scores = rng.normal(size=member.shape) + rng.normal(size=60) + 0.7 * member
    got = intervals_of(scores, member, fpr=(0.2,)).tpr_at_fpr[0]
    curve = roc_curve(scores.ravel(), member.ravel())
    at = np.searchsorted(curve.fpr, 0.2, side="right") - 1
    count = curve.false_positives[at]  # 24 of 120
    reach = 2 * count**0.5 + 1
    low = np.flatnonzero(curve.false_positives <= count - reach)[-1]
    high = np.flatnonzero(curve.false_positives >= count + reach)[0]
    slope = (curve.tpr[high] - curve.tpr[low]) / (curve.fpr[high] - curve.fpr[low])
    call = scores >= curve.thresholds[at]
    psi = np.where(member, call - curve.tpr[at], slope * (curve.fpr[at] - call)) / 120
    want = interval_by_hand(curve.tpr[at], *slow_error(member, psi), 0.95)
    np.testing.assert_allclose(got, want, rtol=1e-8)


def test_effects_that_cannot_be_told_apart_leave_the_examples_alone_to_vary():
    # Two targets with complementary members; scores differ between examples only.
    member = np.array([[True, True, False, False], [False, False, True, True]])
    bins = np.array([[0, 1, 0, 1], [0, 1, 0, 1]])
    of_member, of_other = np.array([3.0, -3.0]), np.array([-3.0, 3.0])
    assert two_way.two_way_error(bins, member, of_member, of_other) == (0.0, np.inf)
    # Each example's sum is 1 or −1: V = 4 · 4/2. Both targets' sums are 0.
    error = two_way.two_way_error(bins, member, of_member, np.array([-2.0, 2.0]))
    assert error.value == pytest.approx(8**0.5) and error.freedom == pytest.approx(3)
    # Targets' sums are 40 and −40 without noise, 3200·2/1; examples' 20, 20, −20, −20, 1600·4/2.
    bins = np.array([[0, 0, 1, 1], [1, 1, 2, 2]])
    error = two_way.two_way_error(bins, member, np.array([20.0, 0.0, -20.0]), np.zeros(3))
    assert error.value == pytest.approx(9600**0.5)
    assert error.freedom == pytest.approx(9600**2 / (6400**2 + 3200**2 / 3))


def test_logit_interval_by_hand():
    assert two_way.logit_interval(1.0, two_way.StandardError(0.1, 5.0), 0.95) == (1, 1)
    assert two_way.logit_interval(0.3, two_way.StandardError(0.0, np.inf), 0.95) == (0.3, 0.3)
    low, high = two_way.logit_interval(0.5, two_way.StandardError(0.01, 1e9), 0.95)
    assert low == pytest.approx(1 - high) and high == pytest.approx(0.5196, abs=1e-4)


def calibration(runs, targets, examples, effect, gain, *, design=halves, spread=0.0, shift=0.3, truth=None):
    """Coverage of AUC, accuracy and TPR at 10% FPR, and half-widths in units of 1.96 standard deviations."""
    rng = np.random.default_rng(0)
    values, bounds = [], []
    for seed in range(runs):
        member = design(rng, targets, examples)
        gains = gain * np.exp(spread * rng.normal(size=(targets, 1)))
        scores = rng.normal(size=member.shape) + gains * member + shift * rng.normal(size=(targets, 1))
        scores += effect * rng.normal(size=examples)
        called = scores > gain / 2
        flat = scores.ravel(), member.ravel()
        got = intervals_of(scores, member, fpr=(0.1,), called=called, seed=seed)
        values.append((auc(*flat), balanced_accuracy(called.ravel(), flat[1]), tpr_at_fpr(*flat, 0.1)))
        bounds.append((got.auc, got.accuracy, got.tpr_at_fpr[0]))
    values, (low, high) = np.array(values), np.moveaxis(bounds, 2, 0)
    truth = values.mean(axis=0) if truth is None else truth
    width = (high - low).mean(axis=0) / (2 * 1.96 * values.std(axis=0))
    return np.mean((low <= truth) & (truth <= high), axis=0), width


def coins(rng, targets, examples):
    return rng.random((targets, examples)) < 0.5


@pytest.mark.parametrize("design", [halves, coins])
@pytest.mark.parametrize("targets", [4, 8, 16])
@pytest.mark.parametrize("effect", [0.0, 1.0, 5.0])
def test_intervals_cover_and_are_not_too_wide(design, targets, effect):
    for gain, truth in ((0.0, (0.5, 0.5, 0.1)), (0.45, None)):
        covered, width = calibration(80, targets, 200, effect, gain, design=design, truth=truth)
        assert (covered >= 0.89).all(), covered
        assert (width >= 0.8).all() and (width <= (1.5 if targets >= 8 else 1.7)).all(), width


def test_the_case_whose_intervals_were_nine_times_too_wide():
    covered, width = calibration(100, 4, 400, 5.0, 0.45, shift=0.0)
    assert (covered >= 0.9).all() and (width < 1.7).all(), (covered, width)


def test_targets_that_differ_are_covered_where_pairs_taken_as_independent_are_not():
    covered, width = calibration(100, 10, 300, 1.0, 0.8, spread=0.8, shift=0.0)
    assert (covered[:2] >= 0.85).all() and (width[:2] < 1.4).all(), (covered, width)
    rng = np.random.default_rng(0)
    missed = []
    for seed in range(40):
        member = halves(rng, 10, 300)
        gains = 0.8 * np.exp(0.8 * rng.normal(size=(10, 1)))
        scores = np.round(gains * member + rng.normal(size=member.shape) + rng.normal(size=300), 2)
        low, high = auc_interval(scores.ravel(), member.ravel(), samples=60, seed=seed)
        missed.append(not low <= 0.684 <= high)
    assert np.mean(missed) > 0.4


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
