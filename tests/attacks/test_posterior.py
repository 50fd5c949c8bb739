"""The posterior attacks: hand values, a plain scikit-learn twin, the threat model's roles, the null."""

import dataclasses
import time

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mu_jax.attacks import posterior
from mu_jax.attacks.loss import balanced_indices
from mu_jax.attacks.posterior import (
    CLASSIFIERS,
    fit_posterior_attack,
    largest_posterior,
    posterior_attack,
    posterior_features,
    tie_rate,
)
from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc
from mu_jax.evaluation.thresholds import best_threshold


def softmax(rng, examples, classes, scale):
    """Posteriors of random logits: the larger the scale, the surer the model."""
    z = np.exp(scale * rng.normal(size=(examples, classes)))
    return z / z.sum(axis=1, keepdims=True)


def overfitted(seed, examples=120, classes=5):
    """Members, whom the model is surer of, and non-members."""
    rng = np.random.default_rng(seed)
    return softmax(rng, examples, classes, 3.0), softmax(rng, examples, classes, 1.0)


def separable(seed, examples=60, classes=4):
    """Members' largest posterior lies above 0.9, non-members' below 0.6."""
    rng = np.random.default_rng(seed)
    sides = []
    for low, high in ((0.9, 0.99), (0.4, 0.6)):
        top = rng.uniform(low, high, examples)
        rest = softmax(rng, examples, classes - 1, 0.1) * (1 - top)[:, None]
        rows = np.column_stack([top, rest])
        sides.append(np.stack([rng.permutation(row) for row in rows]))
    return sides


def slow_features(posteriors, top):
    """From the definition, one example at a time, missing classes as zeros."""
    found = []
    for row in posteriors:
        ordered = sorted((float(p) for p in row), reverse=True)
        width = len(ordered) if top is None else top
        found.append([ordered[j] if j < len(ordered) else 0.0 for j in range(width)])
    return np.array(found)


