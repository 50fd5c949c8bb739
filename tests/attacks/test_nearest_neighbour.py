"""MIA-NN by hand, against scikit-learn in loops, and on models that never saw the class or only lost its column."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_ind
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mu_jax.attacks import nearest_neighbour
from mu_jax.attacks.nearest_class import NearestClass, nearest_class
from mu_jax.attacks.nearest_neighbour import NearestNeighbourAttack, nearest_neighbour_attack
from mu_jax.config import InputError

REFUSED = (InputError, jaxtyping.TypeCheckError)


def labels_and_rows(each, classes=4):
    """`each` training images of every class, then as many test images."""
    y = np.tile(np.repeat(np.arange(classes), each), 2)
    return y, {"train": np.arange(y.size // 2), "test": np.arange(y.size // 2, y.size)}


def drawn(rng, models, y, away=1.0):
    """Logits of models that take class 0 for class 1, but for `away` in the mean of two logits.

    Inputs differ alike for all models, and each model has a shift of its own for every class and logit.
    """
    place = 3.0 * np.eye(4)[np.maximum(y, 1)]
    place[y == 0] -= away * np.array([0.0, 1.0, -1.0, 0.0])
    place = place + np.random.default_rng(0).normal(size=place.shape) * 0.7
    own = rng.normal(size=(models, 4, 4)) * 0.3
    return (place + own[:, y] + rng.normal(size=(models, *place.shape)) * 0.7).astype(np.float32)


def test_nearest_class_by_hand():
    shares = np.array(
        [[[0.9, 0.05, 0.05, 0.0], [0.1, 0.1, 0.1, 0.7]], [[0.2, 0.2, 0.5, 0.1], [0.1, 0.1, 0.7, 0.1]]]
    )
    # Class 0 is forgotten; of its one input the two models say (½, ½, 0) and (¼, ⅝, ⅛) without it.
    got = nearest_class(np.log(shares + 1e-30), np.array([0, 3]), 0, np.array([0, 1]))
    assert got.label == 2
    np.testing.assert_allclose(got.posterior, [0, 0.375, 0.5625, 0.0625])
    # What the models leave in the forgotten column does not matter, however large.
    z = np.log(shares + 1e-30)
    z[..., 0] += 1e4
    np.testing.assert_allclose(
        nearest_class(z, np.array([0, 3]), 0, np.array([0, 1])).posterior, got.posterior
    )
    # Nor do other rows, or inputs of other classes.
    np.testing.assert_array_equal(
        nearest_class(np.log(shares + 1e-30), np.array([0, 3]), 0, np.array([0])).posterior, got.posterior
    )
    assert nearest_class(np.log(shares + 1e-30), np.array([0, 3]), 3, np.array([1, 0])).label == 2


def slow_attack(train_z, test_z, y, train, test, other, kind, forget=0):
    """One classifier, from the documentation; sets are small enough to be used whole."""

    def features(z, rows):
        kept = np.delete(np.float64(z[rows]), forget, axis=1)
        e = np.exp(kept)
        return kept if kind == "logits" else e / e.sum(axis=1, keepdims=True)

    train, test = (rows[np.isin(y[rows], (forget, other))] for rows in (train, test))
    scaler = StandardScaler().fit(features(train_z, train))
    classifier = SVC(kernel="rbf", C=1.0, gamma="scale")
    classifier.fit(scaler.transform(features(train_z, train)), y[train] == forget)
    called = classifier.predict(scaler.transform(features(test_z, test)))
    return balanced_accuracy_score(y[test] == forget, called)


@pytest.mark.parametrize("trained_on", ["own", "retrained"])
@pytest.mark.parametrize("against", ["nearest", "every"])
@pytest.mark.parametrize("kind", ["logits", "posteriors"])
def test_equals_scikit_learn_in_loops(kind, against, trained_on):
    rng = np.random.default_rng(1)
    y, rows = labels_and_rows(25)
    # Fewer of class 0 among the test images: the accuracy is balanced.
    rows["test"] = rows["test"][10:]
    retrained, z = drawn(rng, 3, y), drawn(rng, 2, y, 2.0)
    got = nearest_neighbour_attack(
        z, retrained, y, **rows, forget_class=0, features=kind, against=against, trained_on=trained_on
    )
    others = [1] if against == "nearest" else [1, 2, 3]
    np.testing.assert_array_equal(got.classes, others)
    assert got.nearest.label == 1

    def one(model, other, attackers):
        sources = attackers if trained_on == "retrained" else [model]
        return np.mean([slow_attack(a, model, y, rows["train"], rows["test"], other, kind) for a in sources])

    want = [[one(model, other, list(retrained)) for other in others] for model in z]
    np.testing.assert_allclose(got.accuracy_by_class, want, atol=1e-12)
    want = [
        [one(model, other, list(np.delete(retrained, r, axis=0))) for other in others]
        for r, model in enumerate(retrained)
    ]
    np.testing.assert_allclose(got.retrained_accuracy_by_class, want, atol=1e-12)
    assert len(np.unique(want)) > 1
    np.testing.assert_array_equal(got.train_images, [25] * len(others))
    np.testing.assert_array_equal(got.test_images, [[15] * len(others), [25] * len(others)])
    count = len(others) * (3 if trained_on == "retrained" else 1)
    assert got.resolution == pytest.approx(1 / 50 / count)


def test_standing_by_hand():
    attack = NearestNeighbourAttack(
        nearest=NearestClass(1, np.array([0.0, 1, 0])),
        classes=np.array([1, 2]),
        accuracy_by_class=np.array([[0.9, 0.7], [0.5, 0.5]]),
        retrained_accuracy_by_class=np.array([[0.5, 0.7], [0.6, 0.8], [0.7, 0.9]]),
        train_images=np.array([8, 8]),
        test_images=np.array([[8, 8], [8, 8]]),
        resolution=1e-3,
    )
    np.testing.assert_allclose(attack.accuracy, [0.8, 0.5])
    np.testing.assert_allclose(attack.retrained_accuracy, [0.6, 0.7, 0.8])
    assert attack.spread == pytest.approx(0.1)
    np.testing.assert_allclose(attack.leak, [0.1, 0.2])
    np.testing.assert_allclose(attack.z, [1, -2])
    np.testing.assert_allclose(attack.retrained_leak, [0.15, 0, 0.15])
    np.testing.assert_allclose(
        attack.retrained_z, [-0.15 / 0.05**0.5 / 0.1**0.5, 0, 0.15 / 0.05**0.5 / 0.1**0.5], atol=1e-12
    )


def test_retrained_models_that_agree_leave_a_finite_z():
    rng = np.random.default_rng(2)
    y, rows = labels_and_rows(10)
    one = drawn(rng, 1, y, 8.0)
    got = nearest_neighbour_attack(
        drawn(rng, 1, y, 0.0), np.repeat(one, 3, axis=0), y, **rows, forget_class=0
    )
    assert got.spread == 0
    np.testing.assert_array_equal(got.retrained_z, 0)
    assert got.z[0] == pytest.approx((got.accuracy[0] - got.retrained_accuracy[0]) / 0.05)


def test_models_are_asked_the_same_and_do_not_meet_and_threads_do_not_matter(monkeypatch):
    rng = np.random.default_rng(3)
    y, rows = labels_and_rows(30)
    z, retrained = drawn(rng, 3, y), drawn(rng, 4, y)
    options = rows | {"forget_class": 0, "max_each_side": 12, "against": "every", "seed": 5}
    got = nearest_neighbour_attack(z, retrained, y, **options)
    assert got.train_images.max() == got.test_images.max() == 12
    # Retrained models and models under test get the same classifier of the same images.
    swapped = nearest_neighbour_attack(retrained[:3], np.concatenate([z, retrained[3:]]), y, **options)
    np.testing.assert_array_equal(swapped.accuracy_by_class, got.retrained_accuracy_by_class[:3])
    np.testing.assert_array_equal(swapped.retrained_accuracy_by_class[:3], got.accuracy_by_class)
    given = nearest_neighbour_attack(jnp.asarray(z), jnp.asarray(retrained), jnp.asarray(y), **options)
    np.testing.assert_array_equal(given.accuracy_by_class, got.accuracy_by_class)
    monkeypatch.setattr(nearest_neighbour, "usable_cores", lambda: 1)
    alone = nearest_neighbour_attack(z[1:2], retrained, y, **options)
    np.testing.assert_array_equal(alone.accuracy_by_class[0], got.accuracy_by_class[1])
    other = nearest_neighbour_attack(z, retrained, y, **options | {"seed": 6})
    assert np.any(other.accuracy_by_class != got.accuracy_by_class)


def test_the_forgotten_column_and_rows_of_other_classes_are_not_read():
    rng = np.random.default_rng(4)
    y, rows = labels_and_rows(12)
    z, retrained = drawn(rng, 1, y), drawn(rng, 3, y)
    got = nearest_neighbour_attack(z, retrained, y, **rows, forget_class=0)
    changed = z.copy()
    changed[..., 0] = rng.normal(size=z.shape[:2]) * 100
    changed[:, y > 1] = np.nan
    again = nearest_neighbour_attack(changed, retrained, y, **rows, forget_class=0)
    np.testing.assert_array_equal(again.accuracy, got.accuracy)
    # A constant on all logits of an input moves logits, and no posterior.
    lifted = z + np.float32(20) * rng.normal(size=(*z.shape[:2], 1)).astype(np.float32)
    options = rows | {"forget_class": 0}
    same = [nearest_neighbour_attack(a, retrained, y, **options, features="posteriors") for a in (z, lifted)]
    np.testing.assert_array_equal(same[0].accuracy, same[1].accuracy)
    assert nearest_neighbour_attack(lifted, retrained, y, **options).accuracy != got.accuracy


def test_the_smaller_class_sets_how_many_a_classifier_learns_from():
    rng = np.random.default_rng(5)
    y, rows = labels_and_rows(20)
    z = drawn(rng, 4, y)
    rows["train"] = rows["train"][13:]
    got = nearest_neighbour_attack(z[:1], z[1:], y, **rows, forget_class=0)
    np.testing.assert_array_equal(got.train_images, [7])


@pytest.mark.parametrize(("trained_on", "repetitions"), [("own", 120), ("retrained", 60)])
def test_null_one_more_retrained_model_stands_among_the_others(trained_on, repetitions):
    """|z|/√(1 + 1/R) exceeds Student's 95% quantile about as often as it should."""
    y, rows = labels_and_rows(60)
    bound = student.ppf(0.975, 4) * np.sqrt(1 + 1 / 5)
    outside, signs = [], []
    for seed in range(repetitions):
        z = drawn(np.random.default_rng(seed), 6, y)
        got = nearest_neighbour_attack(z[:1], z[1:], y, **rows, forget_class=0, trained_on=trained_on)
        assert 0.6 < got.retrained_accuracy.mean() < 0.95
        outside.append(abs(got.z[0]) > bound)
        signs.append(got.z[0])
    assert np.mean(outside) < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / repetitions)
    assert abs(np.median(signs)) < 4 / np.sqrt(repetitions)


