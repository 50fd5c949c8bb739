"""DELETE: its targets by hand, what its loss is, that TRW without the tilt is the same, and digits forgotten by it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax, xlogy
from sklearn.datasets import load_digits

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.config.trw import DeleteConfig, TrwConfig
from mu_jax.models.mlp import mlp_model
from mu_jax.training.step import cross_entropy
from mu_jax.unlearning import Task, carry_out, finetune, retrain, training_run
from mu_jax.unlearning.delete import delete_method, posterior_without
from mu_jax.unlearning.trw import trw

SHAPE, CLASSES, FORGOTTEN, TRAIN = (8, 8, 1), 10, 8, 1200
OPTIMIZATION = OptimizationConfig(epochs=10.0, batch_size=40, learning_rate=0.1, schedule="cosine")
DELETING = dataclasses.replace(OPTIMIZATION, learning_rate=0.02)


@pytest.fixture(scope="module", name="digits")
def digits_fixture():
    """An MLP that knows ten digits, and the request to forget the eights; rows from 1200 on are test images."""
    digits = load_digits()
    labels = digits.target.astype(np.int32)
    trained = np.arange(TRAIN)
    task = Task(
        model=mlp_model((16,), CLASSES, SHAPE),
        images=jnp.asarray((digits.images[..., None] * 15).astype(np.uint8)),
        labels=labels,
        num_classes=CLASSES,
        retain=trained,
        forget=trained[labels[:TRAIN] == FORGOTTEN],
        data=DataConfig(),
        seed=0,
        forget_classes=(FORGOTTEN,),
    )
    original = carry_out(retrain(task, OPTIMIZATION, name="original"), task, chunk_steps=300).variables
    return dataclasses.replace(task, original=original, retain=trained[labels[:TRAIN] != FORGOTTEN])


def targets_of(plan):
    return np.asarray(plan.examples.targets)


def test_targets_by_hand():
    logits = np.log(np.array([[8.0, 1.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]], np.float32))
    left_out = np.array([[True, False, False, False], [False, True, False, True]])
    got = posterior_without(logits, left_out)
    np.testing.assert_allclose(got, [[0, 1 / 8, 3 / 8, 1 / 2], [0.5, 0, 0.5, 0]], atol=1e-7)
    # As the authors write it, where f had all there was in float32 too.
    large = np.array([[1e4, -30.0, 2.0, -1e4]], np.float32)
    masked = np.where(left_out[:1], np.float32(-1e10), large)
    np.testing.assert_allclose(posterior_without(large, left_out[:1]), softmax(masked, axis=-1), atol=1e-7)
    assert got[0, 0] == 0 and got.dtype == np.float32


def test_the_loss_is_the_divergence_up_to_a_constant(digits):
    target = targets_of(delete_method(digits, DeleteConfig(DELETING)))[digits.forget[:5]]
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(4):
        logits = rng.normal(0, 3, target.shape).astype(np.float32)
        q = target.astype(np.float64)
        divergence = np.sum(xlogy(q, q) - q * np.log(softmax(logits.astype(np.float64), axis=-1)), axis=-1)
        gaps.append(divergence - np.asarray(cross_entropy(jnp.asarray(logits), jnp.asarray(target))))
    np.testing.assert_allclose(gaps, np.tile(gaps[0], (4, 1)), atol=1e-5)
    assert np.all(gaps[0] <= 1e-6)  # minus the entropy


def test_the_plan_visits_deleted_examples_alone_unless_told(digits):
    plan = delete_method(digits, DeleteConfig(DELETING))
    assert plan.name == "delete" and plan.start == "original"
    np.testing.assert_array_equal(plan.index, digits.forget)
    targets = targets_of(plan)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert np.all(targets[digits.forget, FORGOTTEN] == 0)
    # The order of the other classes stays as the original has it.
    others = np.delete(digits.original_logits("test")[digits.forget], FORGOTTEN, axis=1)
    np.testing.assert_array_equal(
        np.argmax(np.delete(targets[digits.forget], FORGOTTEN, axis=1), axis=1), np.argmax(others, axis=1)
    )
    assert training_run(plan, digits).recipe == training_run(finetune(digits, OPTIMIZATION), digits).recipe


def test_with_retained_examples_it_is_trw_without_the_tilt(digits):
    both = delete_method(digits, DeleteConfig(OPTIMIZATION, retain=True), name="rwft")
    untilted = trw(digits, TrwConfig(OPTIMIZATION, beta=0.0), name="rwft")
    np.testing.assert_array_equal(both.index, untilted.index)
    np.testing.assert_allclose(targets_of(both), targets_of(untilted), atol=1e-6)
    np.testing.assert_array_equal(both.examples.weights, untilted.examples.weights)
    tilted = targets_of(trw(digits, TrwConfig(OPTIMIZATION, beta=10.0)))
    assert np.abs(tilted - targets_of(both))[digits.forget].max() > 0.1


def test_forgets_without_retained_examples(digits):
    test_rows = np.arange(len(digits.labels)) >= TRAIN
    forgotten = digits.labels == FORGOTTEN

    def accuracies(variables):
        logits = dataclasses.replace(digits, original=variables).original_logits("test")
        hits = np.argmax(logits, axis=-1) == digits.labels
        return hits[test_rows & forgotten].mean(), hits[test_rows & ~forgotten].mean(), logits

    known, kept, before = accuracies(digits.original)
    plan = delete_method(digits, DeleteConfig(DELETING))
    after_known, after_kept, after = accuracies(carry_out(plan, digits, chunk_steps=300).variables)
    assert known > 0.8 and kept > 0.9
    assert after_known < 0.1 and after_kept > kept - 0.08
    target = targets_of(plan)[digits.forget]
    old, new = (
        np.abs(softmax(logits[digits.forget], axis=-1) - target).sum(-1).mean() / 2
        for logits in (before, after)
    )
    assert old > 0.8 and new < 0.3


def test_single_examples_and_several_classes(digits):
    logits = digits.original_logits("test")
    single = dataclasses.replace(digits, forget_classes=(), forget=np.arange(30))
    own = np.eye(CLASSES, dtype=bool)[digits.labels[:30]]
    targets = targets_of(delete_method(single, DeleteConfig(DELETING)))[:30]
    np.testing.assert_allclose(targets, softmax(np.where(own, -1e10, logits[:30]), axis=-1), atol=1e-6)
    gone = (3, 8)
    rows = np.flatnonzero(np.isin(digits.labels[:TRAIN], gone))
    several = dataclasses.replace(digits, forget_classes=gone, forget=rows)
    targets = targets_of(delete_method(several, DeleteConfig(DELETING)))[rows]
    assert np.all(targets[:, gone] == 0)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_what_is_missing_is_named(digits):
    settings = DeleteConfig(DELETING, retain=True)
    for change, words in (
        ({"original": None}, "'delete' reads the original model"),
        ({"forget": np.zeros(0, np.int64)}, "'delete' got no example to forget"),
        ({"retain": np.zeros(0, np.int64)}, "'delete' got no example to retain"),
        ({"num_classes": 2, "forget_classes": (1,)}, "needs at least two classes that stay"),
    ):
        with pytest.raises(InputError, match=words):
            delete_method(dataclasses.replace(digits, **change), settings)
    # Without them, retained examples are not asked for.
    alone = dataclasses.replace(digits, retain=np.zeros(0, np.int64))
    assert len(delete_method(alone, DeleteConfig(DELETING)).index) == len(digits.forget)
