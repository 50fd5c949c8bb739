"""U-LiRA by hand, against loops, and on models between which there is nothing to tell: the null must come out."""

import jax
import jaxtyping
import numpy as np
import pytest
from scipy.stats import norm

from mu_jax.attacks.lira import lira_scores
from mu_jax.attacks.signals import logit_margin
from mu_jax.attacks.ulira import (
    class_phi,
    leave_one_out_ulira_class,
    paired_scores,
    split_ulira_class,
    ulira_scores,
)
from mu_jax.config import InputError
from mu_jax.evaluation.many_targets import evaluate_targets
from mu_jax.evaluation.roc import auc

REFUSED = (InputError, jaxtyping.TypeCheckError)


def log_ratio(phi, inside, outside):
    """One value against two lists of references."""
    return norm.logpdf(phi, np.mean(inside), np.std(inside, ddof=1)) - norm.logpdf(
        phi, np.mean(outside), np.std(outside, ddof=1)
    )


def drawn(rng, models, inputs, alike=0.0, shift=0.0):
    """φ of models; a share `alike` of the variance is the model's own, the same for all of its inputs."""
    own, each = rng.normal(size=(models, 1)), rng.normal(size=(models, inputs))
    return np.sqrt(alike) * own + np.sqrt(1 - alike) * each + shift


def pooled_auc(first, second):
    scores = np.concatenate([first.ravel(), second.ravel()])
    return auc(scores, np.arange(scores.size) < first.size)


def test_by_hand():
    # At 1, the mean of the unlearned, of variance 2, against N(3, 2) and N(3, 8): ½·4/2, and ½·4/8 + ½·log(8/2).
    got = ulira_scores(np.ones(2), np.array([[0.0, 0], [2, 2]]), np.array([[2.0, 1], [4, 5]]))
    np.testing.assert_allclose(got, [1, 0.25 + np.log(2)])


@pytest.mark.parametrize("variance", ["per_example", "global"])
def test_against_separate_references_it_is_lira(variance):
    rng = np.random.default_rng(0)
    target, unlearned, held_out = rng.normal(size=30), rng.normal(size=(5, 30)), rng.normal(1, 2, (7, 30))
    got = ulira_scores(target, unlearned, held_out, variance=variance)
    side = np.repeat(np.arange(12)[:, None] < 5, 30, axis=1)
    want = lira_scores(target, np.concatenate([unlearned, held_out]), side, variance=variance)
    np.testing.assert_allclose(got, want)
    if variance == "per_example":
        slow = [log_ratio(target[x], unlearned[:, x], held_out[:, x]) for x in range(30)]
        np.testing.assert_allclose(got, slow)


@pytest.mark.parametrize(("unlearned", "held_out"), [(4, 4), (3, 6), (6, 4)])
def test_the_class_form_leaves_out_pairs(unlearned, held_out):
    rng = np.random.default_rng(unlearned)
    u, h = rng.normal(size=(unlearned, 9)), rng.normal(1, 2, (held_out, 9))
    first, second = leave_one_out_ulira_class(u, h)
    both = min(unlearned, held_out)
    # A model without a partner takes the other side's first one along: after the last comes 0, and before it pairs.
    for k in range(unlearned):
        rest = np.delete(h, k if k < both else 0, axis=0)
        want = [log_ratio(u[k, x], np.delete(u, k, axis=0)[:, x], rest[:, x]) for x in range(9)]
        np.testing.assert_allclose(first[k], want)
    for k in range(held_out):
        rest = np.delete(u, k if k < both else 0, axis=0)
        want = [log_ratio(h[k, x], rest[:, x], np.delete(h, k, axis=0)[:, x]) for x in range(9)]
        np.testing.assert_allclose(second[k], want)


def test_the_split_form_is_the_plain_one_against_the_first_models():
    rng = np.random.default_rng(1)
    u, h = rng.normal(size=(5, 9)), rng.normal(1, 2, (6, 9))
    for variance in ("per_example", "global"):
        first, second = split_ulira_class(u, h, references=3, variance=variance)
        want = [ulira_scores(phi, u[:3], h[:3], variance=variance) for phi in (*u[3:], *h[3:])]
        np.testing.assert_allclose(np.concatenate([first, second]), want)


