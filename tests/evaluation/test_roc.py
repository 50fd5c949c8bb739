"""ROC curves and what is read off them, with ties, against hand values and slow twins."""

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mu_jax.config import InputError
from mu_jax.evaluation import roc

SCORES = np.array([3.0, 2.0, 2.0, 1.0, 1.0, 0.0])
MEMBER = np.array([True, True, False, False, True, False])


@st.composite
def tied(draw):
    """Few distinct scores, both classes present."""
    n = draw(st.integers(2, 25))
    scores = draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))
    member = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda m: any(m) and not all(m)))
    return np.array(scores), np.array(member)


def slow_auc(scores, member):
    wins = [(m > n) + 0.5 * (m == n) for m in scores[member] for n in scores[~member]]
    return np.mean(wins)


def slow_tpr(scores, member, fpr):
    best = 0.0
    for threshold in np.unique(scores):
        call = scores >= threshold
        if call[~member].sum() / np.sum(~member) <= fpr:
            best = max(best, call[member].mean())
    return best


def test_curve_by_hand():
    curve = roc.roc_curve(SCORES, MEMBER)
    np.testing.assert_array_equal(curve.thresholds, [np.inf, 3, 2, 1, 0])
    np.testing.assert_array_equal(curve.true_positives, [0, 1, 2, 3, 3])
    np.testing.assert_array_equal(curve.false_positives, [0, 0, 1, 2, 3])
    np.testing.assert_array_equal(curve.tpr, np.array([0, 1, 2, 3, 3]) / 3)
    np.testing.assert_array_equal(curve.fpr, np.array([0, 0, 1, 2, 3]) / 3)
    # Nine pairs: the member at 3 wins 3, the one at 2 wins 2 and ties 1, the one at 1 wins 1 and ties 1.
    assert roc.auc(SCORES, MEMBER) == 7 / 9
    assert roc.best_balanced_accuracy(SCORES, MEMBER) == pytest.approx(2 / 3)


def test_operating_point_by_hand():
    point = roc.operating_point(SCORES, MEMBER, 0.5)
    assert (point.tpr, point.fpr, point.threshold) == (2 / 3, 1 / 3, 2.0)
    assert (point.true_positives, point.false_positives) == (2, 1)
    # All members are found at threshold 1 already: 0 would only add a false positive.
    assert roc.operating_point(SCORES, MEMBER, 1.0).false_positives == 2
    # The highest score is a non-member's: nothing is found without a false positive.
    none = roc.operating_point(-SCORES, MEMBER, 0.0)
    assert (none.tpr, none.false_positives, none.threshold) == (0, 0, np.inf)


def test_a_rate_that_rounds_below_its_count_is_allowed():
    # 0.29 · 100 is 28.999999999999996 in floating point.
    scores = np.concatenate([np.arange(100.0), [71.0]])
    assert roc.operating_point(scores, np.arange(101) == 100, 0.29).false_positives == 29


@settings(deadline=None, max_examples=80)
@given(tied(), st.sampled_from([0.0, 0.05, 0.1, 1 / 3, 0.5, 0.9, 1.0]))
def test_equals_slow_twins(example, fpr):
    scores, member = example
    area = roc.auc(scores, member)
    assert area == pytest.approx(slow_auc(scores, member), abs=1e-12)
    assert area == pytest.approx(roc_auc_score(member, scores), abs=1e-12)
    point = roc.operating_point(scores, member, fpr)
    assert point.tpr == roc.tpr_at_fpr(scores, member, fpr) == slow_tpr(scores, member, fpr)
    assert point.fpr <= fpr
    call = scores >= point.threshold
    assert (call[member].sum(), call[~member].sum()) == (point.true_positives, point.false_positives)
    best = max(roc.balanced_accuracy(scores >= t, member) for t in [*scores, np.inf])
    assert roc.best_balanced_accuracy(scores, member) == pytest.approx(best, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(tied())
def test_only_the_order_counts_and_swapping_classes_mirrors(example):
    scores, member = example
    area = roc.auc(scores, member)
    assert roc.auc(np.exp(scores) * 3 + 1, member) == area
    assert roc.tpr_at_fpr(np.exp(scores), member, 0.2) == roc.tpr_at_fpr(scores, member, 0.2)
    assert roc.auc(scores, ~member) == pytest.approx(1 - area, abs=1e-12)
    assert roc.auc(-scores, member) == pytest.approx(1 - area, abs=1e-12)


def test_infinite_scores_are_scores():
    scores = np.array([np.inf, np.inf, 0.0, -np.inf])
    member = np.array([True, False, True, False])
    assert roc.auc(scores, member) == slow_auc(scores, member) == 0.625
    assert roc.tpr_at_fpr(scores, member, 0.0) == 0
    assert roc.tpr_at_fpr(scores, member, 0.5) == 1


def test_decisions_by_hand():
    predicted = np.array([True, False, True, False, False, False, False])
    member = np.array([True, True, False, False, False, False, False])
    assert roc.rates(predicted, member) == (1 / 2, 1 / 5)
    assert roc.advantage(predicted, member) == pytest.approx(0.3)
    assert roc.balanced_accuracy(predicted, member) == pytest.approx(0.65)


def test_best_accuracy_is_optimistic_by_the_amount_documented():
    rng = np.random.default_rng(0)
    n = 200
    got = [roc.best_balanced_accuracy(rng.normal(size=2 * n), np.arange(2 * n) < n) for _ in range(400)]
    assert (np.mean(got) - 0.5) * np.sqrt(n) == pytest.approx(0.44, abs=0.04)


def test_null_scores_give_one_half():
    rng = np.random.default_rng(0)
    areas = [roc.auc(rng.normal(size=150), np.arange(150) < 50) for _ in range(400)]
    sd = np.sqrt(151 / (12 * 50 * 100))
    assert abs(np.mean(areas) - 0.5) < 4 * sd / 20
    assert np.std(areas) == pytest.approx(sd, rel=0.15)


@pytest.mark.parametrize(
    ("scores", "member", "match"),
    [
        (np.array([np.nan, 1.0]), np.array([True, False]), "1 of 2 scores are NaN"),
        (np.zeros(2), np.array([True, True]), "2 members and 0 non-members"),
        (np.zeros(2), np.array([False, False]), "0 members and 2 non-members"),
    ],
)
def test_bad_scores_are_refused(scores, member, match):
    for function in (roc.auc, roc.roc_curve, roc.best_balanced_accuracy):
        with pytest.raises(InputError, match=match):
            function(scores, member)


def test_bad_shapes_dtypes_and_rates_are_refused():
    refused = (InputError, jaxtyping.TypeCheckError)
    with pytest.raises(refused):
        roc.auc(np.zeros(3), np.array([True, False]))
    with pytest.raises(refused):
        roc.auc(np.zeros(2), np.array([1, 0]))
    with pytest.raises(refused):
        roc.rates(np.array([1.0, 0.0]), np.array([True, False]))
    with pytest.raises(InputError, match="rate in"):
        roc.tpr_at_fpr(SCORES, MEMBER, 1.5)
