"""What a deletion costs beside the classical attack: by hand, against loops, and where nothing is to be found."""

import json

import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.evaluation import roc
from mu_jax.evaluation.degradation import deg_count, deg_rate, evaluate_pair_attack, newly_exposed

REFUSED = (InputError, jaxtyping.TypeCheckError)


def drawn(seed, pairs=60, lift=0.2):
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(pairs) % 2 == 0)
    new = np.clip(rng.random(pairs) + lift * np.where(member, 1, -1), 0, 1)
    return np.round(new, 2), np.round(rng.random(pairs), 2), member, np.arange(pairs) // 10


def test_by_hand():
    member = np.array([True, True, True, False, False])
    new = np.array([0.9, 0.4, 0.5, 0.1, 0.7])
    old = np.array([0.5, 0.6, 0.5, 0.3, 0.3])
    # Gains of the true answer: 0.4, −0.2, 0, 0.2, −0.4.
    assert deg_count(new, old, member) == 2 / 5
    assert deg_rate(new, old, member) == pytest.approx(0)
    # ½ is not above ½: of the members the first alone is newly found.
    assert newly_exposed(new, old, member) == 1 / 3
    assert newly_exposed(old, new, member) == 1 / 3


def test_equals_loops():
    new, old, member, _ = drawn(0)
    sure = [(n, o) if m else (1 - n, 1 - o) for n, o, m in zip(new, old, member, strict=True)]
    assert deg_count(new, old, member) == np.mean([n - o > 1e-9 for n, o in sure])
    assert deg_rate(new, old, member) == pytest.approx(np.mean([n - o for n, o in sure]))
    found = [n > 0.5 and not o > 0.5 for n, o, m in zip(new, old, member, strict=True) if m]
    assert newly_exposed(new, old, member) == np.mean(found)


def test_the_other_way_round_it_is_the_opposite():
    new, old, member, _ = drawn(1)
    assert deg_rate(new, old, member) == pytest.approx(-deg_rate(old, new, member))
    equal = np.mean(new == old)
    assert deg_count(new, old, member) + deg_count(old, new, member) + equal == pytest.approx(1)
    # Who is called a member is a name: the attack's complement on the complement says the same.
    assert deg_rate(1 - new, 1 - old, ~member) == pytest.approx(deg_rate(new, old, member))


def test_attacks_that_agree_have_nothing():
    new, _, member, _ = drawn(2)
    assert deg_count(new, new, member) == deg_rate(new, new, member) == newly_exposed(new, new, member) == 0


def test_small_confidences_of_others_differ_too():
    """1 − c is 1 for both, but the second attack is surer."""
    member = np.array([True, False])
    assert deg_count(np.array([0.5, 1e-18]), np.array([0.5, 2e-18]), member) == 0.5


def test_attacks_that_know_nothing_degrade_half():
    rng = np.random.default_rng(0)
    new, old = rng.random((2, 20_000))
    member = np.arange(20_000) % 2 == 0
    assert deg_count(new, old, member) == pytest.approx(0.5, abs=0.015)
    assert deg_rate(new, old, member) == pytest.approx(0, abs=0.015)
    assert newly_exposed(new, old, member) == pytest.approx(0.25, abs=0.015)


def test_all_figures_of_an_attack():
    new, old, member, cluster = drawn(3)
    rates = (0.01, 0.1)
    got = evaluate_pair_attack(new, old, member, cluster, fpr=rates, level=0.9, samples=200, seed=1)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["auc"] == roc.auc(new, member) and got["classical_auc"] == roc.auc(old, member)
    assert got["auc_gain"] == got["auc"] - got["classical_auc"]
    assert got["accuracy"] == roc.balanced_accuracy(new > 0.5, member)
    assert got["classical_accuracy"] == roc.balanced_accuracy(old > 0.5, member)
    assert got["advantage"] == pytest.approx(2 * got["accuracy"] - 1)
    assert got["tpr_at_fpr"] == {str(rate): roc.tpr_at_fpr(new, member, rate) for rate in rates}
    assert got["classical_tpr_at_fpr"] == {str(rate): roc.tpr_at_fpr(old, member, rate) for rate in rates}
    assert got["deg_count"] == deg_count(new, old, member)
    assert got["deg_rate"] == deg_rate(new, old, member)
    assert got["newly_exposed"] == newly_exposed(new, old, member)
    assert (got["originals"], got["resampled"], got["members"], got["nonmembers"]) == (6, "originals", 30, 30)
    bounds = got["interval"]
    assert set(bounds) == set(got) - {"interval", "originals", "resampled", "members", "nonmembers"}
    for name, ends in bounds.items():
        pairs = (
            [(got[name][rate], ends[rate]) for rate in ends]
            if isinstance(ends, dict)
            else [(got[name], ends)]
        )
        for value, (low, high) in pairs:
            assert low <= value <= high and low < high, name


NEW, OLD, MEMBER, CLUSTER = drawn(4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"confidence": 2 * NEW}, r"the new attack's confidences lie in .* in \[0, 1\]"),
        ({"classical": OLD - 0.5}, "the old attack's confidences lie in"),
        ({"confidence": np.where(NEW > 0.5, np.nan, NEW)}, "scores are NaN"),
        ({"classical": OLD[:5]}, "vectors of the same length"),
        ({"is_member": np.ones(60, bool)}, "60 members and 0 non-members"),
        ({"cluster": CLUSTER[:9]}, r"cluster has dtype int64 and shape \[9\], but expected int\[60\]"),
        ({"level": 1.0}, "level is 1.0"),
        ({"samples": 0}, "samples is 0"),
        ({"fpr": (2.0,)}, "fpr is 2.0"),
    ],
)
def test_bad_input_is_refused(change, match):
    arguments = {"confidence": NEW, "classical": OLD, "is_member": MEMBER, "cluster": CLUSTER} | change
    with pytest.raises(REFUSED) as refusal:
        evaluate_pair_attack(**arguments)
    if isinstance(refusal.value, InputError):
        refusal.match(match)
