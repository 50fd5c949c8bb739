import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mu_jax.config import InputError
from mu_jax.defenses.posteriors import label_only, temperature, top_k


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


P = softmax(np.random.default_rng(0).normal(size=(4, 3, 6)) * 2)


def test_top_k_by_hand():
    p = np.array([[0.1, 0.6, 0.05, 0.25], [0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_allclose(
        top_k(p, 1), [[0.4 / 3, 0.6, 0.4 / 3, 0.4 / 3], [0.25, 0.25, 0.25, 0.25]], rtol=1e-14
    )
    np.testing.assert_allclose(top_k(p, 2), [[0.075, 0.6, 0.075, 0.25], [0.25] * 4], rtol=1e-14)
    np.testing.assert_allclose(top_k(p, 4), p, rtol=1e-14)


def test_the_first_of_equal_posteriors_are_kept():
    np.testing.assert_allclose(
        top_k(np.array([0.0, 0.3, 0.3, 0.3, 0.1]), 2), [0.4 / 3, 0.3, 0.3, 0.4 / 3, 0.4 / 3], rtol=1e-14
    )
    np.testing.assert_array_equal(label_only(np.array([0.1, 0.45, 0.45])), [0, 1, 0])


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_top_k_is_what_a_loop_says(k):
    got = top_k(P, k)
    for row, released in zip(P.reshape(-1, 6), got.reshape(-1, 6), strict=True):
        kept = sorted(range(6), key=lambda c: -row[c])[:k]
        rest = sum(row[c] for c in range(6) if c not in kept) / max(6 - k, 1)
        np.testing.assert_allclose(released, [row[c] if c in kept else rest for c in range(6)], rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(-200, 200), min_size=4, max_size=4), min_size=1, max_size=5),
    st.integers(1, 4),
    st.floats(1e-6, 1e6),
)
def test_what_is_released_is_a_distribution_with_the_same_label(rows, k, t):
    z = np.array(rows)
    p = softmax(z)
    for released in (top_k(p, k), label_only(p), temperature(z, t)):
        assert released.dtype == np.float64
        assert (released >= 0).all()
        np.testing.assert_allclose(released.sum(-1), 1, rtol=1e-12)
        # Others may rise to the largest where it is released so, but none above it.
        chosen = np.take_along_axis(released, p.argmax(-1)[:, None], -1)[:, 0]
        assert (chosen >= released.max(-1) - 1e-12).all()


def test_label_only_is_one_hot_and_takes_any_array():
    got = label_only(jnp.asarray(P, jnp.float32))
    np.testing.assert_array_equal(got, np.eye(6)[P.argmax(-1)])


def test_temperature_by_hand_and_in_the_limits():
    z = np.array([0.0, np.log(4.0)])
    np.testing.assert_allclose(temperature(z, 1.0), [0.2, 0.8], rtol=1e-14)
    np.testing.assert_allclose(temperature(z, 2.0), [1 / 3, 2 / 3], rtol=1e-14)
    np.testing.assert_allclose(temperature(z, 0.5), [1 / 17, 16 / 17], rtol=1e-14)
    np.testing.assert_allclose(temperature(z, 1e-300), [0, 1])
    np.testing.assert_allclose(temperature(z, 1e300), [0.5, 0.5])
    np.testing.assert_allclose(temperature(1e38 + np.array([0.0, 0.0]), 1.0), [0.5, 0.5])


def test_temperature_is_that_of_softer_logits():
    z = np.random.default_rng(1).normal(size=(7, 5))
    np.testing.assert_allclose(temperature(z, 4.0), softmax(z / 4), rtol=1e-12)


def test_a_higher_temperature_brings_every_row_nearer_to_even():
    z = np.random.default_rng(2).normal(size=(20, 5))
    peaks = [temperature(z, t).max(-1) for t in (0.5, 1.0, 2.0, 8.0)]
    assert (np.diff(peaks, axis=0) < 0).all()


def test_half_precision_is_taken_and_mended():
    p = np.array([[0.3335, 0.3335, 0.3335]], np.float32)
    np.testing.assert_allclose(top_k(p, 3).sum(-1), 1, rtol=1e-15)


@pytest.mark.parametrize(
    ("release", "match"),
    [
        (lambda: top_k(P, 0), "k is 0, but expected 1 to 6"),
        (lambda: top_k(P, 7), "k is 7, but expected 1 to 6"),
        (lambda: top_k(P * 1.1, 2), "Of 12 rows of posteriors 12 do not sum to one .one sums to 1.1."),
        (lambda: label_only(np.array([[1.5, -0.5], [1.0, 0.0]])), "1 posteriors are negative or no number"),
        (lambda: label_only(np.array([np.nan, 1.0])), "1 posteriors are negative or no number"),
        (lambda: label_only(np.array([np.inf, 1.0])), "do not sum to one"),
        (lambda: label_only(np.array([1.0])), r"posteriors have shape \(1,\), but expected"),
        (lambda: temperature(P, 0.0), "The temperature is 0.0, but expected a positive number"),
        (lambda: temperature(P, -1.0), "The temperature is -1.0"),
        (lambda: temperature(P, float("inf")), "The temperature is inf"),
        (lambda: temperature(P, float("nan")), "The temperature is nan"),
        (lambda: temperature(np.array([np.inf, np.nan, 0.0]), 1.0), "2 logits are not finite"),
        (lambda: temperature(np.zeros((3, 1)), 1.0), r"logits have shape \(3, 1\)"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(release, match):
    with pytest.raises(InputError, match=match):
        release()


def test_examples_of_the_docstrings():
    np.testing.assert_array_equal(top_k(np.array([0.5, 0.125, 0.375, 0.0]), 2), [0.5, 0.0625, 0.375, 0.0625])
    np.testing.assert_array_equal(label_only(np.array([[0.2, 0.8], [0.5, 0.5]])), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(temperature(np.array([0.0, 2 * np.log(3.0)]), 2.0).round(12), [0.25, 0.75])
