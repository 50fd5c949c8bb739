"""The block of an attack on many targets: hand values, the pooled statistics, honest thresholds, bad input."""

import inspect
import json

import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.evaluation import roc
from mu_jax.evaluation.intervals import balanced_accuracy_interval
from mu_jax.evaluation.many_targets import (
    checked_targets,
    evaluate_targets,
    predictive_value,
    shadow_decisions,
    thresholds_of,
)
from mu_jax.evaluation.membership import evaluate_scores
from mu_jax.evaluation.thresholds import best_threshold
from mu_jax.evaluation.two_way_bootstrap import score_bins

SHADOW = ("shadow_threshold_tpr", "shadow_threshold_fpr", "shadow_threshold_false_positives")


def plain(value):
    """Whether strict JSON holds it: exact Python types, no NaN, no inf."""
    if type(value) is dict:
        return all(type(k) is str and plain(v) for k, v in value.items())
    if type(value) is list:
        return all(map(plain, value))
    return type(value) in (int, float, str, type(None)) and bool(json.dumps(value, allow_nan=False))


def halves(rng, targets, examples):
    """Membership with each example in exactly half of the targets."""
    return rng.random((targets, examples)).argsort(axis=0) < targets // 2


def drawn(rng, targets, examples, gain=0.7):
    member = halves(rng, targets, examples)
    noise = rng.normal(size=member.shape) + rng.normal(size=(1, examples)) + rng.normal(size=(targets, 1)) / 3
    return noise + gain * member, member


def test_by_hand():
    scores = np.array([[4.0, 1.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0]])
    member = np.array([[True, False, True, False], [False, True, False, True]])
    got = evaluate_targets(scores, member, fpr=(0.0, 0.5), samples=50)
    assert plain(got)
    # Members score 2 to 5 and non-members 0 or 1, whatever half of the examples the threshold is learned on.
    for key, value in {
        "auc": 1,
        "auc_distance": 0.5,
        "accuracy": 1,
        "best_accuracy": 1,
        "advantage": 1,
    }.items():
        assert got[key] == value
    assert (got["members"], got["nonmembers"], got["targets"]) == (4, 4, 2)
    assert got["per_target"] == {"auc": [1.0, 1.0], "auc_sd": 0.0}
    assert got["resampled"] == "targets and examples" and got["samples"] == 50
    assert [row["false_positives"] for row in got["tpr_at_fpr"]] == [0, 0]
    assert [row["tpr"] for row in got["tpr_at_fpr"]] == [1, 1]
    for low, high in (got["interval"]["auc"], got["interval"]["accuracy"], got["tpr_at_fpr"][0]["interval"]):
        assert 0 < low < 0.9 and high == 1


def test_predictive_value_by_hand():
    assert predictive_value(0.5, 0.5, 0.1) == pytest.approx(0.1)
    assert predictive_value(0.1, 0.001, 0.01) == pytest.approx(0.001 / (0.001 + 0.00099))
    assert predictive_value(0.2, 0.0, 0.01) == 1
    assert predictive_value(0.0, 0.2, 0.5) == 0
    assert predictive_value(0.0, 0.0, 0.5) is None


