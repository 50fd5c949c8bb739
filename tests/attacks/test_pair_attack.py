"""The attacker's classifiers: by hand, against an independent fit, their settings, and where nothing is to be found."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from mu_jax.attacks import pair_attack
from mu_jax.attacks.leaks import construct_features
from mu_jax.attacks.pair_attack import CLASSIFIERS, classical_features, fit_pair_attack
from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc


@pytest.fixture(name="fewer_trees")
def fewer_trees_fixture(monkeypatch):
    """500 trees take half a second a forest."""
    whole = pair_attack.RandomForestClassifier
    monkeypatch.setattr(
        pair_attack, "RandomForestClassifier", lambda **options: whole(**options | {"n_estimators": 25})
    )


def drawn(seed, pairs=120, lift=1.5, columns=3):
    """Features whose first column is higher for members."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(pairs) % 2 == 0)
    features = rng.normal(size=(pairs, columns))
    features[:, 0] += lift * member
    return features, member


def test_a_tree_says_the_share_of_members_in_a_leaf():
    x = np.array([[0.0]] * 4 + [[1.0]] * 5)
    member = np.array([True, False, False, False, True, True, True, True, False])
    attack = fit_pair_attack(x, member, "decision_tree", 0)
    np.testing.assert_allclose(
        attack.confidence(np.array([[-3.0], [0.4], [0.6], [9.0]])), [0.25, 0.25, 0.8, 0.8]
    )


def test_logistic_regression_equals_an_independent_fit():
    x, member = drawn(0)
    asked, _ = drawn(1)
    attack = fit_pair_attack(50 * x + 7, member, "logistic_regression", 0)
    mean, spread = x.mean(axis=0), x.std(axis=0)

    def margin(weights, rows):
        return (rows - mean) / spread @ weights[1:] + weights[0]

    def loss(weights):
        """Penalised by ½‖w‖², the intercept left out: scikit-learn's default."""
        z = np.where(member, 1, -1) * margin(weights, x)
        return np.logaddexp(0, -z).sum() + 0.5 * np.sum(weights[1:] ** 2)

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    want = 1 / (1 + np.exp(-margin(best, asked)))
    np.testing.assert_allclose(attack.confidence(50 * asked + 7), want, atol=2e-3)


@pytest.mark.parametrize(("pairs", "leaf"), [(700, 30), (160, 8), (12, 1)])
def test_settings_are_the_published_ones(pairs, leaf):
    x, member = drawn(0, pairs)
    forest = fit_pair_attack(x, member, "random_forest", 0).fitted
    assert len(forest.estimators_) == 500
    for tree in forest.estimators_[:20]:
        # Of all nodes, since a leaf is the smallest.
        assert tree.tree_.n_node_samples.min() >= 1
        assert tree.tree_.weighted_n_node_samples.min() >= leaf
    assert any(tree.tree_.node_count > 1 for tree in forest.estimators_)
    assert fit_pair_attack(x, member, "decision_tree", 0).fitted.get_n_leaves() <= 10
    logistic = fit_pair_attack(x, member, "logistic_regression", 0).fitted[-1]
    assert (logistic.solver, logistic.max_iter) == ("lbfgs", 400)
    mlp = fit_pair_attack(x, member, "mlp", 0).fitted[-1]
    assert (mlp.early_stopping, mlp.learning_rate_init) == (pairs > 12, 0.01)


