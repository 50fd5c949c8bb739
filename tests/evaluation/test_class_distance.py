"""Distances to retrained models by hand, from the definitions in loops, and where a model is one more retrained one."""

import math

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.evaluation.class_distance import confusion, kl_to_retrained, total_variation

REFUSED = (InputError, jaxtyping.TypeCheckError)


def posterior(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def variation(p, q):
    return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean_of(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def slow(distance, z, retrained, drop):
    """[to_mean, to_each, retrained_to_mean, retrained_to_each], an input and a model at a time."""
    if drop is not None:
        z, retrained = np.delete(z, drop, -1), np.delete(retrained, drop, -1)
    n, r = len(z), len(retrained)
    p = [posterior(row) for row in z]
    q = [[posterior(row) for row in model] for model in retrained]
    rest = [[mean_of([q[s][i] for s in range(r) if s != k]) for i in range(n)] for k in range(r)]
    to_mean = np.mean([[distance(p[i], rest[k][i]) for i in range(n)] for k in range(r)])
    to_each = np.mean([[distance(p[i], q[k][i]) for i in range(n)] for k in range(r)])
    own = [np.mean([distance(q[k][i], rest[k][i]) for i in range(n)]) for k in range(r)]
    pairs = [
        np.mean([[distance(q[k][i], q[s][i]) for i in range(n)] for s in range(r) if s != k])
        for k in range(r)
    ]
    return [to_mean, to_each, own, pairs]


def test_by_hand():
    z = np.log([[0.75, 0.25], [0.5, 0.5]])
    retrained = np.log([[[0.5, 0.5], [0.5, 0.5]], [[0.25, 0.75], [0.5, 0.5]]])
    got = total_variation(z, retrained)
    assert got.to_mean == got.to_each == pytest.approx((0.25 + 0.5) / 2 / 2)
    np.testing.assert_allclose(got.retrained_to_mean, [0.125, 0.125])
    assert got.floor == pytest.approx(0.125)
    kl = kl_to_retrained(z, retrained)
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    assert kl.to_mean == kl.to_each == pytest.approx((first + second) / 4)
    assert kl.retrained_to_mean[0] == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2)


@pytest.mark.parametrize("drop", [None, 0, 3])
@pytest.mark.parametrize(("ours", "theirs"), [(total_variation, variation), (kl_to_retrained, divergence)])
def test_equals_the_definition_in_loops(ours, theirs, drop):
    rng = np.random.default_rng(0)
    z, retrained = rng.normal(size=(6, 4)) * 2, rng.normal(size=(5, 6, 4)) * 2
    got, want = ours(z, retrained, drop=drop), slow(theirs, z, retrained, drop)
    np.testing.assert_allclose([got.to_mean, got.to_each], want[:2])
    np.testing.assert_allclose([got.retrained_to_mean, got.retrained_to_each], want[2:])
    assert got.floor == pytest.approx(np.mean(want[2]))


def test_bounds_constants_and_order_do_not_matter():
    rng = np.random.default_rng(1)
    z, retrained = rng.normal(size=(20, 5)), rng.normal(size=(4, 20, 5))
    for distance in (total_variation, kl_to_retrained):
        got = distance(z, retrained)
        again = distance(z + rng.normal(size=(20, 1)), retrained[::-1])
        np.testing.assert_allclose([again.to_mean, again.to_each], [got.to_mean, got.to_each])
        assert 0 < got.to_mean < got.to_each
        assert distance(z, np.stack([z, z, z])).to_mean == pytest.approx(0, abs=1e-12)
        given = distance(jnp.asarray(z, jnp.float32), jnp.asarray(retrained, jnp.float32))
        assert given.to_mean == pytest.approx(got.to_mean, rel=1e-5)
    far = np.tile([50.0, 0, 0, 0, 0], (20, 1))
    assert total_variation(far, np.stack([far[:, ::-1]] * 2)).to_mean == pytest.approx(1)
    assert kl_to_retrained(far, np.stack([far[:, ::-1]] * 2)).to_mean == pytest.approx(50)


def test_any_finite_logits_have_finite_distances():
    z = np.array([[3e38, -3e38, 0]], np.float32)
    assert total_variation(z, np.stack([z[:, ::-1]] * 2)).to_mean == 1
    assert 0 < kl_to_retrained(z, np.stack([z[:, ::-1]] * 2)).to_mean < np.inf


def drawn(rng, models, forgets=0.0):
    """Models that mix up the inputs of class 0 with class 1, each in its own way; `forgets` is class 0's own logit."""
    z = np.array([forgets, 3.0, 1.0, 0.0]) + rng.normal(size=(models, 1, 4)) * 0.5
    return z + rng.normal(size=(models, 60, 4))


@pytest.mark.parametrize("distance", [total_variation, kl_to_retrained])
def test_one_more_retrained_model_lies_at_the_floor_and_the_original_far_above_it(distance):
    rng = np.random.default_rng(2)
    above, outside = [], 0
    for _ in range(150):
        z, original = drawn(rng, 6, -4.0), drawn(rng, 1, 12.0)[0]
        got = distance(z[0], z[1:])
        above.append(got.to_mean - got.floor)
        outside += got.to_mean > got.retrained_to_mean.max()
        assert distance(original, z[1:]).to_mean > 2 * got.retrained_to_mean.max()
    error = np.std(above, ddof=1) / np.sqrt(len(above))
    assert abs(np.mean(above)) < 4 * error
    # The farthest of six equals is each of them as often.
    assert abs(outside / 150 - 1 / 6) < 4 * np.sqrt(5 / 36 / 150)


def test_confusion_by_hand():
    z = np.array([[1, 2, 0], [3, 2, 0], [0, 5, 5], [9, 1, 2.0]])
    np.testing.assert_array_equal(confusion(z), [0.5, 0.5, 0])
    np.testing.assert_array_equal(confusion(z, drop=0), [0, 0.75, 0.25])
    np.testing.assert_array_equal(confusion(np.stack([z, z[:, ::-1]])), [[0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    rng = np.random.default_rng(3)
    many = rng.normal(size=(2, 3, 50, 7)).astype(np.float32)
    np.testing.assert_allclose(confusion(many).sum(axis=-1), 1)
    assert confusion(many).shape == (2, 3, 7)


def test_the_arguments_stay_as_they_were():
    z = np.random.default_rng(4).normal(size=(5, 4))
    before = z.copy()
    confusion(z, drop=1)
    total_variation(z, np.stack([z, z]), drop=1)
    np.testing.assert_array_equal(z, before)


Z = np.random.default_rng(5).normal(size=(4, 3))
BAD = np.where(np.arange(3) == 1, np.nan, Z)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((Z, np.stack([Z])), "there is 1 retrained model"),
        ((Z, np.stack([Z[:2], Z[:2]])), r"retrained_logits \(2, 2, 3\)"),
        ((Z, Z), r"retrained_logits \(4, 3\)"),
        ((BAD, np.stack([Z, Z])), "4 rows of logits are not finite"),
        ((Z, np.stack([Z, BAD])), "4 rows of retrained_logits are not finite"),
        ((Z[:, :1], np.stack([Z, Z])[:, :, :1]), "two classes at least"),
        ((Z, np.stack([Z, Z]), 3), "drop is 3 of 3 classes"),
        ((Z, np.stack([Z, Z]), -1), "drop is -1"),
        ((Z[:, :2], np.stack([Z, Z])[:, :, :2], 0), "drop is 0 of 2 classes"),
    ],
)
@pytest.mark.parametrize("distance", [total_variation, kl_to_retrained])
def test_bad_input_is_refused(distance, arguments, match):
    with pytest.raises(REFUSED) as refusal:
        distance(*arguments[:2], drop=arguments[2] if len(arguments) > 2 else None)
    if isinstance(refusal.value, InputError):
        refusal.match(match)


def test_confusion_refuses_what_has_no_prediction():
    with pytest.raises(InputError, match="4 rows of logits"):
        confusion(BAD)
    with pytest.raises(InputError, match="drop is 9"):
        confusion(Z, drop=9)