@pytest.mark.parametrize("digits", [1, 12])
def test_pooled_statistics_are_those_of_all_pairs(digits):
    scores, member = drawn(np.random.default_rng(0), 5, 120)
    scores = np.round(scores, digits)
    scores[0, :2], scores[1, :2] = np.inf, -np.inf
    rates = (0.0, 0.001, 0.01, 0.3, 1.0)
    got = evaluate_targets(scores, member, fpr=rates, samples=100, seed=3)
    assert plain(got)
    flat, truth = scores.ravel(), member.ravel()
    assert got["auc"] == roc.auc(flat, truth)
    assert got["best_accuracy"] == roc.best_balanced_accuracy(flat, truth) >= got["accuracy"]
    for row, rate in zip(got["tpr_at_fpr"], rates, strict=True):
        point = roc.operating_point(flat, truth, rate)
        assert (row["fpr"], row["tpr"], row["false_positives"]) == (rate, point.tpr, point.false_positives)
        assert row["interval"][0] <= row["tpr"] <= row["interval"][1]
    for key in ("auc", "accuracy"):
        low, high = got["interval"][key]
        assert low < got[key] < high
    assert got["per_target"]["auc"] == [roc.auc(s, m) for s, m in zip(scores, member, strict=True)]
    assert got["per_target"]["auc_sd"] == pytest.approx(np.std(got["per_target"]["auc"], ddof=1))
    assert len(got["ppv"]) == 3 * len(rates)
    for row, (found, prior) in zip(
        got["ppv"], [(r, p) for r in got["tpr_at_fpr"] for p in (0.01, 0.1, 0.5)], strict=True
    ):
        count = found["shadow_threshold_false_positives"]
        value = predictive_value(found["shadow_threshold_tpr"], found["shadow_threshold_fpr"], prior)
        assert count == round(found["shadow_threshold_fpr"] * got["nonmembers"])
        assert row == {
            "fpr": found["fpr"],
            "prior": prior,
            "ppv": value if count else None,
            "false_positives": count,
        }
    assert got["thresholds"] == "other targets"


def test_shadow_decisions_equal_thresholds_learned_on_other_targets_and_examples():
    rng = np.random.default_rng(1)
    for scores, member in (drawn(rng, 4, 31), drawn(rng, 3, 40, gain=-1)):
        scores = np.round(scores, 1)
        scores[0, 0], scores[1, 1] = np.inf, -np.inf
        bins = score_bins(roc.roc_curve(scores.ravel(), member.ravel()))
        got = shadow_decisions(bins.index(scores), member, bins, (0.02, 0.2), seed=7)
        half = np.random.default_rng(7).permutation(np.arange(scores.shape[1]) % 2)
        for t in range(len(scores)):
            others = np.arange(len(scores)) != t
            for n in range(scores.shape[1]):
                learn = np.ix_(others, half != half[n])
                s, m = scores[learn].ravel(), member[learn].ravel()
                threshold = best_threshold(s, m)
                assert got.best[t, n] == (threshold < np.inf and scores[t, n] >= threshold)
                for decision, rate in zip(got.at_fpr, (0.02, 0.2), strict=True):
                    point = roc.operating_point(s, m, rate)
                    assert decision[t, n] == (point.true_positives > 0 and scores[t, n] >= point.threshold)


def test_shadow_accuracy_is_one_half_on_scores_that_know_nothing():
    # With strong example effects, thresholds of the other targets alone give 0.48 here.
    rng = np.random.default_rng(0)
    found = []
    for seed in range(80):
        member = halves(rng, 4, 120)
        scores = 5 * rng.normal(size=(1, 120)) + rng.normal(size=member.shape)
        bins = score_bins(roc.roc_curve(scores.ravel(), member.ravel()))
        called = shadow_decisions(bins.index(scores), member, bins, (), seed=seed).best
        found.append(roc.balanced_accuracy(called.ravel(), member.ravel()))
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(80) < 0.012


def test_shadow_threshold_reaches_about_the_rate_asked_for():
    scores, member = drawn(np.random.default_rng(0), 8, 2000)
    row = evaluate_targets(scores, member, fpr=(0.05,), samples=2)["tpr_at_fpr"][0]
    assert row["shadow_threshold_fpr"] == pytest.approx(0.05, abs=0.01)
    assert row["shadow_threshold_tpr"] == pytest.approx(row["tpr"], abs=0.02)


def test_one_target_is_evaluate_scores():
    scores, member = drawn(np.random.default_rng(0), 2, 90)
    got = evaluate_targets(scores[:1], member[:1], fpr=(0.01, 0.1), samples=100, seed=4)
    want = evaluate_scores(scores[0], member[0], fpr=(0.01, 0.1), samples=100, seed=4)
    assert plain(got)
    for row in want["tpr_at_fpr"]:
        row |= dict.fromkeys(SHADOW)
    assert got | want == got
    assert got["targets"] == 1 and got["resampled"] == "examples" and got["samples"] == 100
    assert got["per_target"] == {"auc": [got["auc"]], "auc_sd": None}
    assert got["thresholds"] == "cross-fitted"
    point = roc.operating_point(scores[0], member[0], 0.1)
    assert got["ppv"][4]["ppv"] == predictive_value(point.tpr, point.fpr, 0.1)
    assert got["ppv"][4]["false_positives"] == point.false_positives > 0
    assert got["ppv"][0] == {"fpr": 0.01, "prior": 0.01, "ppv": None, "false_positives": 0}
    assert set(got) == set(evaluate_targets(scores, member, samples=10))


