"""U-LiRA on single examples, in loops, and where nothing was forgotten: no score may tell by counting references."""

import jaxtyping
import numpy as np
import pytest
from scipy.stats import norm

from mu_jax.attacks.ulira import leave_one_out_ulira
from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc

REFUSED = (InputError, jaxtyping.TypeCheckError)


def log_ratio(phi, inside, outside):
    """One value against two lists of references."""
    return norm.logpdf(phi, np.mean(inside), np.std(inside, ddof=1)) - norm.logpdf(
        phi, np.mean(outside), np.std(outside, ddof=1)
    )


def thirds(rng, models, candidates):
    return rng.permuted(np.tile((np.arange(models) % 3)[:, None], (1, candidates)), axis=0).astype(np.int8)


@pytest.mark.parametrize("held_out", ["unlearned", "retrained"])
def test_the_random_form_in_loops(held_out):
    rng = np.random.default_rng(2)
    state = rng.integers(0, 3, (14, 60)).astype(np.int8)
    state = state[:, (np.sum(state == 0, axis=0) > 2) & (np.sum(state == 2, axis=0) > 2)]
    phi = rng.normal(size=state.shape)
    other, trained = rng.normal(size=(6, state.shape[1])), rng.random((6, state.shape[1])) < 0.3
    trained[:2] = False
    options = {"held_out_phi": other, "held_out_trained": trained} if held_out == "retrained" else {}
    got = leave_one_out_ulira(phi, state, held_out=held_out, **options)
    inside = np.sum(state == 2, axis=0).min() - 1
    outside = np.sum(state == 0, axis=0).min() - 1
    if held_out == "retrained":
        outside = np.sum(~trained, axis=0).min()
    assert got.references == (inside, outside)
    assert got.held_out == held_out
    np.testing.assert_array_equal(got.is_scored, state != 1)
    np.testing.assert_array_equal(got.is_forgotten, state == 2)
    assert np.all(got.scores[state == 1] == 0)
    for k, x in zip(*np.nonzero(state != 1), strict=True):
        order = [m for m in (k ^ 1, *((k + i) % 14 for i in range(1, 14))) if m < 14 and m != k]
        order = list(dict.fromkeys(order))
        one = [phi[m, x] for m in order if state[m, x] == 2][-inside:]
        two = [phi[m, x] for m in order if state[m, x] == 0][-outside:]
        if held_out == "retrained":
            two = [other[m, x] for m in range(6) if not trained[m, x]][-outside:]
        assert got.scores[k, x] == pytest.approx(log_ratio(phi[k, x], one, two))
    scores, forgotten = got.of(3)
    np.testing.assert_array_equal(scores, got.scores[3][state[3] != 1])
    np.testing.assert_array_equal(forgotten, state[3][state[3] != 1] == 2)


def test_nothing_to_tell_gives_one_half_in_the_random_form():
    """Without a model that leaves on the other side it does not."""
    rng = np.random.default_rng(9)
    found, plain = [], []
    for _ in range(12):
        state = thirds(rng, 12, 300)
        phi = rng.normal(size=state.shape) + 0.7 * rng.normal(size=(12, 1))
        got = leave_one_out_ulira(phi, state)
        assert got.references == (3, 3)
        found.append(auc(got.scores[got.is_scored], got.is_forgotten[got.is_scored]))
        naive = np.zeros(phi.shape)
        for k in range(12):
            others = np.arange(12) != k
            for x in np.flatnonzero(state[k] != 1):
                naive[k, x] = (
                    log_ratio(
                        phi[k, x], phi[others & (state[:, x] == 2), x], phi[others & (state[:, x] == 0), x]
                    )
                    if k < 3
                    else 0
                )
        top = got.is_scored[:3]
        plain.append(auc(naive[:3][top], got.is_forgotten[:3][top]))
    assert abs(np.mean(found) - 0.5) < 3.5 * np.std(found, ddof=1) / np.sqrt(len(found))
    assert np.mean(plain) < 0.48


def test_unequal_numbers_of_models_do_not_tell_by_counting():
    rng = np.random.default_rng(10)
    found = []
    for _ in range(12):
        state = rng.integers(0, 3, (15, 400)).astype(np.int8)
        state = state[:, (np.sum(state == 0, axis=0) > 3) & (np.sum(state == 2, axis=0) > 3)]
        got = leave_one_out_ulira(rng.normal(size=state.shape), state)
        found.append(auc(got.scores[got.is_scored], got.is_forgotten[got.is_scored]))
    assert abs(np.mean(found) - 0.5) < 3.5 * np.std(found, ddof=1) / np.sqrt(len(found))


def test_what_is_half_forgotten_is_found_in_the_random_form():
    """At a size with power: 12 models, 300 candidates, 2 standard deviations."""
    rng = np.random.default_rng(11)
    state = thirds(rng, 12, 300)
    got = leave_one_out_ulira(rng.normal(size=state.shape) + 2.0 * (state == 2), state, variance="global")
    assert all(auc(*got.of(k)) > 0.8 for k in range(12))


PHI = np.random.default_rng(14).normal(size=(4, 6))
STATE = np.repeat(np.array([0, 0, 0, 2, 2, 2], np.int8)[:, None], 6, axis=1)
SIX = np.random.default_rng(15).normal(size=(6, 6))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: leave_one_out_ulira(SIX, STATE[:4]), r"state \(4, 6\)"),
        (lambda: leave_one_out_ulira(SIX, STATE + np.int8(1)), "state holds 3"),
        (lambda: leave_one_out_ulira(SIX[1:], STATE[1:]), "1 held-out models"),
        (
            lambda: leave_one_out_ulira(np.where(SIX[0, 0] == SIX, np.nan, SIX), STATE),
            "1 of 36 values of phi",
        ),
        (lambda: leave_one_out_ulira(SIX, STATE, held_out="retrain"), "held_out is 'retrain'"),
        (lambda: leave_one_out_ulira(SIX, STATE, held_out="retrained"), "no held_out_phi given"),
        (lambda: leave_one_out_ulira(SIX, STATE, held_out_phi=PHI), "'unlearned' and held_out_phi given"),
        (
            lambda: leave_one_out_ulira(
                SIX, STATE, held_out="retrained", held_out_phi=PHI, held_out_trained=PHI[:2] > 0
            ),
            r"held_out_trained \(2, 6\)",
        ),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(REFUSED) as refusal:
        call()
    if isinstance(refusal.value, InputError):
        refusal.match(match)