@pytest.mark.parametrize("kind", ["logits", "posteriors"])
def test_power_a_model_that_keeps_the_class_apart_is_found(kind):
    """100 images a class, 8 retrained models: their accuracy is 0.77 ± 0.06, the original's 0.98; 8 in 10 are found."""
    y, rows = labels_and_rows(100)
    bound = student.ppf(0.975, 7) * np.sqrt(1 + 1 / 8)
    found, accuracies = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        got = nearest_neighbour_attack(
            drawn(rng, 1, y, 3.0), drawn(rng, 8, y), y, **rows, forget_class=0, features=kind
        )
        found.append(got.z[0] > bound)
        accuracies.append((got.retrained_accuracy.mean(), got.accuracy[0]))
    np.testing.assert_allclose(np.mean(accuracies, axis=0), [0.77, 0.98], atol=0.02)
    # By chance 1 in 40.
    assert np.mean(found) >= 0.7


def test_digits_retrained_models_are_the_null(digit_models):
    """Each of the retrained in place of the unlearned one, against the others: 126 images to learn from, 48 to test."""
    models = digit_models
    z = models.retrained
    rows = {"train": models.train, "test": models.test}
    got = nearest_neighbour_attack(z[:1], z, models.labels, **rows, forget_class=8, against="every")
    assert got.nearest.label in (1, 9)
    bound = student.ppf(0.995, len(z) - 2) * np.sqrt(1 + 1 / (len(z) - 1))
    assert np.mean(np.abs(got.retrained_z) > bound) <= 0.1
    assert got.accuracy[0] == got.retrained_accuracy[0]