@pytest.mark.parametrize(
    "scores", [np.zeros((2, 8)), np.where(np.arange(16).reshape(2, 8) % 2, np.inf, -np.inf)]
)
def test_degenerate_scores_have_intervals_and_strict_json(scores):
    member = np.tile(np.arange(8) % 2 == 1, (2, 1))
    got = evaluate_targets(scores, member, samples=50)
    assert plain(got)
    low, high = got["interval"]["auc"]
    assert low <= got["auc"] <= high and low < high
    low, high = got["interval"]["accuracy"]
    assert low <= got["accuracy"] <= high and low < high
    if not scores.any():
        assert [row["ppv"] for row in got["ppv"]] == [None] * 6


def test_without_both_sides_to_learn_from_there_is_no_shadow_threshold():
    # Either half of the two examples has one side only.
    member = np.array([[True, False], [True, False]])
    got = evaluate_targets(np.array([[1.0, 0.0], [1.0, 0.0]]), member, fpr=(0.1,), samples=20)
    assert got["accuracy"] is got["advantage"] is got["interval"]["accuracy"] is None
    assert [got["tpr_at_fpr"][0][key] for key in SHADOW] == [None] * 3
    assert got["thresholds"] is None
    # The target-optimal threshold's: no false positive among two non-members says nothing of a prior of 1%.
    assert got["ppv"][0] == {"fpr": 0.1, "prior": 0.01, "ppv": None, "false_positives": 0}
    assert plain(got)


@pytest.mark.parametrize("targets", [1, 3])
def test_thresholds_of_shadow_models_judge_all_targets(targets):
    rng = np.random.default_rng(2)
    scores, member = (x[:targets] for x in drawn(rng, 4, 70))
    shadow, shadow_member = drawn(rng, 6, 50)
    shadow, scores = np.round(shadow, 1), np.round(scores, 1)
    shadow[0, 0], scores[0, 0], shadow_member[1] = -np.inf, np.inf, True  # one shadow model may lack a side
    rates = (0.0, 0.05, 0.3)
    settings = {"fpr": rates, "samples": 20}
    got = evaluate_targets(scores, member, **settings, shadow_scores=shadow, shadow_is_member=shadow_member)
    assert plain(got) and got["thresholds"] == "shadow models"
    truth, pool = member.ravel(), (shadow.ravel(), shadow_member.ravel())
    called = scores.ravel() >= best_threshold(*pool)
    assert got["accuracy"] == pytest.approx(roc.balanced_accuracy(called, truth), abs=1e-15)
    assert got["advantage"] == pytest.approx(roc.advantage(called, truth), abs=1e-15)
    if targets == 1:
        assert got["interval"]["accuracy"] == list(balanced_accuracy_interval(called, truth))
    for row, rate in zip(got["tpr_at_fpr"], rates, strict=True):
        point = roc.operating_point(*pool, rate)
        called = (scores.ravel() >= point.threshold) & (point.true_positives > 0)
        assert tuple(row[key] for key in SHADOW) == (*roc.rates(called, truth), np.sum(called & ~truth))
    for row in got["ppv"]:
        found = next(x for x in got["tpr_at_fpr"] if x["fpr"] == row["fpr"])
        assert row["false_positives"] == found["shadow_threshold_false_positives"]
        assert (row["ppv"] is None) == (row["false_positives"] == 0)
    # All else is as without shadow models.
    want = evaluate_targets(scores, member, **settings)
    for key in ("auc", "best_accuracy", "per_target", "members"):
        assert got[key] == want[key]
    assert set(got) == set(want)


