"""The interval behind the report's verdict: the difference of two AUCs on the same examples."""

import numpy as np
import pytest

from mu_jax.evaluation.report.answer import auc_difference


def test_auc_difference_by_hand_and_against_slow_placements():
    members, nonmembers = np.array([3.0, 1.0]), np.array([2.0, 1.0])
    other, others = np.array([0.0, 1.0]), nonmembers
    found = auc_difference(members, nonmembers, other, others, level=0.95)
    # AUCs by counting pairs: (1 + 1 + 0 + ½)/4 and (0 + 0 + 0 + ½)/4.
    assert found.value == pytest.approx(2.5 / 4 - 0.5 / 4)
    assert found.high == 1.0  # no difference of AUCs is larger
    one = auc_difference(members[:1], nonmembers, other[:1], others, level=0.95)
    assert (one.low, one.high) == (-1.0, 1.0) and not one.found
    # Nine forgotten examples, all found by one model and none by the other: still too few for a verdict; ten are not.
    for forgotten, verdict in ((9, False), (10, True)):
        high, low = np.arange(100.0, 100 + forgotten), -np.arange(forgotten, dtype=float)
        assert auc_difference(high, np.arange(1.0, 50), low, np.arange(1.0, 50), level=0.95).found is verdict

    rng = np.random.default_rng(0)
    members, other = rng.integers(0, 9, (2, 30)).astype(float)
    nonmembers, others = rng.integers(0, 8, (2, 40)).astype(float)
    found = auc_difference(members, nonmembers, other, others, level=0.95)

    def placed(a, b):
        wins = (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])
        return wins.mean(axis=1), wins.mean(axis=0)

    sides = [x - y for x, y in zip(placed(members, nonmembers), placed(other, others), strict=True)]
    half = 1.959964 * np.sqrt(sum(side.var(ddof=1) / side.size for side in sides))
    assert found.high - found.value == pytest.approx(half, rel=1e-6)
    assert found.value - found.low == pytest.approx(half, rel=1e-6)
    assert found.value == pytest.approx(sides[0].mean())


def test_auc_difference_covers_the_truth():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(250):
        sides = [rng.normal(size=(2, n)) + 1.2 * rng.normal(size=n) for n in (50, 70)]
        found = auc_difference(sides[0][0], sides[1][0], sides[0][1], sides[1][1], level=0.9)
        covered += found.low <= 0 <= found.high
    # Four standard errors of a binomial are 0.076.
    assert 0.824 <= covered / 250 <= 0.976
