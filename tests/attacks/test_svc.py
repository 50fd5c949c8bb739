"""The SVC attack by hand, against scikit-learn on features from the definitions, and on forget sets of known kinds."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from sklearn.svm import SVC

from mu_jax.attacks import svc
from mu_jax.attacks.svc import FEATURES, SvcAttack, checked_rows, svc_attack
from mu_jax.config import InputError

REFUSED = (InputError, jaxtyping.TypeCheckError)


def kind(count, *logits):
    """Rows of the same logits; the label is always class 0."""
    return np.tile(np.array(logits, np.float32), (count, 1))


def setting(retain, forget, test, order=0):
    """Arguments of `svc_attack`, the three blocks shuffled among each other."""
    z = np.concatenate([retain, forget, test])
    place = np.random.default_rng(order).permutation(len(z))
    shuffled = np.empty_like(z)
    shuffled[place] = z
    a, b = len(retain), len(retain) + len(forget)
    return shuffled, np.zeros(len(z), int), {"retain": place[:a], "forget": place[a:b], "test": place[b:]}


def drawn(rng, count, scale):
    """Logits whose class 0 leads by `scale` on average; the larger, the more like a member."""
    return (rng.normal(size=(count, 4)) + scale * np.eye(4)[0]).astype(np.float32)


def test_by_hand():
    sure, unsure, wrong = (9.0, 0.0, 0.0), (0.2, 0.0, 0.0), (0.0, 9.0, 0.0)
    z, y, rows = setting(
        retain=kind(60, *sure),
        forget=np.concatenate([kind(5, *sure), kind(2, *unsure), kind(3, *wrong)]),
        test=np.concatenate([kind(30, *unsure), kind(20, *wrong)]),
    )
    got = svc_attack(z, y, **rows)
    assert tuple(got) == FEATURES
    assert got["confidence"].score == got["modified_entropy"].score == 0.5
    # The entropy takes the sure and wrong for members, since it does not look at the label.
    assert got["entropy"].score == 0.2
    # Right answers, the unsure among them, are those of members; wrong ones are not.
    assert got["correctness"].score == 0.3
    held_out = got["confidence"]
    assert (held_out.retain_nonmember, held_out.test_nonmember, held_out.accuracy) == (0, 1, 1)
    assert (held_out.trained, held_out.held_out) == (40, 10)


def test_accuracy_is_balanced():
    assert SvcAttack(0.1, 0.25, 0.75, 8, 2).accuracy == 0.75
    assert SvcAttack(0.1, 0.25, 0.25, 8, 2).accuracy == 0.5


def slow_features(z):
    """From the definitions, label 0, in float64."""
    z = np.float64(z)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    others = -(p[:, 1:] * np.log(1 - p[:, 1:])).sum(axis=1)
    return {
        "confidence": p[:, 0],
        "entropy": -(p * np.log(p)).sum(axis=1),
        "modified_entropy": others - (1 - p[:, 0]) * np.log(p[:, 0]),
        "correctness": 1.0 * (z[:, 0] == z.max(axis=1)),
    }


@pytest.mark.parametrize("cap", [30, 200])
def test_equals_scikit_learn_on_slow_features(cap):
    rng = np.random.default_rng(cap)
    z, y, rows = setting(drawn(rng, 150, 4.0), drawn(rng, 40, 2.5), drawn(rng, 90, 1.5), cap)
    got = svc_attack(z, y, **rows, max_each_side=cap, seed=3)
    trained, held_out = {30: (30, 30), 200: (72, 18)}[cap]
    stream = np.random.default_rng(3)
    inside = stream.choice(rows["retain"], trained + held_out, replace=False)
    outside = stream.choice(rows["test"], trained + held_out, replace=False)
    for name, value in slow_features(z).items():
        model = SVC(C=3, gamma="auto", kernel="rbf")
        model.fit(value[np.append(inside[:trained], outside[:trained]), None], [1] * trained + [0] * trained)

        def nonmember(at, value=value, model=model):
            return 1 - model.predict(value[at, None]).mean()

        want = [nonmember(rows["forget"]), nonmember(inside[trained:]), nonmember(outside[trained:])]
        attack = got[name]
        np.testing.assert_allclose([attack.score, attack.retain_nonmember, attack.test_nonmember], want)
        assert 0 < attack.score < 1
        assert (attack.trained, attack.held_out) == (trained, held_out)


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_a_forget_set_is_called_what_the_held_out_of_its_kind_are(scale):
    """Drawn like the test set (1.5), and drawn like the retained examples (4)."""
    off = {name: [] for name in FEATURES[:3]}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        z, y, rows = setting(drawn(rng, 300, 4.0), drawn(rng, 200, scale), drawn(rng, 300, 1.5))
        for name, attack in svc_attack(
            z, y, **rows, max_each_side=150, features=tuple(off), seed=seed
        ).items():
            same = attack.test_nonmember if scale == 1.5 else attack.retain_nonmember
            other = attack.retain_nonmember if scale == 1.5 else attack.test_nonmember
            assert abs(attack.score - other) > 0.2
            off[name].append(attack.score - same)
    for differences in off.values():
        error = np.std(differences, ddof=1) / np.sqrt(len(differences))
        assert error < 0.02
        assert abs(np.mean(differences)) < 4 * error


def test_where_nothing_differs_the_accuracy_is_a_guess():
    accuracies = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        z, y, rows = setting(*(drawn(rng, 150, 2.0) for _ in range(3)))
        accuracies.append(svc_attack(z, y, **rows, features=["confidence"], seed=seed)["confidence"].accuracy)
    assert abs(np.mean(accuracies) - 0.5) < 4 * 0.5 / np.sqrt(12 * 60)


def test_none_that_trained_the_classifier_judges_it(monkeypatch):
    seen = {"fit": [], "predict": []}

    class Spy(SVC):
        def fit(self, x, y):
            seen["fit"].append((x, y))
            return super().fit(x, y)

        def predict(self, x):
            seen["predict"].append(x)
            return super().predict(x)

    monkeypatch.setattr(svc, "SVC", Spy)
    rng = np.random.default_rng(0)
    z, y, rows = setting(drawn(rng, 200, 3.0), drawn(rng, 30, 2.0), drawn(rng, 100, 1.0))
    svc_attack(z, y, **rows, features=["confidence"], max_each_side=50)
    [(x, member)], (retained, tested, forgotten) = seen["fit"], seen["predict"]
    confidence = svc._values(z, y)["confidence"]
    assert (member.sum(), (~member).sum()) == (50, 50)
    assert (len(retained), len(tested), len(forgotten)) == (50, 50, 30)
    for part, of in [(x[member], "retain"), (x[~member], "test"), (retained, "retain"), (tested, "test")]:
        assert np.isin(part, confidence[rows[of]]).all()
    everything = np.concatenate([x, retained, tested])
    assert len(np.unique(everything)) == 200
    np.testing.assert_array_equal(forgotten[:, 0], confidence[rows["forget"]])


def test_the_seed_draws_and_the_choice_of_features_does_not():
    rng = np.random.default_rng(0)
    z, y, rows = setting(drawn(rng, 300, 3.0), drawn(rng, 50, 2.0), drawn(rng, 200, 1.5))
    options = rows | {"max_each_side": 40}
    got = svc_attack(z, y, **options)
    assert svc_attack(jnp.asarray(z), jnp.asarray(y), **options) == got
    one = svc_attack(z, y, **options, features=["entropy"])
    assert one == {"entropy": got["entropy"]}
    assert svc_attack(z, y, **options, seed=1) != got


def test_a_feature_of_one_value_is_a_guess():
    z, y, rows = setting(kind(20, 3, 0), kind(8, 3, 0), kind(20, 3, 0))
    for attack in svc_attack(z, y, **rows).values():
        assert attack.accuracy == 0.5
        assert attack.score == attack.retain_nonmember == attack.test_nonmember
        assert attack.score in (0, 1)


def test_logits_of_any_size_pass():
    z, y, rows = setting(kind(10, 3e38, -3e38), kind(4, 3e38, -3e38), kind(10, -3e38, 3e38))
    for name, attack in svc_attack(z, y, **rows).items():
        if name != "entropy":
            assert attack.score == 0 and attack.accuracy == 1


def test_two_examples_a_side_are_enough():
    z, y, rows = setting(kind(2, 9, 0), kind(1, 9, 0), kind(2, 0, 1))
    got = svc_attack(z, y, **rows)["confidence"]
    assert (got.score, got.accuracy, got.trained, got.held_out) == (0, 1, 1, 1)


Z = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 3
ROWS = {"retain": np.arange(4), "forget": np.arange(4, 8), "test": np.arange(8, 12)}


def broken(row, value):
    z = Z.copy()
    z[row] = value
    return z


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"logits": broken(6, np.nan)}, "1 of 12 rows of logits.*, 6 the first"),
        ({"logits": broken([2, 9], np.inf)}, "2 of 12 rows of logits"),
        ({"logits": Z[:, :1]}, "at least two classes|labels run"),
        ({"labels": Y + 1}, "labels run from 1 to 3, but expected 0 to 2"),
        ({"labels": Y - 1}, "labels run from -1 to 1"),
        ({"labels": Y[:5]}, r"labels \(5,\)"),
        ({"retain": np.arange(0)}, r"retain has shape \(0,\)"),
        ({"forget": np.arange(0)}, r"forget has shape \(0,\)"),
        ({"test": np.array([0.5, 1.0])}, "test has shape .* dtype float64"),
        ({"test": np.array([8, 12])}, "test has rows 8 to 12, but expected 0 to 11"),
        ({"test": np.array([-1, 9])}, "test has rows -1 to 9"),
        ({"forget": np.array([4, 8, 9])}, "2 rows stand more than once, 8 the first, in forget and test"),
        ({"retain": np.array([1, 1, 2])}, "1 rows .*, 1 the first, in retain and retain"),
        ({"retain": np.array([1])}, "retain has 1 rows and test 4, but expected two"),
        ({"test": np.array([9])}, "retain has 4 rows and test 1"),
        ({"features": ["confidense"]}, "did you mean 'confidence'"),
        ({"features": ["loss"]}, "'confidence' is the published one"),
        ({"features": []}, r"features is \[\]"),
        ({"features": "entropy"}, "features is 'entropy'"),
        ({"max_each_side": 0}, "max_each_side is 0"),
    ],
)
def test_bad_input_is_refused(options, match):
    arguments = {"logits": Z, "labels": Y} | ROWS | options
    with pytest.raises(REFUSED) as refusal:
        svc_attack(arguments.pop("logits"), arguments.pop("labels"), **arguments)
    if isinstance(refusal.value, InputError):
        refusal.match(match)


def test_rows_that_the_attack_does_not_read_may_be_anything():
    z = np.concatenate([Z, np.full((2, 3), np.nan, np.float32)])
    y = np.append(Y, [-1, 7])
    assert svc_attack(z, y, **ROWS) == svc_attack(Z, Y, **ROWS)


def test_rows_come_back_as_they_are():
    got = checked_rows(12, **ROWS)
    assert list(got) == ["retain", "forget", "test"]
    np.testing.assert_array_equal(got["forget"], [4, 5, 6, 7])