def test_shadow_thresholds_that_call_nobody_or_everybody():
    better_without = np.array([[0.0, 1.0]]), np.array([[True, False]])
    found = thresholds_of(*better_without, (0.0, 1.0))
    assert found == (None, (None, 0.0))
    assert not found.decide(np.array([[np.inf, 0.0]])).best.any()
    everybody = thresholds_of(np.array([[0.0, 0.0, 1.0]]), np.array([[True, False, True]]), (1.0,))
    assert everybody.decide(np.array([[-np.inf, 1.0]])).at_fpr[0].tolist() == [[False, True]]
    assert thresholds_of(None, None, (0.1,)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, m: (s, None), "shadow_is_member is None, but expected both"),
        (lambda s, m: (None, m), "shadow_scores is None, but expected both"),
        (lambda s, m: (s, m * 1), "shadow_is_member has dtype int64, but expected booleans"),
        (lambda s, m: (s[1:], m), "shadow_scores have shape \\(1, 6\\) and shadow_is_member \\(2, 6\\)"),
        (lambda s, m: (s * np.nan, m), "shadow_scores of 2 of 2 shadow models, 0 the first, hold NaN"),
        (lambda s, m: (s, m | True), "shadow_is_member has 12 members and 0 non-members"),
    ],
)
def test_bad_shadow_models(change, message):
    member = np.tile(np.arange(6) % 2 == 0, (2, 1))
    with pytest.raises(InputError, match=message):
        inspect.unwrap(thresholds_of)(*change(np.ones((2, 6)), member), (0.1,))


def test_many_distinct_scores_are_binned_without_moving_the_pooled_rates():
    scores, member = drawn(np.random.default_rng(0), 4, 20_000)
    got = evaluate_targets(scores.astype(np.float32), member, samples=20)
    flat, truth = scores.astype(np.float32).ravel(), member.ravel()
    assert got["auc"] == roc.auc(flat, truth)
    assert got["tpr_at_fpr"][0]["tpr"] == roc.tpr_at_fpr(flat, truth, 0.001)
    assert got["accuracy"] == pytest.approx(got["best_accuracy"], abs=0.005)


def test_read_only_memory_maps_are_read_and_kept(tmp_path):
    scores, member = drawn(np.random.default_rng(0), 3, 40)
    np.save(tmp_path / "scores.npy", scores.astype(np.float32))
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    got = evaluate_targets(mapped, member, samples=20, seed=1)
    assert got == evaluate_targets(scores.astype(np.float32), member, samples=20, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, m: (s, m.astype(int)), "is_member has dtype int64, but expected booleans"),
        (lambda s, m: (s > 0, m), "scores have dtype bool, but expected real numbers"),
        (lambda s, m: (s[0], m[0]), "expected both to be \\[targets, examples\\]; give a single model"),
        (lambda s, m: (s[:, 1:], m), "scores have shape \\(3, 9\\) and is_member \\(3, 10\\)"),
        (lambda s, m: (s, m | (np.arange(3) == 1)[:, None]), "target 1 has 10 members and 0 non-members"),
        (lambda s, m: (s, m & (np.arange(3) != 2)[:, None]), "target 2 has 0 members and 10 non-members"),
        (
            lambda s, m: (np.where(np.arange(3)[:, None] == 1, np.nan, s), m),
            "of 1 of 3 targets, 1 the first, hold NaN",
        ),
    ],
)
def test_bad_input(change, message):
    # Unwrapped, because tests check annotations too, and would refuse some of these first.
    member = np.tile(np.arange(10) % 2 == 0, (3, 1))
    scores = np.random.default_rng(0).normal(size=member.shape)
    with pytest.raises(InputError, match=message):
        inspect.unwrap(checked_targets)(*change(scores, member))
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        evaluate_targets(*change(scores, member))


def test_bad_settings():
    scores, member = drawn(np.random.default_rng(0), 2, 10)
    with pytest.raises(InputError, match="fpr is 5.0, but expected a rate"):
        evaluate_targets(scores, member, fpr=(5.0,))
    with pytest.raises(InputError, match="level is 2.0, but expected a coverage"):
        evaluate_targets(scores, member, level=2.0)
    with pytest.raises(InputError, match="samples is 0, but expected a positive"):
        evaluate_targets(scores, member, samples=0)
