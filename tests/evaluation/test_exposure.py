"""Exposure against a slow loop, on examples whose exposure is known, and its stability."""

import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.evaluation.exposure import exposure


def halves(rng, targets, examples):
    """Membership with each example in exactly half of the targets."""
    return rng.random((targets, examples)).argsort(axis=0) < targets // 2


def above(x, others):
    """Share of others below x, ties ½; ½ where there is no other."""
    return np.mean([(x > y) + (x == y) / 2 for y in others]) if len(others) else 0.5


def slow(scores, member):
    targets, examples = scores.shape
    found, area = np.full((2, examples), np.nan)
    for n in range(examples):
        ranks = {True: [], False: []}
        for t in range(targets):
            others = [scores[t, j] for j in range(examples) if j != n and not member[t, j]]
            ranks[bool(member[t, n])].append(above(scores[t, n], others))
        if ranks[True] and ranks[False]:
            found[n] = np.mean(ranks[True]) - np.mean(ranks[False])
            area[n] = np.mean([above(x, scores[~member[:, n], n]) for x in scores[member[:, n], n]])
    return found, area


@pytest.mark.parametrize("targets", [1, 3, 6])
def test_equals_a_slow_loop(targets):
    rng = np.random.default_rng(targets)
    member = rng.random((targets, 23)) < 0.5
    member[:, 2], member[:, 3] = True, False
    scores = np.round(rng.normal(size=member.shape) + member, 1)
    scores[0, :2] = np.inf, -np.inf
    got = exposure(scores, member)
    found, area = slow(scores, member)
    np.testing.assert_allclose(got.exposure, found, atol=1e-12)
    np.testing.assert_allclose(got.auc, area, atol=1e-12)
    assert np.isnan(got.exposure[2:4]).all()
    assert (got.rank_correlation is None) == (got.top_jaccard is None) == (targets < 4)


def test_by_hand():
    # Example 0 is a member of target 0 only: there it lies above one of the two non-members, else above neither.
    scores = np.array([[2.0, 1.0, 3.0], [0.0, 1.0, 2.0]])
    member = np.array([[True, False, False], [False, True, False]])
    got = exposure(scores, member)
    np.testing.assert_allclose(got.exposure, [0.5 - 0.0, 0.5 - 0.0, np.nan])
    np.testing.assert_array_equal(got.auc, [1, 0.5, np.nan])
    # A target with a single non-member compares it with nobody.
    alone = exposure(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(alone.exposure, [0.5, 0.5])


def test_an_outlier_that_scores_alike_either_way_is_not_exposed():
    rng = np.random.default_rng(0)
    member = halves(rng, 8, 50)
    scores = rng.normal(size=member.shape)
    scores[:, 0] = 9
    scores[:, 1] = np.where(member[:, 1], 9, -9)
    got = exposure(scores, member)
    assert (got.exposure[0], got.auc[0]) == (0, 0.5)
    assert got.exposure[1] > 0.9 and got.auc[1] == 1


def test_scores_that_know_nothing_expose_nobody():
    rng = np.random.default_rng(0)
    member = halves(rng, 16, 1000)
    got = exposure(rng.normal(size=member.shape) + 2 * rng.normal(size=(1, 1000)), member)
    assert abs(np.mean(got.exposure)) < 0.02 and abs(np.mean(got.auc) - 0.5) < 0.02
    assert abs(got.rank_correlation) < 0.1 and got.top_jaccard < 0.1


def test_lasting_exposure_is_stable():
    rng = np.random.default_rng(0)
    member = halves(rng, 32, 1000)
    lift = rng.uniform(0, 3, 1000)
    got = exposure(rng.normal(size=member.shape) + lift * member, member)
    assert got.rank_correlation > 0.5
    # Ten of a thousand swing from the lowest scores to the highest, so every half finds just these.
    swing = np.where(member, 50, -50) * (np.arange(1000) < 10)
    clear = exposure(rng.normal(size=member.shape) + swing, member)
    assert clear.top_jaccard == 1


def test_constant_scores_agree_no_more_than_by_chance():
    member = halves(np.random.default_rng(0), 8, 400)
    got = exposure(np.zeros(member.shape), member)
    np.testing.assert_array_equal(got.exposure, 0)
    np.testing.assert_array_equal(got.auc, 0.5)
    assert got.rank_correlation is None and got.top_jaccard < 0.2


def test_bad_input():
    with pytest.raises(InputError, match="target 1 has 3 members and 0 non-members"):
        exposure(np.zeros((2, 3)), np.array([[True, False, True], [True, True, True]]))
