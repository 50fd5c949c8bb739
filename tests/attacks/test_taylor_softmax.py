"""The Taylor softmax against its formula, at its guard, and at the limits of float32."""

import inspect
import math

import jax
import jax.export
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from mu_jax.attacks.taylor_softmax import FLOOR, taylor_softmax
from mu_jax.config import InputError

ROOT = -1.5960716  # of 1 + v + v²/2 + v³/6


def series(v, degree=3):
    return sum(v**n / math.factorial(n) for n in range(degree + 1))


def formula(logits, label, temperature=2.0, margin=0.6, degree=3):
    """One example in float64, with no guard."""
    v = np.asarray(logits, np.float64) / temperature
    own = series(v[label] - margin, degree)
    return own / (own + sum(series(v[j], degree) for j in range(v.size) if j != label))


def test_hand_values():
    logits = np.array([[2.0, 0.0], [2.0, 0.0], [1.2, -2.0]], np.float32)
    # g(0.4) = 1.4 + 0.08 + 0.064/6; g(0) = 1; g(1) = 8/3 and g(-0.6) = 0.4 + 0.18 − 0.036; g(0) and g(-1) = 1/3
    g = 1.48 + 0.064 / 6
    want = [g / (g + 1), 0.544 / (0.544 + 8 / 3), 3 / 4]
    np.testing.assert_allclose(taylor_softmax(logits, np.array([0, 1, 0])), want, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "margin": 0.0}, {"degree": 5}, {"degree": 1}])
def test_equals_the_formula_where_the_series_is_positive(options):
    low = {1: -0.9, 3: -1.5, 5: -2.0}[options.get("degree", 3)]
    rng = np.random.default_rng(0)
    v = rng.uniform(low + options.get("margin", 0.6), 6, (50, 7))
    logits = (options.get("temperature", 2.0) * v).astype(np.float32)
    labels = rng.integers(0, 7, 50)
    want = [formula(z, y, **options) for z, y in zip(logits, labels, strict=True)]
    got = jax.jit(lambda z, y: taylor_softmax(z, y, **options))(logits, labels)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_class_below_the_root_has_no_weight():
    # Unguarded, g(-2.5) = −0.98 would lift the others' share above 1.
    logits = np.array([4.0, -5.0, -1.0], np.float32)
    assert formula(logits, 0) > 1
    own, third = series(1.4), series(-0.5)
    np.testing.assert_allclose(taylor_softmax(logits, np.array(0)), own / (own + FLOOR + third), rtol=1e-6)
    np.testing.assert_allclose(
        taylor_softmax(logits, np.array(1)), FLOOR / (FLOOR + series(2.0) + third), rtol=1e-5
    )


def test_all_classes_below_the_root_share_alike():
    np.testing.assert_allclose(taylor_softmax(np.full((1, 4), -50.0, np.float32), np.array([2])), [0.25])


@pytest.mark.parametrize("degree", [1, 3, 5, 7])
def test_rises_with_the_true_logit_and_falls_with_the_others(degree):
    grid = np.linspace(-20, 40, 2001, dtype=np.float32)
    other = np.broadcast_to(np.array([0.5, -3.0], np.float32), (2001, 2))
    attack = jax.jit(lambda z, y: taylor_softmax(z, y, degree=degree))
    own = np.asarray(attack(np.column_stack([grid, other]), np.zeros(2001, int)))
    assert np.all(np.diff(own) >= -1e-7)
    # The series' root lies above −degree, and z = 2·(v + 0.6): strict from there on.
    assert own[0] < 1e-4 and own[-1] > 0.8
    away = np.asarray(attack(np.column_stack([grid, other]), np.ones(2001, int)))
    assert np.all(np.diff(away) <= 1e-7)


def test_gradients_have_the_right_sign():
    def one(z):
        return taylor_softmax(z, jnp.array(1))

    gradient = np.asarray(jax.grad(one)(jnp.array([0.3, 1.0, -1.0, 2.0])))
    assert gradient[1] > 0 and np.all(gradient[[0, 2, 3]] < 0)
    z, step = np.array([0.3, 1.0, -1.0, 2.0]), 1e-5
    for j in range(4):
        up, down = z.copy(), z.copy()
        up[j], down[j] = z[j] + step, z[j] - step
        slope = (formula(up, 1) - formula(down, 1)) / (2 * step)
        np.testing.assert_allclose(gradient[j], slope, rtol=1e-4)
    # Left of the root the guard is flat.
    below = np.asarray(jax.grad(one)(jnp.array([0.3, 2 * (ROOT + 0.6) - 0.1, -9.0, 2.0])))
    assert below[1] == 0 and below[2] == 0


@pytest.mark.parametrize("temperature", [0.01, 2.0])
def test_finite_and_a_probability_at_the_extremes(temperature):
    largest = np.finfo(np.float32).max
    values = [0.0, 5.0, 1e4, -1e4, 1e13, 1e30, largest, -largest]
    logits = np.array(np.meshgrid(values, values, values), np.float32).reshape(3, -1).T
    for label in range(3):
        got = np.asarray(
            jax.jit(lambda z, y: taylor_softmax(z, y, temperature=temperature))(
                logits, np.full(len(logits), label)
            )
        )
        assert np.all(np.isfinite(got)) and np.all((got >= 0) & (got <= 1))
    # Scaled, not clipped: of two huge logits the cubes decide.
    huge = np.array([2e20, 1e20], np.float32)
    np.testing.assert_allclose(taylor_softmax(huge, np.array(0)), 8 / 9, rtol=1e-6)


def test_jit_equals_eager_and_batch_equals_loop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 4, (12, 5)).astype(np.float32), rng.integers(0, 5, 12)
    eager, jitted = taylor_softmax(logits, labels), jax.jit(taylor_softmax)
    np.testing.assert_allclose(jitted(logits, labels), eager, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(taylor_softmax))(logits, labels), eager, rtol=1e-6)
    np.testing.assert_allclose(
        jitted(logits.reshape(3, 4, 5), labels.reshape(3, 4)), eager.reshape(3, 4), rtol=1e-6
    )
    np.testing.assert_allclose(taylor_softmax(logits[0], np.asarray(labels[0])), eager[0], rtol=1e-6)


def test_lowers_for_gpu_and_tpu():
    logits, labels = jax.ShapeDtypeStruct((3, 4), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.int32)
    exported = jax.export.export(jax.jit(taylor_softmax), platforms=["cuda", "tpu"])(logits, labels)
    assert exported.out_avals[0].shape == (3,)


@pytest.mark.parametrize(
    ("shape", "labels", "options", "match"),
    [
        ((4, 1), (4,), {}, "at least two classes"),
        ((4, 3), (3,), {}, r"labels have shape \(3,\)"),
        ((4, 3), (4,), {"temperature": 0.0}, "temperature is 0.0"),
        ((4, 3), (4,), {"margin": math.nan}, "margin nan"),
        ((4, 3), (4,), {"degree": 2}, "degree is 2, but expected an odd number"),
        ((4, 3), (4,), {"degree": -1}, "degree is -1"),
    ],
)
def test_bad_input_is_refused(shape, labels, options, match):
    args = np.zeros(shape, np.float32), np.zeros(labels, int)
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        taylor_softmax(*args, **options)
    with pytest.raises(InputError, match=match):
        inspect.unwrap(taylor_softmax)(*args, **options)
