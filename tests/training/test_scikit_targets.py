"""Trees fitted in bulk: scikit-learn's own answers, classes in their columns, and nothing that depends on workers."""

import jaxtyping
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from mu_jax.config import InputError
from mu_jax.data.embedded_tables import load
from mu_jax.training.scikit_targets import SCIKIT_TARGETS, fit_scikit

REFUSED = (InputError, jaxtyping.TypeCheckError)
SMALL = {"trees": 12}


@pytest.fixture(scope="module", name="wine")
def wine_fixture():
    dataset = load("wine")
    return dataset.x_train[:, 0, 0], dataset.y_train, dataset.x_test[:, 0, 0], dataset.y_test


def shards(labels, number, seed=0):
    return np.array_split(np.random.default_rng(seed).permutation(len(labels)), number)


def test_a_tree_by_hand():
    x = np.array([[0.0], [1], [2], [10], [11], [12]])
    labels = np.array([0, 0, 1, 1, 1, 1])
    queries = np.array([[-5.0], [1.4], [1.6], [99]])
    got = fit_scikit("decision_tree", x, labels, [np.arange(6), np.array([0, 1, 3])], queries, 2, [0, 1])
    np.testing.assert_array_equal(got[0], [[1, 0], [1, 0], [0, 1], [0, 1]])
    # Without row 2 the threshold lies between 1 and 10.
    np.testing.assert_array_equal(got[1], [[1, 0], [1, 0], [1, 0], [0, 1]])
    # Two leaves at most, of five examples of one class and one of the other.
    stump = fit_scikit(
        "decision_tree", x, np.array([0, 1, 0, 1, 1, 1]), [np.arange(6)], queries, 2, [0], max_leaves=2
    )
    np.testing.assert_allclose(stump[0], [[2 / 3, 1 / 3], [2 / 3, 1 / 3], [2 / 3, 1 / 3], [0, 1]])


@pytest.mark.parametrize("name", SCIKIT_TARGETS)
def test_equals_scikit_learn_with_the_published_settings(wine, name):
    x, y, queries, answers = wine
    parts = [np.arange(124), shards(y, 2)[0]]
    got = fit_scikit(name, x, y, parts, queries, 3, [4, 5])
    assert got.shape == (2, 54, 3) and got.dtype == np.float64
    for k, seed in enumerate((4, 5)):
        model = {
            "decision_tree": DecisionTreeClassifier(max_leaf_nodes=10, random_state=seed),
            "random_forest": RandomForestClassifier(n_estimators=500, min_samples_leaf=30, random_state=seed),
        }[name]
        expected = model.fit(x[parts[k]], y[parts[k]]).predict_proba(queries)
        np.testing.assert_array_equal(got[k], expected)
    assert np.mean(got[0].argmax(axis=1) == answers) > 0.8
    np.testing.assert_allclose(got.sum(axis=2), 1, rtol=1e-12)


@pytest.mark.parametrize("name", SCIKIT_TARGETS)
def test_neither_companions_nor_workers_change_a_model(wine, name):
    x, y, queries, _ = wine
    rows, seeds = shards(y, 3), [7, 8, 9]
    settings = SMALL | {"min_leaf": 2}
    alone = [
        fit_scikit(name, x, y, [rows[k]], queries, 3, [seeds[k]], **settings, workers=1)[0] for k in range(3)
    ]
    assert len({one.tobytes() for one in alone}) == 3
    for workers in (0, 1, 2):
        together = fit_scikit(name, x, y, rows, queries, 3, seeds, **settings, workers=workers)
        np.testing.assert_array_equal(together, alone)


def test_images_and_other_dtypes_are_read_as_the_numbers_they_are(wine):
    x, y, queries, _ = wine
    whole, asked = np.round(x).astype(np.uint16), np.round(queries).astype(np.uint16)
    got = fit_scikit("decision_tree", whole, y.astype(np.int64), shards(y, 2), asked, 3, [0, 0])
    same = fit_scikit("decision_tree", np.round(x), y, shards(y, 2), np.round(queries), 3, [0, 0])
    np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize("name", SCIKIT_TARGETS)
