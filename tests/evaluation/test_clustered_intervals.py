"""Intervals over originals against a slow bootstrap, at the edges, and by their coverage in simulation."""

import math
import time

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest
from scipy.stats import t as student

from mu_jax.evaluation import clustered_intervals, intervals
from mu_jax.evaluation.clustered_intervals import pair_intervals
from mu_jax.evaluation.degradation import deg_count, deg_rate, newly_exposed
from mu_jax.evaluation.roc import auc, balanced_accuracy, tpr_at_fpr

RATES = (0.01, 0.2)


def squash(scores):
    """Confidences of which some tie."""
    return np.round(expit(scores), 2)


def drawn(seed, originals=8, pairs=20, lift=0.8, effect=0.7):
    """Pairs of originals that differ in how strong the attack on them is."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(originals), pairs)
    member = np.tile(np.arange(pairs) % 2 == 0, originals)
    strength = lift + effect * rng.normal(size=originals)
    new = rng.normal(size=cluster.size) + np.where(member, 0.5, -0.5) * strength[cluster]
    old = 0.5 * new + rng.normal(size=cluster.size)
    return squash(new), squash(old), member, 10 * cluster + 3


def everything(new, old, member):
    """Each statistic, through the plain functions."""
    values = {
        "auc": auc(new, member),
        "classical_auc": auc(old, member),
        "auc_gain": auc(new, member) - auc(old, member),
        "accuracy": balanced_accuracy(new > 0.5, member),
        "classical_accuracy": balanced_accuracy(old > 0.5, member),
        "advantage": 2 * balanced_accuracy(new > 0.5, member) - 1,
        "deg_count": deg_count(new, old, member),
        "deg_rate": deg_rate(new, old, member),
        "newly_exposed": newly_exposed(new, old, member),
    }
    for rate in RATES:
        values["tpr", rate] = tpr_at_fpr(new, member, rate)
        values["classical_tpr", rate] = tpr_at_fpr(old, member, rate)
    return values


def slow_intervals(new, old, member, cluster, samples, seed):
    """The same resamples, each built of repeated pairs, and the interval from its definition."""
    rng = np.random.default_rng(seed)
    _, number = np.unique(cluster, return_inverse=True)
    units = number.max() + 1
    rows = []
    for times in rng.multinomial(units, np.full(units, 1 / units), samples):
        again = np.repeat(np.arange(member.size), times[number])
        rows.append(everything(new[again], old[again], member[again]))
    bounds = {}
    for name, value in everything(new, old, member).items():
        error = np.std([row[name] for row in rows]) * math.sqrt(units / (units - 1))
        half = student.ppf(0.975, units - 1) * error
        if name in ("auc_gain", "deg_rate", "advantage"):
            bounds[name] = (value - half, value + half)
        elif value in (0, 1):
            bounds[name] = (value, value)
        else:
            half /= value * (1 - value)
            bounds[name] = (expit(logit(value) - half), expit(logit(value) + half))
    return bounds


def test_equal_a_slow_bootstrap():
    new, old, member, cluster = drawn(0)
    got = pair_intervals(new, old, member, cluster, fpr=RATES, samples=60, seed=5)
    want = slow_intervals(new, old, member, cluster, 60, 5)
    for name in want.keys() - {"advantage"}:
        if isinstance(name, str):
            np.testing.assert_allclose(getattr(got, name), want[name], atol=1e-10, err_msg=name)
            continue
        kind, rate = name
        score = new if kind == "tpr" else old
        found = round(tpr_at_fpr(score, member, rate) * member.sum())
        wilson = binomtest(found, int(member.sum())).proportion_ci(method="wilson")
        joined = min(want[name][0], wilson.low), max(want[name][1], wilson.high)
        np.testing.assert_allclose(
            getattr(got, f"{kind}_at_fpr")[rate], joined, atol=1e-10, err_msg=str(name)
        )
    # On the scale of the accuracy's log-odds, which hardly bends here.
    np.testing.assert_allclose(got.advantage, np.array(got.accuracy) * 2 - 1)
    np.testing.assert_allclose(got.advantage, want["advantage"], atol=0.05)
    assert (got.originals, got.resampled) == (8, "originals")


def test_names_and_order_of_originals_do_not_matter():
    new, old, member, cluster = drawn(1)
    first = pair_intervals(new, old, member, cluster, fpr=RATES, samples=100)
    order = np.random.default_rng(0).permutation(member.size)
    again = pair_intervals(new[order], old[order], member[order], cluster[order], fpr=RATES, samples=100)
    for name, bounds in first._asdict().items():
        if name not in ("tpr_at_fpr", "classical_tpr_at_fpr", "resampled"):
            np.testing.assert_allclose(getattr(again, name), bounds, atol=1e-12)


def test_blocks_bound_the_memory_and_change_little(monkeypatch):
    data = drawn(2)
    whole = pair_intervals(*data, samples=1500)
    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 1000)
    np.testing.assert_allclose(pair_intervals(*data, samples=1500).auc, whole.auc, atol=0.01)


def test_alike_pairs_of_an_original_are_no_more_evidence_than_one():
    new, old, member, cluster = drawn(3, originals=10, pairs=2)
    once = pair_intervals(new, old, member, cluster, samples=800)
    often = pair_intervals(*(np.repeat(a, 20) for a in (new, old, member, cluster)), samples=800)
    np.testing.assert_allclose(often.auc, once.auc, atol=0.02)
    np.testing.assert_allclose(often.deg_rate, once.deg_rate, atol=0.02)
    apart = pair_intervals(
        *(np.repeat(a, 20) for a in (new, old, member)), np.arange(20 * member.size), samples=800
    )
    assert np.diff(apart.auc) < 0.5 * np.diff(often.auc)


def test_pairs_of_their_own_originals_have_the_plain_interval():
    new, old, member, _ = drawn(4, originals=20, effect=0.0)
    got = pair_intervals(new, old, member, np.arange(member.size))
    plain = intervals.roc_intervals(new, member, RATES)
    np.testing.assert_allclose(got.auc, plain.auc, atol=0.015)
    assert (got.originals, got.resampled) == (member.size, "originals")


def test_a_single_original_has_its_pairs_resampled():
    new, old, member, cluster = drawn(5, originals=4)
    apart = pair_intervals(new, old, member, np.arange(member.size), samples=100)
    for alone in (np.zeros_like(cluster), np.where(member, 0, 1 + np.arange(member.size) // 20)):
        got = pair_intervals(new, old, member, alone, samples=100)
        assert got.resampled == "pairs" and got.originals == np.unique(alone).size
        assert got.auc == apart.auc and got.deg_rate == apart.deg_rate


def test_perfect_and_equal_attacks():
    member = np.arange(40) % 2 == 0
    perfect, cluster = np.where(member, 0.9, 0.1), np.arange(40) // 10
    got = pair_intervals(perfect, perfect, member, cluster, fpr=RATES)
    for bounds in (got.auc, got.accuracy, *got.tpr_at_fpr.values()):
        assert 0.7 < bounds.low < 0.95 and bounds.high == 1
    assert got.auc_gain == got.deg_rate == (0, 0)
    assert got.deg_count.low == got.newly_exposed.low == 0 < got.deg_count.high < got.newly_exposed.high < 0.2


def test_resamples_without_a_side_are_drawn_again():
    """Two of three originals have members only: of 27 resamples 9 have no non-member, or nothing else."""
    new, old, member, _ = drawn(6, originals=1, pairs=12)
    cluster = np.where(member, np.arange(12) % 4, np.arange(12) % 4 + 3)
    assert np.unique(cluster[member]).size > 1 and np.unique(cluster[~member]).size > 1
    got = pair_intervals(new, old, member, cluster, samples=300)
    assert all(np.isfinite(bounds).all() for bounds in (got.auc, got.deg_rate, got.newly_exposed))
    weights = np.concatenate(list(clustered_intervals._weights(cluster, member, 300, 0)))
    assert len(weights) == 300 and (weights @ member).min() > 0 and (weights @ ~member).min() > 0


def coverage(originals, pairs, effect, lift=0.0, simulations=150, samples=200, kind="strength"):
    """How often the intervals hold the truth, and their half-width over 1.96 standard deviations."""
    rng = np.random.default_rng(originals)
    cluster, member = np.repeat(np.arange(originals), pairs), np.tile(np.arange(pairs) % 2 == 0, originals)
    bounds, found = [], []
    for seed in range(simulations):
        new, old = rng.normal(size=(2, cluster.size)) + lift * member
        each = effect * rng.normal(size=originals)[cluster]
        new += each * member if kind == "strength" else each
        new, old = expit(new), expit(old)
        got = pair_intervals(new, old, member, cluster, fpr=(0.1,), samples=samples, seed=seed)
        bounds.append((got.auc, got.auc_gain, got.accuracy, got.deg_rate, got.tpr_at_fpr[0.1]))
        found.append(
            (
                auc(new, member),
                auc(new, member) - auc(old, member),
                balanced_accuracy(new > 0.5, member),
                deg_rate(new, old, member),
                tpr_at_fpr(new, member, 0.1),
            )
        )
    low, high = np.moveaxis(np.array(bounds), 2, 0)
    truth = np.mean(found, axis=0)
    if lift == 0:
        truth[:4] = 0.5, 0, 0.5, 0
    held = np.mean((low <= truth) & (truth <= high), axis=0)
    return held, np.mean(high - low, axis=0) / 2 / 1.96 / np.std(found, axis=0)


@pytest.mark.parametrize(("originals", "effect"), [(10, 0.0), (10, 0.7), (4, 0.7)])
def test_intervals_cover_where_nothing_is_to_be_found(originals, effect):
    held, width = coverage(originals, 12, effect)
    # 150 simulations: ± 1.8 points.
    assert np.all((held[:4] >= 0.89) & (held[:4] <= 0.995)), held
    assert held[4] >= 0.89
    assert np.all(width[:4] < (1.4 if originals == 10 else 2.2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strength", "shift"])
@pytest.mark.parametrize(("effect", "lift"), [(0.0, 0.0), (0.7, 0.0), (0.7, 1.0)])
@pytest.mark.parametrize(("originals", "pairs"), [(2, 40), (3, 40), (5, 40), (10, 40), (20, 20), (100, 2)])
def test_intervals_cover(originals, pairs, effect, lift, kind):
    held, _ = coverage(originals, pairs, effect, lift, 200, 200, kind)
    # 200 simulations: ± 1.5 points. A TPR of two originals has as few as two false positives behind it.
    assert held[:4].min() >= 0.9 and held[4] >= (0.9 if originals > 2 else 0.84), held
    if originals >= 5:
        assert held[:4].max() <= 0.995, held


def test_a_thousand_resamples_of_thousands_of_pairs_take_a_second():
    data = drawn(7, originals=40, pairs=100)
    began = time.perf_counter()
    pair_intervals(*data, fpr=(0.001, 0.01, 0.1), samples=1000)
    assert time.perf_counter() - began < 10
