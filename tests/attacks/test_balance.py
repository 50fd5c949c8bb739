import numpy as np
import pytest

from mu_jax.attacks.balance import balanced_references, is_balanced, take_references
from mu_jax.attacks.lira import lira_scores
from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc


def test_every_example_gets_its_own_first_references():
    member = np.random.default_rng(0).random((9, 40)) < 0.5
    rows, inside = balanced_references(member)
    least_in, least_out = member.sum(axis=0).min(), (~member).sum(axis=0).min()
    assert rows.shape == inside.shape == (least_in + least_out, 40)
    assert (inside.sum(axis=0) == least_in).all()
    for example in range(40):
        expected = [
            *np.flatnonzero(member[:, example])[:least_in],
            *np.flatnonzero(~member[:, example])[:least_out],
        ]
        assert rows[:, example].tolist() == expected
        np.testing.assert_array_equal(inside[:, example], member[rows[:, example], example])


def test_nothing_is_lost_where_counts_are_equal():
    member = np.random.default_rng(0).random((8, 30)).argsort(axis=0) < 4
    assert is_balanced(member)
    assert not is_balanced(member[1:])
    rows, _ = balanced_references(member)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.repeat(np.arange(8)[:, None], 30, axis=1))


def test_signals_follow_their_references():
    member = np.random.default_rng(1).random((6, 20)).argsort(axis=0) < 2
    phi = np.random.default_rng(2).normal(size=(6, 20, 3))
    rows, _ = balanced_references(member)
    taken = take_references(phi, rows)
    for r in range(len(rows)):
        for example in range(20):
            np.testing.assert_array_equal(taken[r, example], phi[rows[r, example], example])
    np.testing.assert_array_equal(take_references(phi[..., 0], rows), taken[..., 0])


@pytest.mark.parametrize("side", [True, False])
def test_an_example_without_a_side_is_refused(side):
    member = np.random.default_rng(0).random((6, 10)).argsort(axis=0) < 3
    member[:, 4] = side
    with pytest.raises(
        InputError, match=f"1 of 10 examples, 4 the first, have no {'OUT' if side else 'IN'} reference"
    ):
        balanced_references(member)


def test_counting_tells_members_where_references_are_not_balanced_and_nothing_where_they_are():
    """Targets and references cut from one pool of exact halves, on signals that know nothing."""
    rng = np.random.default_rng(0)
    raw, even = [], []
    for _ in range(12):
        member = rng.random((10, 4000)).argsort(axis=0) < 5
        phi = rng.normal(size=(10, 4000))
        rows, inside = balanced_references(member[2:])
        for target in range(2):
            truth = member[target]
            raw.append(auc(lira_scores(phi[target], phi[2:], member[2:]), truth))
            even.append(auc(lira_scores(phi[target], take_references(phi[2:], rows), inside), truth))
    error = 0.29 / np.sqrt(2000 * 24)
    assert np.mean(raw) < 0.5 - 10 * error
    assert abs(np.mean(even) - 0.5) < 4 * error