def test_a_model_under_test_and_its_companions_beyond_the_references_do_not_move_its_scores():
    rng = np.random.default_rng(3)
    u, h = drawn(rng, 5, 8), drawn(rng, 5, 8)
    first, _ = leave_one_out_ulira_class(u, h)
    moved = h.copy()
    moved[2] += 100
    changed, _ = leave_one_out_ulira_class(u, moved)
    np.testing.assert_allclose(changed[2], first[2])
    assert np.abs(changed[1] - first[1]).min() > 0.1


def test_scale_and_place_of_phi_do_not_matter_and_swapped_sides_turn_the_sign():
    rng = np.random.default_rng(4)
    u, h = drawn(rng, 5, 8), drawn(rng, 5, 8, shift=1.0)
    for variance in ("per_example", "global"):
        first, second = leave_one_out_ulira_class(u, h, variance=variance)
        again = leave_one_out_ulira_class(4 * u - 30, 4 * h - 30, variance=variance)
        np.testing.assert_allclose(again[0], first, rtol=1e-6)
        swapped = leave_one_out_ulira_class(h, u, variance=variance)
        np.testing.assert_allclose(swapped[0], -second)
        np.testing.assert_allclose(swapped[1], -first)


def test_models_that_all_agree_have_finite_scores():
    u, h = np.full((3, 4), -40, np.float32), np.full((3, 4), -60, np.float32)
    first, second = leave_one_out_ulira_class(u, h)
    assert np.isfinite(first).all() and np.isfinite(second).all()
    assert first.min() > 0 > second.max()


def test_pairs_become_rows_whose_auc_is_the_mean_of_their_own():
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(6, 11)).round(1), rng.normal(size=(6, 11)).round(1) * 3 + 10
    ranks, member = paired_scores(first, second)
    assert ranks.shape == member.shape == (6, 22)
    np.testing.assert_array_equal(member, np.tile(np.arange(22) < 11, (6, 1)))
    own = [auc(row, is_in) for row, is_in in zip(ranks, member, strict=True)]
    np.testing.assert_allclose(
        own, [auc(np.append(a, b), np.arange(22) < 11) for a, b in zip(first, second, strict=True)]
    )
    assert auc(ranks.ravel(), member.ravel()) == pytest.approx(np.mean(own))
    # Not so of the scores themselves, whose pairs may lie anywhere.
    lifted = 10.0 * np.arange(6)[:, None]
    np.testing.assert_allclose(paired_scores(first + lifted, second + lifted)[0], ranks)


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_nothing_to_tell_gives_one_half_in_the_class_form(alike):
    """However much a model's answers depend on each other. Of all scores together it is not so."""
    rng = np.random.default_rng(6)
    found, raw = [], []
    for _ in range(150):
        place = rng.normal(size=12) * 3
        first, second = leave_one_out_ulira_class(
            drawn(rng, 8, 12, alike) + place, drawn(rng, 8, 12, alike) + place
        )
        ranks, member = paired_scores(first, second)
        found.append(auc(ranks.ravel(), member.ravel()))
        raw.append(pooled_auc(first, second))
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - 0.5) < 3.5 * error
    if alike == 1:
        assert np.mean(raw) < 0.5 - 2 * np.std(raw, ddof=1) / np.sqrt(len(raw))


@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_intervals_of_the_split_form_hold_one_half(alike):
    rng = np.random.default_rng(7)
    held = []
    for _ in range(80):
        scores = split_ulira_class(drawn(rng, 8, 30, alike), drawn(rng, 8, 30, alike), references=4)
        low, high = evaluate_targets(*paired_scores(*scores), fpr=())["interval"]["auc"]
        held.append(low <= 0.5 <= high)
    assert np.mean(held) > 0.86


def test_a_shift_is_found():
    """At a size with power: 8 models a side, and 2 standard deviations between the two kinds."""
    rng = np.random.default_rng(8)
    scores = leave_one_out_ulira_class(drawn(rng, 8, 40, 0.5, shift=2.0), drawn(rng, 8, 40, 0.5))
    block = evaluate_targets(*paired_scores(*scores), fpr=())
    assert block["interval"]["auc"][0] > 0.6
    scores = split_ulira_class(drawn(rng, 8, 40, 0.5, shift=2.0), drawn(rng, 8, 40, 0.5), references=4)
    assert evaluate_targets(*paired_scores(*scores), fpr=())["interval"]["auc"][0] > 0.5