def test_digits_originals_without_their_column_are_found(digit_models):
    """The alarm, at 6 originals against 10 retrained models: one alone is seldom sure."""
    models = digit_models
    got = nearest_neighbour_attack(
        models.original,
        models.retrained,
        models.labels,
        train=models.train,
        test=models.test,
        forget_class=8,
        against="every",
    )
    assert got.z.mean() > 1.5
    assert ttest_ind(got.accuracy, got.retrained_accuracy, equal_var=False).pvalue < 0.01


Y, ROWS = labels_and_rows(3)
Z = np.random.default_rng(6).normal(size=(3, 24, 4)).astype(np.float32)


def broken(row):
    z = Z.copy()
    z[1, row] = np.inf
    return z


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"forget_class": 4}, "forget_class is 4, but expected 0 to 3"),
        ({"forget_class": -1}, "forget_class is -1"),
        ({"labels": np.maximum(Y, 1)}, "expected one of the labels, 1, 2, 3"),
        ({"retrained_logits": Z[:2]}, "there are 2 retrained models, too few for a spread"),
        ({"logits": Z[..., :2], "retrained_logits": Z[..., :2]}, "nothing to be near to"),
        ({"logits": Z[..., :3]}, "logits have 3 classes and retrained_logits 4"),
        ({"logits": Z[0]}, "give a single model's logits"),
        ({"labels": Y[:5]}, r"labels \(5,\)"),
        ({"logits": broken(0)}, r"1 of \d+ rows of logits\[1\] .*, 0 the first"),
        ({"retrained_logits": broken(1)}, r"rows of retrained_logits\[1\]"),
        ({"test": ROWS["test"][3:]}, "test has no images of class 0, the one to forget"),
        ({"train": ROWS["train"][3:]}, "train has no images of class 0, the one to forget"),
        (
            {"train": ROWS["train"][:3], "against": "every"},
            "train has no images of class 1, which it is told from",
        ),
        ({"test": ROWS["test"][[0, 3, 6]], "against": "every"}, "test has no images of class 3"),
        ({"test": ROWS["train"]}, "12 rows stand more than once"),
        ({"train": np.array([0, 99])}, "train has rows 0 to 99"),
        ({"features": "logit"}, "did you mean 'logits'"),
        ({"against": "all"}, "against is 'all', but expected 'nearest' or 'every'"),
        ({"trained_on": "owns"}, "did you mean 'own'"),
        ({"max_each_side": 1}, "max_each_side is 1"),
        ({"penalty": 0.0}, "penalty is 0.0"),
    ],
)
def test_bad_input_is_refused(options, match):
    arguments = {"logits": Z, "retrained_logits": Z, "labels": Y, "forget_class": 0} | ROWS | options
    given = [arguments.pop(name) for name in ("logits", "retrained_logits", "labels")]
    with pytest.raises(REFUSED) as refusal:
        nearest_neighbour_attack(*given, **arguments)
    if isinstance(refusal.value, InputError):
        refusal.match(match)
