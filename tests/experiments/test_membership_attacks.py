"""Attacks put together: calibrated on signals whose truth is known."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, ndtr

from mu_jax.config import AttackConfig, InputError
from mu_jax.experiments.attack_targets import PoolTargets, SeparateTargets
from mu_jax.experiments.membership_attacks import attack_all, report_of, score_arrays

SETTINGS = AttackConfig(bootstrap_samples=200, fpr=(0.01, 0.1))
FORMS = {
    *{"lira_online_per_example", "lira_online_global", "lira_offline_per_example", "lira_offline_global"},
    *{"rmia_online", "rmia_offline", "calibrated_loss", "loss"},
}


def halves(models, examples, seed=0):
    return np.random.default_rng(seed).random((models, examples)).argsort(axis=0) < models // 2


def signals(member, lift, queries=1, seed=1):
    """φ of each example around a level of its own, lifted where the model trained on it."""
    rng = np.random.default_rng(seed)
    models, examples = member.shape
    level = 3 * rng.normal(size=(examples, 1))
    noise = rng.normal(size=(models, examples, queries))
    return (level + lift * member[..., None] + noise).astype(np.float32)


def pool(models=16, examples=400, lift=0.0, queries=1, **options):
    member = halves(models, examples)
    phi = signals(member, lift, queries)
    return PoolTargets(phi, expit(phi), member, **options)


@pytest.fixture(scope="module", name="known")
def known_fixture():
    targets = pool(models=32, lift=1.5)
    return targets, attack_all(targets, SETTINGS, seed=0)


def test_every_form_of_every_attack_has_a_row(known):
    targets, outcome = known
    assert set(score_arrays(outcome)) == FORMS
    assert not outcome.impossible
    for attack in outcome.attacks:
        row = attack.row
        assert attack.scores.shape == targets.is_member.shape == (32, 400)
        assert row["interval"]["auc"][0] <= row["auc"] <= row["interval"]["auc"][1]
        assert row["false_positives"] == [point["false_positives"] for point in row["tpr_at_fpr"]]
        assert [point["fpr"] for point in row["tpr_at_fpr"]] == [0.01, 0.1]
        assert row["targets"] == 32


def test_known_gaussians_give_the_analytic_auc_and_the_baselines_less(known):
    _, outcome = known
    rows = {name: attack.row for name, attack in zip(score_arrays(outcome), outcome.attacks, strict=True)}
    # Two unit Gaussians 1.5 apart; with few references the estimate costs a little.
    best = ndtr(1.5 / np.sqrt(2))
    low, high = rows["lira_online_global"]["interval"]["auc"]
    assert low - 0.02 < best < high + 0.03
    for other in ("loss", "lira_offline_global"):
        assert rows["lira_online_global"]["auc"] > rows[other]["auc"]
    assert rows["lira_online_global"]["auc"] > rows["loss"]["auc"] + 0.1
    assert outcome.attacks[0].row["auc"] == max(attack.row["auc"] for attack in outcome.attacks)


def _mean_null_aucs(make, repeats):
    """The mean AUC of each form over pools that know nothing, and the number of pairs behind it."""
    found, pairs = {}, 0
    for seed in range(repeats):
        targets = make(seed)
        outcome = attack_all(targets, dataclasses.replace(SETTINGS, bootstrap_samples=100), seed)
        pairs += targets.is_member.size / 2
        for name, attack in zip(score_arrays(outcome), outcome.attacks, strict=True):
            found.setdefault(name, []).append(attack.row["auc"])
    assert set(found) == FORMS
    return {name: float(np.mean(aucs)) for name, aucs in found.items()}, pairs


def _pool_of(member, phi):
    return PoolTargets(phi, expit(phi), member)


def _null(member, seed, queries=1):
    return signals(member, 0.0, queries, seed=100 + seed)


def _exact_halves(models):
    def make(seed):
        member = halves(models, 1500, seed)
        return _pool_of(member, _null(member, seed, queries=2))

    return make


def _by_coin(seed):
    member = np.random.default_rng(seed).random((16, 1500)) < 0.5
    member = member[:, (member.sum(axis=0) > 4) & (member.sum(axis=0) < 12)]
    return _pool_of(member, _null(member, seed))


def _with_diverged_models(seed):
    member = halves(16, 1500, seed)
    phi = _null(member, seed)
    return _pool_of(member[[*range(3, 16)]], phi[[*range(3, 16)]])


def _pairs_without_one(seed):
    half = np.random.default_rng(seed).random((8, 1500)) < 0.5
    member = np.stack([half, ~half], axis=1).reshape(16, 1500)
    return _pool_of(member[1:], _null(member, seed)[1:])


def _cut_from_one_pool(seed):
    member = halves(16, 1500, seed)
    phi = _null(member, seed)
    p = expit(phi)
    return SeparateTargets(member[:4], phi[:4], p[:4], phi[4:], p[4:], member[4:])


@pytest.mark.parametrize(
    "make, repeats",
    [
        (_exact_halves(8), 2),
        (_exact_halves(16), 1),
        (_by_coin, 2),
        (_with_diverged_models, 2),
        (_pairs_without_one, 2),
        (_cut_from_one_pool, 5),
    ],
    ids=["halves of 8", "halves of 16", "coin", "diverged", "pairs", "apart"],
)
def test_null_signals_give_one_half_everywhere(make, repeats):
    aucs, pairs = _mean_null_aucs(make, repeats)
    for name, area in aucs.items():
        # Mann and Whitney's standard error, a little more for scores that share their references; RMIA's shares of a
        # population of Z lie low by up to 1/Z, because no example is compared with itself.
        allowed = 4.5 * 0.41 / np.sqrt(pairs) + (0.002 if name.startswith("rmia") else 0)
        assert abs(area - 0.5) < allowed, (name, area, allowed)


def test_a_pool_with_few_models_says_what_is_impossible():
    said = []
    outcome = attack_all(pool(models=4, examples=60), SETTINGS, 0, said.append, allow_impossible=True)
    left = {(row["attack"], row["mode"]) for row in outcome.impossible}
    assert ("lira", "online") in left
    assert {attack.row["attack"] for attack in outcome.attacks} >= {"loss", "rmia"}
    assert all("fewer than two" in row["reason"] for row in outcome.impossible)
    assert any("LiRA, online" in line and "left out" in line for line in said)
    with pytest.raises(InputError, match="fewer than two"):
        attack_all(pool(models=4, examples=60), SETTINGS, 0)


def test_a_is_searched_where_asked_for():
    settings = dataclasses.replace(SETTINGS, names=("rmia",), modes=("offline",), offline_a=-1.0)
    said = []
    outcome = attack_all(pool(lift=1.0), settings, 0, said.append)
    # Each half of the targets with what was found on the other half.
    assert len(outcome.offline_a) == 2 and all(0 <= a <= 1 for a in outcome.offline_a)
    assert any("RMIA's a" in line for line in said)
    assert attack_all(pool(), dataclasses.replace(settings, modes=("online",)), 0).offline_a is None


def test_the_first_targets_alone():
    settings = dataclasses.replace(SETTINGS, names=("lira", "loss"))
    few = attack_all(pool(lift=1.0, targets=3), settings, 0)
    everyone = attack_all(pool(lift=1.0), settings, 0)
    for name, scores in score_arrays(few).items():
        np.testing.assert_array_equal(scores, score_arrays(everyone)[name][:3])


def test_targets_apart_from_the_references():
    member = halves(40, 300)
    phi = signals(member, 1.5, queries=2)
    p = expit(phi)
    targets = SeparateTargets(member[:8], phi[:8], p[:8], phi[8:], p[8:], member[8:])
    outcome = attack_all(targets, SETTINGS, 0)
    assert set(score_arrays(outcome)) == FORMS
    rows = {name: attack.row for name, attack in zip(score_arrays(outcome), outcome.attacks, strict=True)}
    assert rows["lira_online_global"]["auc"] > rows["loss"]["auc"] + 0.1
    # A population drawn anew changes RMIA a little, and the same seed not at all.
    settings = dataclasses.replace(SETTINGS, names=("rmia",), population=50)
    first, second, other = (attack_all(targets, settings, seed) for seed in (0, 0, 1))
    for name, scores in score_arrays(first).items():
        np.testing.assert_array_equal(scores, score_arrays(second)[name])
        assert np.any(scores != score_arrays(other)[name])


def test_a_target_among_its_references_is_refused():
    member = halves(12, 100)
    phi = signals(member, 1.0)
    with pytest.raises(InputError, match="among its own references"):
        attack_all(SeparateTargets(member[:1], phi[:1], expit(phi[:1]), phi, expit(phi), member), SETTINGS, 0)


def test_the_report_looks_at_the_strongest(known):
    targets, outcome = known
    report = report_of(outcome, targets, examples=np.arange(400), labels=np.zeros(400, int))
    assert report.attacks[0] is outcome.attacks[0]
    assert report.exposure.shape == (400,)
    assert np.nanmean(report.exposure) > 0.3
