"""Signals against hand values, a float64 twin, and the limits of float32."""

import jax
import jax.export
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from mu_jax.attacks import signals
from mu_jax.config import InputError

LABELLED = [signals.logit_margin, signals.cross_entropy, signals.confidence, signals.modified_entropy]


def entropy(logits, labels):
    return signals.entropy(logits)


ALL = [*LABELLED, entropy]


def twin(logits, labels):
    """All signals of one example in float64, each class's complement summed anew."""
    z = np.asarray(logits, np.float64)
    log_p = z - np.logaddexp.reduce(z)
    log_not_p = np.array([np.logaddexp.reduce(np.delete(z, j)) for j in range(z.size)]) - np.logaddexp.reduce(
        z
    )
    p, y = np.exp(log_p), labels
    others = np.arange(z.size) != y
    margin = z[y] - np.logaddexp.reduce(z[others])
    return {
        "logit_margin": margin,
        "cross_entropy": np.logaddexp(0, -margin),
        "confidence": p[y],
        "entropy": -np.sum(p * log_p),
        "modified_entropy": -np.exp(log_not_p[y]) * log_p[y] - np.sum(p[others] * log_not_p[others]),
    }


def random_logits(scale, batch=(40,), classes=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(*batch, classes))).astype(np.float32)
    return logits, rng.integers(0, classes, batch)


def test_hand_values():
    # p = (3/4, 1/8, 1/8), once labelled with the likely class and once with another
    logits = np.log(np.array([[6.0, 1.0, 1.0]] * 2, np.float32))
    labels = np.array([0, 1])
    log = np.log
    want = {
        signals.logit_margin: [log(3), -log(7)],
        signals.cross_entropy: [log(4 / 3), log(8)],
        signals.confidence: [3 / 4, 1 / 8],
        entropy: [3 / 4 * log(4 / 3) + 2 / 8 * log(8)] * 2,
        # −(1 − p_y) log p_y − Σ p_j log(1 − p_j)
        signals.modified_entropy: [
            -1 / 4 * log(3 / 4) - 2 / 8 * log(7 / 8),
            -7 / 8 * log(1 / 8) - 3 / 4 * log(1 / 4) - 1 / 8 * log(7 / 8),
        ],
    }
    for signal, values in want.items():
        np.testing.assert_allclose(jax.jit(signal)(logits, labels), values, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 300.0])
def test_equals_float64_twin(scale):
    logits, labels = random_logits(scale)
    expected = [twin(z, y) for z, y in zip(logits, labels, strict=True)]
    for signal in ALL:
        want = np.array([row[signal.__name__] for row in expected])
        got = np.asarray(jax.jit(signal)(logits, labels))
        assert got.dtype == np.float32
        # The loss keeps its relative accuracy down to the smallest normal float32.
        atol = 1e-37 if signal is signals.cross_entropy else 1e-6
        np.testing.assert_allclose(got, want, rtol=5e-5, atol=atol)


def test_loss_keeps_its_digits_for_confident_predictions():
    # p_y = 1 − 2e⁻³⁰ rounds to 1 in float32.
    logits, label = np.array([[30.0, 0.0, 0.0]], np.float32), np.array([0])
    np.testing.assert_allclose(jax.jit(signals.cross_entropy)(logits, label), 2 * np.exp(-30), rtol=1e-5)
    # (1 − p_y)·(−log p_y) = (2e⁻³⁰)² and p_j·(−log(1 − p_j)) = (e⁻³⁰)², twice
    np.testing.assert_allclose(jax.jit(signals.modified_entropy)(logits, label), 6 * np.exp(-60), rtol=1e-5)


def test_large_common_offset_costs_nothing():
    logits = np.array([[1.0, 2.0, 0.5]], np.float32)
    for signal in ALL:
        for offset in (4096.0, -4096.0):  # adds without rounding to these logits
            np.testing.assert_array_equal(
                jax.jit(signal)(logits + np.float32(offset), np.array([1])),
                jax.jit(signal)(logits, np.array([1])),
            )


@pytest.mark.parametrize("signal", ALL)
def test_finite_at_the_extremes(signal):
    largest = np.finfo(np.float32).max
    values = [0.0, 1e4, -1e4, largest, -largest]
    logits = np.array(np.meshgrid(values, values, values), np.float32).reshape(3, -1).T
    for label in range(3):
        out = np.asarray(jax.jit(signal)(logits, np.full(len(logits), label)))
        assert np.all(np.isfinite(out))
        if signal is signals.confidence:
            assert np.all((out >= 0) & (out <= 1))
        elif signal is not signals.logit_margin:
            assert np.all(out >= 0)


def test_margin_is_the_log_odds():
    logits, labels = random_logits(1.0)
    p = np.asarray(jax.nn.softmax(logits), np.float64)[np.arange(len(labels)), labels]
    np.testing.assert_allclose(
        signals.logit_margin(logits, labels), np.log(p) - np.log(1 - p), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("signal", ALL)
def test_order_of_the_other_classes_is_immaterial(signal):
    logits, _ = random_logits(5.0)
    order = np.array([0, 3, 6, 1, 5, 2, 4])
    label = np.zeros(len(logits), int)
    jitted = jax.jit(signal)
    np.testing.assert_allclose(jitted(logits[:, order], label), jitted(logits, label), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("signal", ALL)
def test_jit_equals_eager_and_batch_equals_loop(signal):
    logits, labels = random_logits(4.0)
    eager, jitted = signal(logits, labels), jax.jit(signal)
    np.testing.assert_allclose(jitted(logits, labels), eager, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.vmap(signal))(logits, labels), eager, rtol=1e-6, atol=1e-7)
    loop = [jitted(logits[i], np.asarray(labels[i])) for i in range(len(labels))]
    np.testing.assert_allclose(np.array(loop), eager, rtol=1e-6, atol=1e-7)
    stacked = jitted(logits.reshape(8, 5, 7), labels.reshape(8, 5))
    np.testing.assert_allclose(stacked, eager.reshape(8, 5), rtol=1e-6, atol=1e-7)


def test_bfloat16_logits_give_float32_signals():
    logits, labels = random_logits(4.0)
    half = jnp.asarray(logits, jnp.bfloat16)
    for signal in map(jax.jit, ALL):
        got = signal(half, labels)
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, signal(half.astype(jnp.float32), labels))


@pytest.mark.parametrize("signal", ALL)
def test_lowers_for_gpu_and_tpu(signal):
    logits, labels = jax.ShapeDtypeStruct((3, 4), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.int32)
    exported = jax.export.export(jax.jit(signal), platforms=["cuda", "tpu"])(logits, labels)
    assert exported.out_avals[0].shape == (3,)


@pytest.mark.parametrize("signal", ALL)
def test_one_class_is_refused(signal):
    with pytest.raises(InputError, match="at least two classes"):
        signal(np.zeros((4, 1), np.float32), np.zeros(4, int))


@pytest.mark.parametrize("signal", LABELLED)
def test_labels_of_another_shape_are_refused(signal):
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        signal(np.zeros((4, 3), np.float32), np.zeros(3, int))