@pytest.mark.usefixtures("fewer_trees")
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_it_finds_what_is_there_and_nothing_else(classifier):
    found, nothing = [], []
    for seed in range(8):
        x, member = drawn(seed)
        asked, truth = drawn(100 + seed)
        attack = fit_pair_attack(x, member, classifier, seed)
        confidence = attack.confidence(asked)
        assert confidence.dtype == np.float64 and confidence.min() >= 0 and confidence.max() <= 1
        found.append(auc(confidence, truth))
        shuffled = np.random.default_rng(seed).permutation(member)
        nothing.append(auc(fit_pair_attack(x, shuffled, classifier, seed).confidence(asked), truth))
    assert np.mean(found) > 0.66  # the first column alone has 0.86
    error = np.std(nothing, ddof=1) / np.sqrt(len(nothing))
    assert abs(np.mean(nothing) - 0.5) < 4 * error


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_seed_decides_all(classifier):
    x, member = drawn(0)
    asked, _ = drawn(1)
    first, again = (fit_pair_attack(x, member, classifier, 5).confidence(asked) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    if classifier in ("random_forest", "mlp"):
        assert np.any(fit_pair_attack(x, member, classifier, 6).confidence(asked) != first)


@pytest.mark.parametrize("classifier", ["logistic_regression", "mlp"])
def test_units_of_features_do_not_matter(classifier):
    """Differences of posteriors may be of the order of 10⁻⁴."""
    x, member = drawn(0)
    first = fit_pair_attack(x, member, classifier, 0).confidence(x)
    scaled = fit_pair_attack(1e-4 * x, member, classifier, 0).confidence(1e-4 * x)
    np.testing.assert_allclose(scaled, first, atol=1e-6)


def test_what_has_not_converged_is_no_warning(monkeypatch):
    x, member = drawn(0, pairs=14)
    whole = pair_attack.MLPClassifier
    monkeypatch.setattr(pair_attack, "MLPClassifier", lambda **options: whole(max_iter=3, **options))
    with pytest.warns(ConvergenceWarning):
        pair_attack._classifier("mlp", 7, 0).fit(x, member)
    fit_pair_attack(x, member, "mlp", 0)


@pytest.mark.usefixtures("fewer_trees")
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_features_of_one_value_are_a_guess(classifier):
    x, member = np.full((60, 2), 0.3), np.arange(60) % 2 == 0
    confidence = fit_pair_attack(x, member, classifier, 0).confidence(x[:9])
    # A bootstrap of the pairs, and a validation set, move a forest's and an MLP's share of members.
    np.testing.assert_allclose(confidence, 0.5, atol=0.1)
    assert len(np.unique(confidence)) == 1


def test_the_classical_attack_reads_the_posteriors_as_they_are():
    before = np.array([[0.7, 0.1, 0.2], [0.2, 0.5, 0.3]], np.float32)
    got = classical_features(before)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, before)
    with pytest.raises(InputError, match="1 of 2 rows of before do not sum to one, row 1"):
        classical_features(np.array([[0.7, 0.3], [0.7, 0.7]]))


def test_pairs_of_any_number_are_asked():
    before = np.full((30, 2), 0.5)
    after = before + np.linspace(-0.3, 0.3, 30)[:, None] * [1, -1]
    x = construct_features(before, after, "direct_concat")
    attack = fit_pair_attack(x, np.arange(30) < 15, "decision_tree", 0)
    assert attack.confidence(x[:0]).shape == (0,)
    assert attack.confidence(x[:1]).shape == (1,)


X, MEMBER = drawn(0, pairs=20)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"classifier": "desicion_tree"},
            "'desicion_tree', but expected one of .* did you mean 'decision_tree'",
        ),
        ({"classifier": "svm"}, "'random_forest' is a good first one"),
        ({"is_member": MEMBER[:7]}, r"is_member has dtype bool and shape \[7\], but expected bool\[20\]"),
        ({"is_member": np.arange(20) == 3}, "1 of 20 shadow pairs are of deleted members, but expected two"),
        ({"is_member": np.ones(20, bool)}, "20 of 20 shadow pairs"),
        (
            {"features": np.where(np.arange(20) == 4, np.nan, 1.0)[:, None]},
            "1 of 20 rows of features, row 4 the first",
        ),
        ({"features": np.zeros((20, 0))}, r"features have shape \[20, 0\]"),
    ],
)
def test_bad_input_is_refused(change, match):
    arguments = {"features": X, "is_member": MEMBER, "classifier": "decision_tree", "seed": 0} | change
    with pytest.raises(Exception) as refusal:
        fit_pair_attack(**arguments)
    assert type(refusal.value).__name__ in ("InputError", "TypeCheckError")
    if isinstance(refusal.value, InputError):
        refusal.match(match)


def test_other_features_than_were_learned_are_refused():
    attack = fit_pair_attack(X, MEMBER, "decision_tree", 0)
    with pytest.raises(InputError, match="features have 2 columns, but expected the 3 that"):
        attack.confidence(X[:, :2])