def test_a_class_that_is_absent_gets_no_probability_where_it_is_allowed(wine, name):
    x, y, queries, _ = wine
    without = [np.flatnonzero(y != 1), np.flatnonzero(y == 2), np.arange(124)]
    got = fit_scikit(name, x, y, without, queries, 4, [0, 1, 2], require_all_classes=False, **SMALL)
    np.testing.assert_array_equal(got[0, :, 1], 0)
    np.testing.assert_array_equal(got[1], np.tile([0.0, 0, 1, 0], (54, 1)))
    assert got[0, :, 0].max() > 0.5 and got[2, :, 1].max() > 0.5
    np.testing.assert_array_equal(got[:, :, 3], 0)
    np.testing.assert_allclose(got.sum(axis=2), 1, rtol=1e-12)
    with pytest.raises(InputError, match=r"class 1 is absent from the \d+ rows of model 0 \(a shard"):
        fit_scikit(name, x, y, without, queries, 3, [0, 1, 2])


X, Y, Q = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1]), np.zeros((3, 2))
GOOD = {
    "name": "decision_tree", "features": X, "labels": Y, "rows": [np.arange(6), np.arange(4)], "queries": Q,
    "num_classes": 2, "seeds": [0, 1],
}  # fmt: skip


def broken(value):
    x = X.copy()
    x[4, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "random_forrest"}, "did you mean 'random_forest'"),
        ({"name": "resnet18"}, "'resnet18', but expected one of decision_tree, random_forest; networks"),
        ({"features": broken(np.nan)}, "features hold 1 values that are not finite.* row 4 and column 1"),
        ({"features": broken(1e300)}, "features hold 1 values"),
        ({"queries": np.full((3, 2), np.inf)}, "queries hold 6 values that are not finite"),
        ({"queries": np.zeros((3, 3))}, r"features have shape \(6, 2\), queries \(3, 3\)"),
        ({"queries": np.zeros((0, 2))}, r"queries have shape \(0, 2\)"),
        ({"features": np.zeros((6, 1, 1, 2))}, "features have shape .*; flatten images"),
        ({"labels": Y[:5]}, r"labels \(5,\)"),
        ({"labels": Y + 1}, "labels run from 1 to 2, but expected 0 to 1"),
        ({"labels": Y - 1}, "labels run from -1 to 0"),
        ({"rows": []}, "rows of 0 models and 2 seeds"),
        ({"seeds": [0]}, "rows of 2 models and 1 seeds"),
        ({"seeds": [0, -1]}, r"seeds\[1\] is -1"),
        ({"seeds": [2**32, 0]}, r"seeds\[0\] is 4294967296"),
        ({"rows": [np.arange(6), np.arange(0)]}, r"rows\[1\] are none, but expected rows 0 to 5"),
        ({"rows": [np.array([0, 6]), np.arange(4)]}, r"rows\[0\] are 0 to 6"),
        ({"rows": [np.arange(6), np.array([-1, 2])]}, r"rows\[1\] are -1 to 2"),
        ({"rows": [np.arange(6), np.array([1, 3])]}, "class 0 is absent from the 2 rows of model 1"),
        ({"num_classes": 3}, "class 2 is absent from the 6 rows of model 0"),
        ({"max_leaves": 1}, "max_leaves is 1, but expected 2"),
        ({"trees": 0}, "trees is 0"),
        ({"min_leaf": 0}, "min_leaf is 0"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_bad_input_is_refused(changes, message):
    arguments = GOOD | changes
    with pytest.raises(REFUSED) as refusal:
        fit_scikit(**arguments)
    if isinstance(refusal.value, InputError):
        refusal.match(message)
    assert fit_scikit(**GOOD).shape == (2, 3, 2)
