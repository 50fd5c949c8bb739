"""The calibrated loss against hand values, a slow twin, and targets that know nothing."""

import inspect

import jaxtyping
import numpy as np
import pytest

from mu_jax.attacks import calibrated_loss
from mu_jax.attacks.calibrated_loss import (
    calibrated_loss_scores,
    leave_one_out_calibrated_loss,
    loss_scores_from_phi,
)
from mu_jax.attacks.leave_one_out import opposite_models
from mu_jax.attacks.loss import loss_scores
from mu_jax.attacks.signals import logit_margin
from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc


def halves(models, examples, seed=0):
    return np.random.default_rng(seed).random((models, examples)).argsort(axis=0) < models // 2


def margins(*shape, seed=1):
    return np.random.default_rng(seed).normal(2, 4, shape).astype(np.float32)


def phi_of(loss):
    """The margin whose loss is given: softplus(−φ) = loss."""
    return -np.log(np.expm1(loss))


def loss_of(phi):
    """The mean over augmentations of −log σ(φ), one number at a time."""
    return float(np.mean([np.logaddexp(0, -np.float64(view)) for view in np.ravel(phi)]))


def test_hand_values():
    shadow = phi_of(np.array([[1.0, 2.0], [4.0, 0.5], [3.0, 1.5]]))
    member = np.array([[False, True], [True, False], [False, False]])
    # Mean OUT losses (1 + 3)/2 and (0.5 + 1.5)/2, less the target's 0.5 and 2.
    got = calibrated_loss_scores(phi_of(np.array([0.5, 2.0])), shadow, member)
    np.testing.assert_allclose(got, [1.5, -1.0], rtol=1e-12)
    assert got.dtype == np.float64


def test_plain_loss_is_that_of_the_logits():
    logits, labels = margins(30, 5), np.arange(30) % 5
    got = loss_scores_from_phi(np.asarray(logit_margin(logits, labels))[None])[0]
    np.testing.assert_allclose(got, loss_scores(logits, labels), rtol=1e-5)
    extreme = loss_scores_from_phi(np.array([[-1e38, -800.0, 0.0, 50.0, 800.0]], np.float32))[0]
    np.testing.assert_allclose(extreme, [-1e38, -800, -np.log(2), -np.exp(-50), 0], rtol=1e-7)


@pytest.mark.parametrize("views", [None, 1, 3])
def test_equals_the_slow_twin(views, monkeypatch):
    monkeypatch.setattr(calibrated_loss, "BLOCK", 7)
    tail = () if views is None else (views,)
    shadow, target, member = margins(6, 20, *tail), margins(20, *tail, seed=2), halves(6, 20)
    shadow.flags.writeable = target.flags.writeable = False
    want = [
        np.mean([loss_of(shadow[k, n]) for k in range(6) if not member[k, n]]) - loss_of(target[n])
        for n in range(20)
    ]
    np.testing.assert_allclose(calibrated_loss_scores(target, shadow, member), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("views", [None, 3])
def test_leave_one_out_equals_the_slow_twin(views):
    tail = () if views is None else (views,)
    phi, member = margins(8, 20, *tail), halves(8, 20)
    opposite, want = opposite_models(member), np.empty((8, 20))
    for t in range(8):
        for n in range(20):
            out = [k for k in range(8) if k not in (t, opposite[t, n]) and not member[k, n]]
            assert len(out) == 3
            want[t, n] = np.mean([loss_of(phi[k, n]) for k in out]) - loss_of(phi[t, n])
    np.testing.assert_allclose(leave_one_out_calibrated_loss(phi, member), want, rtol=1e-9, atol=1e-11)
    got = leave_one_out_calibrated_loss(phi, member, targets=[6, 1])
    np.testing.assert_allclose(got, want[[6, 1]], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("models", [4, 8, 32])
def test_a_target_that_knows_nothing_gives_one_half(models):
    areas = []
    for seed in range(30):
        rng = np.random.default_rng([seed, 1])
        member = halves(models, 2000, seed)
        knows = member.copy()
        knows[0] = rng.random(2000) < 0.5
        phi = 2 * rng.normal(size=2000) + 3 * knows + rng.normal(size=(models, 2000))
        scores = leave_one_out_calibrated_loss(phi, member)
        areas.append(auc(scores[0], member[0]))
        assert auc(scores[1], member[1]) > 0.7
    error = np.std(areas, ddof=1) / np.sqrt(len(areas))
    assert error < 0.004
    assert abs(np.mean(areas) - 0.5) < 4 * error


def test_difficulty_cancels():
    rng = np.random.default_rng(0)
    member = halves(16, 2000)
    phi = 4 * rng.normal(size=2000) + 2 * member + 0.3 * rng.normal(size=(16, 2000))
    plain = auc(loss_scores_from_phi(phi)[3], member[3])
    calibrated = auc(leave_one_out_calibrated_loss(phi, member, targets=[3])[0], member[3])
    assert calibrated > plain + 0.2


SHADOW, MEMBER = margins(6, 20), halves(6, 20)
ALL = MEMBER | (np.arange(20) == 5)
ONE = np.arange(6)[:, None] != np.zeros(20)


def broken(value):
    phi = SHADOW.copy()
    phi[2, 3] = value
    return phi


@pytest.mark.parametrize(
    ("function", "args", "match"),
    [
        (calibrated_loss_scores, (SHADOW[0, 1:], SHADOW, MEMBER), r"target_phi has shape \(19,\)"),
        (calibrated_loss_scores, (SHADOW[0], SHADOW, MEMBER[1:]), r"membership \(5, 20\)"),
        (calibrated_loss_scores, (SHADOW[0], SHADOW, MEMBER.astype(float)), "of float64"),
        (
            calibrated_loss_scores,
            (SHADOW[0], SHADOW, ALL),
            "1 of 20 examples, 5 the first, are members in all",
        ),
        (
            calibrated_loss_scores,
            (SHADOW[0], broken(np.nan), MEMBER),
            "shadow_phi has entries that are not finite",
        ),
        (calibrated_loss_scores, (broken(np.inf)[2], SHADOW, MEMBER), "target_phi has entries"),
        (leave_one_out_calibrated_loss, (broken(-np.inf), MEMBER), "phi has entries that are not finite"),
        (leave_one_out_calibrated_loss, (SHADOW, ALL), "on one side in all 6 models"),
        (
            leave_one_out_calibrated_loss,
            (SHADOW, ONE),
            "20 of 20 examples, 0 the first, have no OUT reference",
        ),
        (leave_one_out_calibrated_loss, (SHADOW, MEMBER, [6]), "expected models from 0 to 5"),
        (leave_one_out_calibrated_loss, (SHADOW, MEMBER, []), "expected models from 0 to 5"),
        (leave_one_out_calibrated_loss, (SHADOW[0], MEMBER), "margins have shape"),
        (loss_scores_from_phi, (broken(np.nan),), "phi has entries that are not finite"),
    ],
)
def test_bad_input_is_refused(function, args, match):
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        function(*args)
    with pytest.raises(InputError, match=match):
        inspect.unwrap(function)(*args)