def test_features_by_hand():
    rows = np.array([[0.1, 0.6, 0.0, 0.3], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(posterior_features(rows), [[0.6, 0.3, 0.1], [0.25, 0.25, 0.25], [1, 0, 0]])
    np.testing.assert_array_equal(
        posterior_features(rows, None), [[0.6, 0.3, 0.1, 0.0], [0.25] * 4, [1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(posterior_features(rows, 9), posterior_features(rows, None))
    np.testing.assert_array_equal(largest_posterior(rows), [0.6, 0.25, 1.0])


@pytest.mark.parametrize("top", [1, 2, 3, 7, None])
def test_features_equal_a_slow_twin_also_in_small_blocks(monkeypatch, top):
    rows = np.round(softmax(np.random.default_rng(0), 40, 7, 2.0), 2)
    rows[:, 0] += 1 - rows.sum(axis=1)  # ties, and still a sum of one
    rows = np.abs(rows)
    rows /= rows.sum(axis=1, keepdims=True)
    want = slow_features(rows, top)
    np.testing.assert_array_equal(posterior_features(rows, top), want)
    np.testing.assert_array_equal(largest_posterior(rows), want[:, 0])
    monkeypatch.setattr(posterior, "BLOCK_ELEMENTS", 20)
    np.testing.assert_array_equal(posterior_features(rows, top), want)


def test_features_of_other_kinds_of_arrays(tmp_path):
    rows = softmax(np.random.default_rng(0), 30, 5, 2.0).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    want = slow_features(rows, 3)
    for array in (mapped, rows, jnp.asarray(rows)):
        got = posterior_features(array)
        assert got.dtype == np.float64 and got.flags.writeable
        np.testing.assert_array_equal(got, want)
    # Half precision sums to one only roughly, and one-hot votes may be whole numbers.
    np.testing.assert_allclose(posterior_features(jnp.asarray(rows, jnp.float16)), want, atol=1e-3)
    np.testing.assert_array_equal(posterior_features(np.eye(3, dtype=np.int64)), [[1, 0, 0]] * 3)


def test_inputs_are_left_as_they_were():
    rows = softmax(np.random.default_rng(0), 20, 5, 2.0)
    before = rows.copy()
    posterior_features(rows, None)
    posterior_attack(rows, rows, rows)
    np.testing.assert_array_equal(rows, before)


def plain_scikit_learn(classifier, inside, outside, target, top, seed):
    """The attack as one would write it with scikit-learn alone."""
    x = np.concatenate([slow_features(inside, top), slow_features(outside, top)])
    t = slow_features(target, top)
    y = np.repeat([1, 0], [len(inside), len(outside)])
    if classifier in ("logistic", "mlp"):
        scaler = StandardScaler().fit(x)
        x, t = scaler.transform(x), scaler.transform(t)
    model = {
        "logistic": LogisticRegression(max_iter=400),
        "forest": RandomForestClassifier(n_estimators=200, min_samples_leaf=8, random_state=seed),
        "tree": DecisionTreeClassifier(max_leaf_nodes=10, random_state=seed),
        "mlp": MLPClassifier([64], learning_rate_init=0.01, early_stopping=True, random_state=seed),
    }[classifier]
    model.fit(x, y)
    return model.predict_proba(t)[:, 1], model.predict(t) == 1


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("top", [3, None])
def test_equals_plain_scikit_learn(classifier, top):
    inside, outside = overfitted(0, examples=80)
    target = softmax(np.random.default_rng(1), 50, 5, 2.0)
    scores, predicted = plain_scikit_learn(classifier, inside, outside, target, top, seed=4)
    got = posterior_attack(inside, outside, target, classifier=classifier, top=top, seed=4)
    np.testing.assert_allclose(got.scores, scores, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(got.predicted, predicted)
    assert 0 < got.predicted.mean() < 1 and got.scores.min() >= 0 and got.scores.max() <= 1


def test_logistic_scores_by_hand():
    # Two classes, so p and 1 − p: both standardise to ±1 here, x = (±1, ∓1), and by symmetry the weights are (w, −w)
    # without an intercept. The penalised loss 4·log(1 + e^{−2w}) + w² has its minimum where 8/(1 + e^{2w}) = 2w.
    inside, outside = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.7, 0.3], [0.3, 0.7]])
    w = 0.5
    for _ in range(100):
        w -= (w - 4 / (1 + np.exp(2 * w))) / (1 + 8 * np.exp(2 * w) / (1 + np.exp(2 * w)) ** 2)
    got = posterior_attack(inside, outside, np.array([[0.1, 0.9], [0.7, 0.3], [0.2, 0.8]]))
    np.testing.assert_allclose(got.scores, 1 / (1 + np.exp([-2 * w, 2 * w, 0])), atol=1e-4)
    np.testing.assert_array_equal(got.predicted[:2], [True, False])


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("top", [1, 3, None])
def test_separable_posteriors_are_told_apart(classifier, top):
    inside, outside = separable(0)
    target, is_member = np.concatenate(separable(1)), np.arange(120) < 60
    got = posterior_attack(inside, outside, target, classifier=classifier, top=top)
    assert auc(got.scores, is_member) == 1
    np.testing.assert_array_equal(got.predicted, is_member)
    # A shadow whose non-members are the sure ones teaches the opposite.
    opposite = posterior_attack(outside, inside, target, classifier=classifier, top=top)
    assert auc(opposite.scores, is_member) == 0


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_null_posteriors_give_one_half(classifier):
    runs = 5 if classifier == "forest" else 30
    is_member, areas, right = np.arange(160) < 80, [], []
    for s in range(runs):
        rng = np.random.default_rng(s)
        inside, outside = overfitted(s, examples=60)  # the shadow leaks, the target does not
        target = softmax(rng, 160, 5, 2.0)
        got = posterior_attack(inside, outside, target, classifier=classifier)
        areas.append(auc(got.scores, is_member))
        right.append(np.mean(got.predicted == is_member))
    sd = np.sqrt(161 / (12 * 80 * 80))
    assert abs(np.mean(areas) - 0.5) < 4 * sd / np.sqrt(runs)
    assert abs(np.mean(right) - 0.5) < 4 * 0.5 / np.sqrt(160 * runs)


def test_a_shadow_that_does_not_leak_teaches_nothing():
    areas = []
    for s in range(40):
        rng = np.random.default_rng(s)
        inside, outside = softmax(rng, 60, 5, 2.0), softmax(rng, 60, 5, 2.0)
        target = np.concatenate([softmax(rng, 60, 5, 3.0), softmax(rng, 60, 5, 1.0)])
        areas.append(auc(posterior_attack(inside, outside, target).scores, np.arange(120) < 60))
    # The direction is a coin's: areas are far from one half either way, and one half on average.
    assert np.mean(np.abs(np.array(areas) - 0.5)) > 0.1
    assert abs(np.mean(areas) - 0.5) < 4 * np.std(areas) / np.sqrt(40)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_only_the_shadow_trains(classifier):
    inside, outside = overfitted(0)
    same = softmax(np.random.default_rng(1), 30, 5, 2.0)
    other = softmax(np.random.default_rng(2), 90, 5, 9.0)
    alone = posterior_attack(inside, outside, same, classifier=classifier)
    beside = posterior_attack(inside, outside, np.concatenate([other, same]), classifier=classifier)
    np.testing.assert_allclose(beside.scores[90:], alone.scores, rtol=0, atol=1e-12)
    changed = posterior_attack(*overfitted(3), same, classifier=classifier)
    assert np.max(np.abs(changed.scores - alone.scores)) > 1e-3


def test_the_standardisation_is_the_shadows_too():
    inside, outside = overfitted(0)
    fitted = fit_posterior_attack(inside, outside)
    scaler, model = fitted.pipeline[0], fitted.pipeline[-1]
    x = np.concatenate([slow_features(inside, 3), slow_features(outside, 3)])
    np.testing.assert_allclose(scaler.mean_, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaler.scale_, x.std(axis=0), rtol=1e-12)
    before = [a.copy() for a in (scaler.mean_, scaler.scale_, model.coef_, model.intercept_)]
    fitted.attack(softmax(np.random.default_rng(5), 50, 8, 9.0))
    for a, b in zip((scaler.mean_, scaler.scale_, model.coef_, model.intercept_), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_fit_serves_many_targets():
    inside, outside = overfitted(0)
    fitted = fit_posterior_attack(inside, outside, classifier="tree", top=2, seed=3)
    for s in range(3):
        target = softmax(np.random.default_rng(s), 20, 5, 2.0)
        want = posterior_attack(inside, outside, target, classifier="tree", top=2, seed=3)
        np.testing.assert_array_equal(fitted.attack(target).scores, want.scores)


def test_the_larger_side_is_drawn_from_by_the_seed():
    inside, outside = overfitted(0, examples=120)
    target = softmax(np.random.default_rng(1), 30, 5, 2.0)
    got = posterior_attack(inside[:40], outside, target, seed=7)
    chosen = balanced_indices(40, 120, seed=7)[1]
    want = posterior_attack(inside[:40], outside[chosen], target)
    np.testing.assert_array_equal(got.scores, want.scores)
    assert np.any(posterior_attack(inside[:40], outside, target, seed=8).scores != got.scores)
    # Balanced, and the intercept free of the penalty: scores of what it was fitted on average to one half.
    fitted = posterior_attack(inside[:40], outside, np.concatenate([inside[:40], outside[chosen]]), seed=7)
    assert fitted.scores.mean() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_seeds_repeat_and_classes_may_be_renamed(classifier):
    inside, outside = overfitted(0)
    target = softmax(np.random.default_rng(1), 30, 5, 2.0)
    first = posterior_attack(inside, outside, target, classifier=classifier, seed=2)
    again = posterior_attack(inside, outside, target[:, ::-1], classifier=classifier, seed=2)
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_array_equal(first.predicted, again.predicted)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize(("shadow_classes", "target_classes"), [(2, 10), (10, 2), (7, 4)])
def test_a_shadow_of_another_task_transfers(classifier, shadow_classes, target_classes):
    rng = np.random.default_rng(0)
    inside, outside = softmax(rng, 100, shadow_classes, 8.0), softmax(rng, 100, shadow_classes, 1.5)
    members, others = softmax(rng, 100, target_classes, 8.0), softmax(rng, 100, target_classes, 1.5)
    target = np.concatenate([members, others])
    got = posterior_attack(inside, outside, target, classifier=classifier)
    area = auc(got.scores, np.arange(200) < 100)
    # Ten classes' cut points lie below any posterior of two: the tree's documented limit.
    assert area == 0.5 if (classifier, target_classes) == ("tree", 2) else area > 0.75
    scores, predicted = plain_scikit_learn("logistic", inside, outside, target, 3, seed=0)
    if classifier == "logistic":
        np.testing.assert_allclose(got.scores, scores, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(got.predicted, predicted)
    # Classes that have no probability at all are classes that are not there.
    wider = np.pad(target, ((0, 0), (0, 3)))
    np.testing.assert_array_equal(
        posterior_attack(inside, outside, wider, classifier=classifier).scores, got.scores
    )


def test_adversary_3_needs_no_shadow():
    members, others = separable(0)
    target, is_member = np.concatenate([members, others]), np.arange(120) < 60
    scores = largest_posterior(target)
    assert auc(scores, is_member) == 1
    # A threshold learned on another model separates this one.
    elsewhere = np.concatenate(separable(1))
    threshold = best_threshold(largest_posterior(elsewhere), is_member)
    np.testing.assert_array_equal(scores >= threshold, is_member)
    null = [
        auc(largest_posterior(softmax(np.random.default_rng(s), 100, 5, 2.0)), np.arange(100) < 50)
        for s in range(100)
    ]
    assert abs(np.mean(null) - 0.5) < 4 * np.sqrt(101 / (12 * 50 * 50)) / 10


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_one_hot_votes_say_nothing(classifier):
    rng = np.random.default_rng(0)
    inside, outside, target = (np.eye(6)[rng.integers(0, 6, 40)] for _ in range(3))
    got = posterior_attack(inside, outside, target, classifier=classifier)
    assert np.ptp(got.scores) == 0 and tie_rate(got.scores) == 1
    assert auc(got.scores, np.arange(40) < 15) == 0.5
    if classifier in ("logistic", "tree"):
        # No evidence, and a tie calls nobody a member.
        assert got.scores[0] == 0.5 and not got.predicted.any()
    # Nor do they to a classifier that learned from whole posteriors.
    got = posterior_attack(*overfitted(0), target, classifier=classifier)
    assert tie_rate(got.scores) == 1
    assert tie_rate(largest_posterior(target)) == 1


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_an_ensembles_aggregate_is_a_posterior(classifier):
    def aggregates(seed, scale):
        rng = np.random.default_rng(seed)
        shards = np.stack([softmax(rng, 150, 5, scale) for _ in range(4)])
        votes = np.eye(5)[shards.argmax(axis=2)].mean(axis=0)
        return shards.mean(axis=0), votes

    for kind in (0, 1):  # mean posterior; shares of the votes, where a half to each of two classes ties
        inside, outside, members, others = (
            aggregates(s, scale)[kind] for s, scale in enumerate((6.0, 1.0, 6.0, 1.0))
        )
        if kind == 1:
            assert np.any(np.sum(inside == 0.5, axis=1) == 2)
        got = posterior_attack(inside, outside, np.concatenate([members, others]), classifier=classifier)
        area = auc(got.scores, np.arange(300) < 150)
        # The more sure the shards are, the more the mean says; votes are drawn alike for both, and say nothing.
        assert area > 0.6 if kind == 0 else abs(area - 0.5) < 4 * np.sqrt(301 / (12 * 150 * 150))
        if kind == 1:
            assert tie_rate(got.scores) > 0.99


def test_a_tree_ties_where_a_regression_does_not():
    inside, outside = overfitted(0)
    target = softmax(np.random.default_rng(1), 100, 5, 2.0)
    assert tie_rate(posterior_attack(inside, outside, target).scores) == 0
    tree = posterior_attack(inside, outside, target, classifier="tree")
    assert np.unique(tree.scores).size <= 10 and tie_rate(tree.scores) > 0.9


def test_tie_rate_by_hand():
    assert tie_rate(np.array([1.0, 2.0, 2.0, 3.0, 3.0, 3.0])) == 5 / 6
    assert tie_rate(np.arange(4)) == 0
    assert tie_rate(np.array([np.inf, np.inf])) == 1
    assert tie_rate(np.array([7.0])) == 0
    with pytest.raises(InputError, match="1 are NaN"):
        tie_rate(np.array([np.nan, 1.0]))
    with pytest.raises(InputError, match=r"shape \(0,\)"):
        tie_rate(np.zeros(0))


def test_a_result_is_not_changed_by_accident():
    got = posterior_attack(*overfitted(0), softmax(np.random.default_rng(1), 5, 5, 1.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.scores = np.zeros(5)


GOOD = np.full((4, 4), 0.25)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.full((3, 4), 0.2), "row 0 of NAME sums to 0.8"),
        (np.vstack([GOOD, [[0.5, 0.5, 0.0, 0.002]]]), "row 4 of NAME sums to 1.002"),
        (np.array([[3.0, 5.0, 2.0, 0.0]]), "row 0 of NAME sums to 10.*divide votes by their number"),
        (np.array([[1.1, -0.1, 0.0, 0.0]]), "row 0 of NAME holds -0.1"),
        (np.vstack([GOOD, [[np.nan, 0.5, 0.5, 0.0]]]), "row 4 of NAME is not finite"),
        (np.array([[np.inf, -np.inf, 1.0, 0.0]]), "row 0 of NAME is not finite"),
        (np.zeros((0, 4)), r"NAME has shape \(0, 4\)"),
        (np.ones((3, 1)), r"NAME has shape \(3, 1\).*columns 1 − p and p"),
    ],
)
def test_bad_posteriors_are_refused_by_name(bad, match):
    for function in (posterior_features, largest_posterior):
        with pytest.raises(InputError, match=match.replace("NAME", "posteriors")):
            function(bad)
    with pytest.raises(InputError, match=match.replace("NAME", "shadow_member")):
        posterior_attack(bad, GOOD, GOOD)
    with pytest.raises(InputError, match=match.replace("NAME", "shadow_nonmember")):
        posterior_attack(GOOD, bad, GOOD)
    with pytest.raises(InputError, match=match.replace("NAME", "target")):
        posterior_attack(GOOD, GOOD, bad)


def test_a_bad_row_is_found_in_a_later_block(monkeypatch):
    monkeypatch.setattr(posterior, "BLOCK_ELEMENTS", 8)
    bad = np.vstack([GOOD, [[0.5, 0.0, 0.0, 0.0]]])
    with pytest.raises(InputError, match="row 4 of posteriors sums to 0.5"):
        posterior_features(bad)


def test_sums_within_the_tolerance_pass():
    rows = np.array([[0.5, 0.4991], [0.5, 0.5009]])
    np.testing.assert_array_equal(posterior_features(rows), [[0.5, 0.4991], [0.5009, 0.5]])


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="top is 0"):
        posterior_features(GOOD, 0)
    with pytest.raises(InputError, match="top is -1"):
        posterior_attack(GOOD, GOOD, GOOD, top=-1)
    with pytest.raises(InputError, match="did you mean 'forest'"):
        posterior_attack(GOOD, GOOD, GOOD, classifier="forst")
    with pytest.raises(InputError, match="'logistic' is the default"):
        posterior_attack(GOOD, GOOD, GOOD, classifier="xyz")
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        posterior_features(np.full(4, 0.25))


def test_classes_that_do_not_fit_are_refused():
    wide = np.full((4, 5), 0.2)
    with pytest.raises(InputError, match="shadow_member has 4 classes and shadow_nonmember 5"):
        posterior_attack(GOOD, wide, GOOD)
    with pytest.raises(InputError, match="target has 5 classes and the shadow 4.*set top"):
        posterior_attack(GOOD, GOOD, wide, top=None)
    assert posterior_attack(GOOD, GOOD, wide).scores.shape == (4,)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_one_example_a_side_is_enough(classifier):
    got = posterior_attack(
        np.array([[0.9, 0.1]]), np.array([[0.6, 0.4]]), np.array([[0.95, 0.05]]), classifier=classifier
    )
    assert got.scores.shape == (1,) and 0 <= got.scores[0] <= 1


def test_fifty_thousand_examples_take_a_second_or_two():
    rng = np.random.default_rng(0)
    inside, outside, target = (softmax(rng, n, 10, 2.0) for n in (10_000, 10_000, 50_000))
    start = time.perf_counter()
    posterior_attack(inside, outside, target)
    assert time.perf_counter() - start < 5