def test_class_phi_is_the_margin_of_the_class():
    z = np.random.default_rng(12).normal(size=(3, 5, 4)).astype(np.float32) * 3
    got = np.asarray(class_phi(z, 2))
    np.testing.assert_array_equal(got, logit_margin(z, np.full((3, 5), 2)))
    np.testing.assert_allclose(
        got, z[..., 2] - np.log(np.exp(np.delete(z, 2, -1)).sum(-1)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(jax.jit(class_phi, static_argnums=1)(z, 2), got)
    gone = np.array([[9.0, -3e38, 1.0]], np.float32)
    assert np.isfinite(class_phi(gone, 1)).all() and class_phi(gone, 1)[0] < -1e38
    with pytest.raises(InputError, match="forget_class is 4, but expected 0 to 3"):
        class_phi(z, 4)


def test_digits_retrained_models_are_not_told_apart_and_originals_are(digit_models):
    """Eights: 126 training images; six models a side. Real models answer alike."""
    rows = digit_models.train[digit_models.labels[digit_models.train] == 8]
    phi = {
        name: np.asarray(class_phi(getattr(digit_models, name)[:, rows], 8))
        for name in ("original", "retrained")
    }
    retrained = phi["retrained"]
    kept = leave_one_out_ulira_class(phi["original"], retrained[: len(phi["original"])])
    assert evaluate_targets(*paired_scores(*kept), fpr=())["interval"]["auc"][0] > 0.9
    # Many ways to deal the models into two sides: on average there is nothing.
    rng, found, held = np.random.default_rng(13), [], []
    for _ in range(40):
        dealt = rng.permutation(len(retrained))
        half = len(retrained) // 2
        scores = split_ulira_class(
            retrained[dealt[:half]], retrained[dealt[half : 2 * half]], references=half - 2
        )
        block = evaluate_targets(*paired_scores(*scores), fpr=())
        found.append(block["auc"])
        held.append(block["interval"]["auc"][0] <= 0.5 <= block["interval"]["auc"][1])
    assert abs(np.mean(found) - 0.5) < 0.12
    assert np.mean(held) > 0.8


def test_digits_originals_without_their_column_are_told_apart(digit_models):
    """By the margin of the nearest class among those that stay: 6 models a side, 126 images."""
    rows = digit_models.train[digit_models.labels[digit_models.train] == 8]
    original, retrained = (
        np.asarray(class_phi(np.delete(z[:, rows], 8, axis=2), 8))
        for z in (digit_models.original, digit_models.retrained)
    )
    scores = leave_one_out_ulira_class(original, retrained[: len(original)])
    assert evaluate_targets(*paired_scores(*scores), fpr=())["interval"]["auc"][0] > 0.5


PHI = np.random.default_rng(14).normal(size=(4, 6))
BAD = np.where(np.arange(6) == 2, np.inf, PHI)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ulira_scores(PHI[0], PHI[1:2], PHI[2:]), "1 unlearned models as references, but"),
        (lambda: ulira_scores(PHI[0, :3], PHI[1:], PHI[1:]), r"target_phi has shape \(3,\)"),
        (lambda: ulira_scores(BAD[0], PHI[1:], PHI[1:]), "1 of 6 values of target_phi"),
        (lambda: ulira_scores(PHI[0], PHI[:2], PHI[2:]), "equals that of 1 references"),
        (lambda: ulira_scores(PHI[0], PHI[1:], PHI[1:], variance="globl"), "variance is 'globl'"),
        (lambda: leave_one_out_ulira_class(PHI, PHI[:, :3]), r"held_out_phi \(4, 3\)"),
        (lambda: leave_one_out_ulira_class(PHI[:2], PHI), "1 unlearned models as references once"),
        (lambda: leave_one_out_ulira_class(PHI, PHI[:2]), "1 held-out models as references once"),
        (lambda: leave_one_out_ulira_class(PHI, BAD), "4 of 24 values of held_out_phi"),
        (lambda: leave_one_out_ulira_class(BAD, PHI), "4 of 24 values of unlearned_phi"),
        (lambda: split_ulira_class(PHI, PHI, references=4), "references is 4 of 4 unlearned"),
        (lambda: split_ulira_class(PHI, PHI, references=1), "references is 1"),
        (lambda: paired_scores(PHI, PHI[:3]), r"held-out ones \(3, 6\)"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(REFUSED) as refusal:
        call()
    if isinstance(refusal.value, InputError):
        refusal.match(match)
