"""Features of pairs of posteriors: by hand, against loops, and what a renaming of the classes must not change."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mu_jax.attacks.leaks import FEATURES, checked_posteriors, construct_features, exact_ties
from mu_jax.config import InputError

REFUSED = (InputError, jaxtyping.TypeCheckError)


def posteriors(seed, rows=40, classes=5):
    z = np.random.default_rng(seed).normal(size=(rows, classes))
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def test_by_hand():
    before, after = np.array([[0.5, 0.2, 0.3]]), np.array([[0.1, 0.6, 0.3]])
    want = {
        "direct_concat": [0.5, 0.2, 0.3, 0.1, 0.6, 0.3],
        # Classes 1, 2, 0 by what the first model says; the second model's stay beside them.
        "sorted_concat": [0.2, 0.3, 0.5, 0.6, 0.3, 0.1],
        "direct_difference": [0.4, -0.4, 0.0],
        "sorted_difference": [-0.4, 0.0, 0.4],
        "l2": [np.sqrt(0.32)],
    }
    assert tuple(want) == FEATURES
    for kind, row in want.items():
        got = construct_features(before, after, kind)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, [row], atol=1e-15)


def slow(before, after, kind):
    rows = []
    for p, q in zip(before.tolist(), after.tolist(), strict=True):
        if kind.startswith("sorted"):
            order = sorted(range(len(p)), key=lambda c, p=p: (p[c], c))
            p, q = [p[c] for c in order], [q[c] for c in order]
        difference = [a - b for a, b in zip(p, q, strict=True)]
        if kind == "l2":
            rows.append([sum(d * d for d in difference) ** 0.5])
        else:
            rows.append(p + q if kind.endswith("concat") else difference)
    return np.array(rows)


@pytest.mark.parametrize("kind", FEATURES)
def test_equals_a_loop(kind):
    before, after = posteriors(0), posteriors(1)
    before[::3] = np.round(before[::3] * 4) / 4  # equal posteriors within a row
    before[::3, 0] += 1 - before[::3].sum(axis=1)
    before = np.abs(before) / np.abs(before).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(construct_features(before, after, kind), slow(before, after, kind), atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7))
def test_names_of_classes_do_not_matter_once_sorted(seed, classes):
    before, after = posteriors(seed, 6, classes), posteriors(seed + 1, 6, classes)
    order = np.random.default_rng(seed).permutation(classes)
    for kind in ("sorted_concat", "sorted_difference", "l2"):
        got, want = (
            construct_features(before[:, order], after[:, order], kind),
            construct_features(before, after, kind),
        )
        np.testing.assert_allclose(got, want, atol=1e-15)
    # Equal models differ in nothing, and the differences of two posteriors add up to nothing.
    assert not construct_features(before, before, "direct_difference").any()
    np.testing.assert_allclose(
        construct_features(before, after, "sorted_difference").sum(axis=1), 0, atol=1e-12
    )


def test_the_second_model_is_not_sorted_by_its_own_posteriors():
    after = construct_features(posteriors(0), posteriors(1), "sorted_concat")[:, 5:]
    assert np.any(np.diff(after, axis=1) < 0)


def test_equal_posteriors_keep_their_order():
    before, after = np.array([[0.25, 0.5, 0.25]]), np.array([[0.1, 0.2, 0.7]])
    np.testing.assert_array_equal(
        construct_features(before, after, "sorted_concat"), [[0.25, 0.25, 0.5, 0.1, 0.7, 0.2]]
    )


def test_jax_arrays_and_float32_come_back_as_float64():
    before, after = posteriors(0).astype(np.float32), posteriors(1).astype(np.float32)
    for kind in FEATURES:
        got = construct_features(jnp.asarray(before), jnp.asarray(after), kind)
        assert isinstance(got, np.ndarray) and got.dtype == np.float64
        np.testing.assert_array_equal(
            got, construct_features(before.astype(float), after.astype(float), kind)
        )


def test_ties_are_to_the_bit_and_in_every_class():
    before = posteriors(0, rows=4).astype(np.float32)
    after = before.copy()
    after[1, 2] = np.nextafter(after[1, 2], np.float32(1))
    after[3] = after[3, ::-1]
    np.testing.assert_array_equal(exact_ties(before, after), [True, False, True, False])
    assert exact_ties(jnp.asarray(before), jnp.asarray(after)).sum() == 2


P = posteriors(2, rows=5, classes=3)


def broken(row, value):
    p = P.copy()
    p[row] = value
    return p


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((P, P, "sorted_concats"), "'sorted_concats', but expected one of .* did you mean 'sorted_concat'"),
        ((P, P, "cosine"), "'direct_concat' is the plainest"),
        ((P, P[:4], "l2"), r"before has shape \[5, 3\] and after \[4, 3\]"),
        ((P, P[:, :2], "l2"), "ask both models about the same examples"),
        ((broken(3, np.nan), P, "l2"), "1 of 5 rows of before, row 3 the first, are not finite.* softmax"),
        ((P, broken([1, 2], np.inf), "l2"), "2 of 5 rows of after, row 1 the first, are not finite"),
        ((P, broken(4, [1.5, -0.25, -0.25]), "l2"), "row 4 the first, have negative numbers"),
        (
            (broken(2, [0.5, 0.3, 0.1]), P, "l2"),
            "1 of 5 rows of before do not sum to one, row 2 the first, whose sum is 0.9, .*softmax of the logits",
        ),
        ((broken(0, [0.5, 0.3, 0.2015]), P, "direct_concat"), "whose sum is 1.0015"),
        ((P[:, :1] / P[:, :1], P[:, :1] / P[:, :1], "l2"), "2 classes at least"),
    ],
)
def test_bad_input_is_refused(arguments, match):
    with pytest.raises(REFUSED) as refusal:
        construct_features(*arguments)
    if isinstance(refusal.value, InputError):
        refusal.match(match)
        assert str(refusal.value).endswith((".", "?")) and "\n" not in str(refusal.value)


def test_sums_within_the_tolerance_pass_and_are_left_as_they_are():
    near = broken(0, [0.5, 0.3, 0.2005])
    np.testing.assert_array_equal(checked_posteriors(near, "near"), near)


def test_ties_of_unequal_shapes_are_refused():
    with pytest.raises(REFUSED):
        exact_ties(P, P[:3])
