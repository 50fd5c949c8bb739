import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig
from mu_jax.models import build_model
from mu_jax.models.mlp import mlp_model
from mu_jax.unlearning import Plan, Task, carry_out, finetune, retrain

SHAPE, CLASSES, N = (4, 4, 1), 3, 60
RETAIN, FORGET = np.arange(0, 45), np.arange(45, N)
OPTIMIZATION = OptimizationConfig(epochs=2.0, batch_size=9, learning_rate=0.05, weight_decay=1e-3)


def data(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, N).astype(np.int32)
    prototypes = rng.integers(60, 196, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + rng.normal(0, 60, (N, *SHAPE)), 0, 255).astype(np.uint8)
    return images, labels


def make_task(model, images, labels, original=None):
    return Task(
        model=model, images=jnp.asarray(images), labels=labels, num_classes=CLASSES, retain=RETAIN,
        forget=FORGET, data=DataConfig(), seed=0, original=original,
    )  # fmt: skip


def test_retraining_a_convex_model_reaches_the_optimum_without_the_data():
    images, labels = data()
    decay = 0.05
    optimization = OptimizationConfig(
        epochs=1500.0, batch_size=len(RETAIN), learning_rate=0.02, weight_decay=decay, schedule="constant"
    )
    task = make_task(mlp_model((), CLASSES, SHAPE), images, labels)
    got = carry_out(retrain(task, optimization), task, chunk_steps=1500)
    (head,) = got.variables["params"].values()

    x = (images[RETAIN].reshape(len(RETAIN), -1) / 255.0 - 0.5) / 0.25

    def objective(theta, rows=slice(None), y=labels[RETAIN]):
        w = theta.reshape(x.shape[1] + 1, CLASSES)
        logits = x[rows] @ w[:-1] + w[-1]
        logits -= logits.max(1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -log_p[np.arange(len(y)), y].mean() + decay / 2 * np.sum(theta**2)
        error = (np.exp(log_p) - np.eye(CLASSES)[y]) / len(y)
        return loss, np.vstack([x[rows].T @ error, error.sum(0)]).ravel() + decay * theta

    start = np.zeros((x.shape[1] + 1) * CLASSES)
    best = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}
    )
    optimum = best.x.reshape(-1, CLASSES)
    np.testing.assert_allclose(np.vstack([head["kernel"], head["bias"]]), optimum, atol=2e-4)
    assert np.abs(optimum).max() > 0.05  # not trivially zero


@pytest.fixture(scope="module", name="resnet")
def resnet_fixture():
    config = ModelConfig(width=4, convolution="patches")
    return build_model(config, num_classes=CLASSES, image_shape=(8, 8, 1))


def big(images):
    return np.kron(images, np.ones((1, 2, 2, 1), np.uint8))


def same_bits(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_forgotten_images_leave_no_bit_in_the_retrained_model(resnet):
    images, labels = data()
    noisy_images, noisy_labels = images.copy(), labels.copy()
    rng = np.random.default_rng(5)
    noisy_images[FORGET] = rng.integers(0, 256, noisy_images[FORGET].shape, dtype=np.uint8)
    noisy_labels[FORGET] = (labels[FORGET] + 1) % CLASSES

    def retrained(images, labels):
        task = make_task(resnet, big(images), labels)
        return carry_out(retrain(task, OPTIMIZATION), task, chunk_steps=4).variables

    clean = retrained(images, labels)
    assert same_bits(clean, retrained(noisy_images, noisy_labels))
    touched = images.copy()
    touched[RETAIN[0]] = noisy_images[FORGET[0]]
    assert not same_bits(clean, retrained(touched, labels))


def test_finetuning_starts_from_the_original_and_reads_only_what_is_kept(resnet):
    images, labels = data()
    task = make_task(resnet, big(images), labels)
    original = carry_out(retrain(task, OPTIMIZATION, name="original"), task, chunk_steps=4).variables
    kept_alive = jax.tree.map(np.array, original)
    task = dataclasses.replace(task, original=original)
    still = dataclasses.replace(OPTIMIZATION, learning_rate=1e-12, weight_decay=0.0)
    outcome = carry_out(finetune(task, still), task, chunk_steps=4)
    assert same_bits(outcome.variables["params"], original["params"])
    assert outcome.trained_samples == 90
    # The original's arrays must survive the donation of the training state.
    assert same_bits(original, kept_alive)

    noisy = big(images)
    noisy[FORGET] = 255 - noisy[FORGET]
    tuned = carry_out(finetune(task, OPTIMIZATION), task, chunk_steps=4).variables
    other = dataclasses.replace(task, images=jnp.asarray(noisy))
    assert same_bits(tuned, carry_out(finetune(other, OPTIMIZATION), other, chunk_steps=4).variables)
    assert not same_bits(tuned["params"], original["params"])


def test_a_bad_plan_is_refused(resnet):
    images, labels = data()
    task = make_task(resnet, big(images), labels)
    with pytest.raises(InputError, match="visits no example"):
        retrain(dataclasses.replace(task, retain=RETAIN[:0]), OPTIMIZATION)
    with pytest.raises(ValueError, match="the task holds none"):
        carry_out(finetune(task, OPTIMIZATION), task, chunk_steps=4)
    with pytest.raises(ValueError, match="expected 'original' or 'scratch'"):
        Plan("x", "middle", task.examples(), RETAIN, OPTIMIZATION)
