"""The attacks on the loss, against scikit-learn's own loop and known outcomes."""

import jax
import jaxtyping
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

from mu_jax.attacks.loss import balanced_indices, logistic_loss_attack, loss_scores
from mu_jax.config import InputError


def test_scores_are_minus_the_loss():
    logits, labels = np.log(np.array([[1.0, 3.0], [1.0, 3.0]], np.float32)), np.array([1, 0])
    np.testing.assert_allclose(loss_scores(logits, labels), np.log([3 / 4, 1 / 4]), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss_scores)(logits, labels), loss_scores(logits, labels), rtol=1e-6)


@pytest.mark.parametrize(("splits", "test_size", "seed"), [(10, 0.1, 0), (4, 0.25, 7)])
def test_equals_cross_val_score(splits, test_size, seed):
    rng = np.random.default_rng(1)
    member, nonmember = rng.exponential(1, 60), rng.exponential(2, 60)
    got = logistic_loss_attack(member, nonmember, splits=splits, test_size=test_size, seed=seed)
    x, y = np.concatenate([member, nonmember])[:, None], np.repeat([1, 0], 60)
    folds = StratifiedShuffleSplit(n_splits=splits, test_size=test_size, random_state=seed)
    np.testing.assert_array_equal(got.split_accuracy, cross_val_score(LogisticRegression(), x, y, cv=folds))
    for s, (train, test) in enumerate(folds.split(x, y)):
        np.testing.assert_array_equal(got.example[s], test)
        np.testing.assert_array_equal(got.is_member[s], test < 60)
        assert got.trained == train.size


def test_separable_losses_give_the_members_away():
    rng = np.random.default_rng(0)
    got = logistic_loss_attack(rng.uniform(0, 1, 100), rng.uniform(4, 5, 100))
    assert got.split_accuracy.mean() == 1
    # The regression finds the direction, also where members have the larger loss.
    got = logistic_loss_attack(rng.uniform(4, 5, 100), rng.uniform(0, 1, 100))
    assert got.split_accuracy.mean() == 1


def test_equal_distributions_give_one_half():
    rng = np.random.default_rng(0)
    runs = [
        logistic_loss_attack(rng.exponential(1, 100), rng.exponential(1, 100), splits=5, seed=s)
        for s in range(40)
    ]
    # One run's mean has a standard deviation of √(¼/20·(1/5 + 1/9)) = 0.062.
    assert abs(np.mean([run.split_accuracy.mean() for run in runs]) - 0.5) < 4 * 0.062 / np.sqrt(40)


def test_losses_of_wild_scale_are_survived():
    rng = np.random.default_rng(0)
    got = logistic_loss_attack(rng.exponential(1e5, 40), rng.exponential(3e5, 40))
    assert np.all((got.split_accuracy >= 0) & (got.split_accuracy <= 1))


@pytest.mark.parametrize(
    ("member", "nonmember", "match"),
    [
        (np.array([0.0, np.nan] * 10), np.ones(20), "10 of 40 losses are not finite"),
        (np.full(20, np.inf), np.ones(20), "not finite"),
        (np.zeros(3), np.ones(3), "hold out 1 of 6"),
    ],
)
def test_bad_losses_are_refused(member, nonmember, match):
    with pytest.raises(InputError, match=match):
        logistic_loss_attack(member, nonmember)


def test_unequal_numbers_are_refused():
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        logistic_loss_attack(np.zeros(50), np.ones(60))


@pytest.mark.parametrize("settings", [{"test_size": 0.0}, {"test_size": 1.0}, {"splits": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(InputError, match="share in"):
        logistic_loss_attack(np.zeros(20), np.ones(20), **settings)


def test_balanced_indices():
    members, nonmembers = balanced_indices(5, 100, seed=3)
    np.testing.assert_array_equal(members, np.arange(5))
    assert nonmembers.size == 5 and np.all(np.diff(nonmembers) > 0) and nonmembers.max() < 100
    np.testing.assert_array_equal(nonmembers, balanced_indices(5, 100, seed=3)[1])
    assert not np.array_equal(nonmembers, balanced_indices(5, 100, seed=4)[1])
    # Every position has the same chance.
    counts = np.bincount(np.concatenate([balanced_indices(9, 3, seed=s)[0] for s in range(600)]), minlength=9)
    np.testing.assert_allclose(counts, 200, atol=50)
    with pytest.raises(InputError, match="at least one of each"):
        balanced_indices(0, 3, seed=0)
