"""Tilted ReWeighting on digits: what it forgets, what its plan is, and the tilt of the head alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits

from mu_jax.config import DataConfig, InputError, MethodsConfig, OptimizationConfig
from mu_jax.config.trw import TrwConfig, TrwHeadConfig
from mu_jax.models.head import head_of
from mu_jax.models.mlp import mlp_model
from mu_jax.unlearning import Task, carry_out, finetune, retrain, training_run
from mu_jax.unlearning.class_similarity import class_similarity, forgotten_classes
from mu_jax.unlearning.trw import tilted_target, trw, trw_head

SHAPE, CLASSES, FORGOTTEN, TRAIN = (8, 8, 1), 10, 8, 1200
OPTIMIZATION = OptimizationConfig(epochs=10.0, batch_size=40, learning_rate=0.1, schedule="cosine")
TUNING = dataclasses.replace(OPTIMIZATION, learning_rate=0.05)


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


def logits_of(task, variables):
    return dataclasses.replace(task, original=variables).original_logits("test")


def accuracies(task, logits):
    """Of the forgotten class's test images, and of all others'."""
    hits = (np.argmax(logits, axis=-1) == task.labels)[TRAIN:]
    forgotten = task.labels[TRAIN:] == FORGOTTEN
    return hits[forgotten].mean(), hits[~forgotten].mean()


def by_definition(logits, kernel, f, beta, also_forgotten=(), **how):
    """The tilted target in float64, from the similarity."""
    s = np.asarray(class_similarity(kernel, f, also_forgotten=also_forgotten, **how), np.float64)
    q = softmax(logits.astype(np.float64), axis=-1) * np.exp(beta * s)
    q[:, [f, *also_forgotten]] = 0
    return q / q.sum(-1, keepdims=True)


def distance(posterior, target):
    """Mean total variation."""
    return np.abs(posterior - target).sum(-1).mean() / 2


def test_forgets_its_class_and_answers_as_its_target(digits):
    plan = trw(digits, TrwConfig(TUNING))
    before = digits.original_logits("test")
    after = logits_of(digits, carry_out(plan, digits, chunk_steps=300).variables)
    known, kept = accuracies(digits, before)
    forgotten, still_kept = accuracies(digits, after)
    assert known > 0.8 and kept > 0.9
    assert forgotten <= 0.03 and still_kept > kept - 0.02
    target = np.asarray(plan.examples.targets)[digits.forget]
    assert distance(softmax(before[digits.forget], -1), target) > 0.8
    assert distance(softmax(after[digits.forget], -1), target) < 0.2
    # On test images too, whose targets it has never seen.
    unseen = np.flatnonzero((np.arange(len(before)) >= TRAIN) & (digits.labels == FORGOTTEN))
    _, kernel, _ = head_of(digits.model, digits.original["params"])
    target = np.asarray(tilted_target(before[unseen], kernel, FORGOTTEN))
    assert distance(softmax(after[unseen], -1), target) < 0.5 * distance(softmax(before[unseen], -1), target)


def test_the_plan_is_fine_tuning_with_other_targets(digits):
    settings = TrwConfig(TUNING, beta=5.0, temperature=0.4, directions=3, forget_weight=2.5)
    plan = trw(digits, settings)
    assert sorted(plan.index) == list(range(TRAIN))
    targets, weights = np.asarray(plan.examples.targets), np.asarray(plan.examples.weights)
    np.testing.assert_array_equal(targets[digits.retain], np.eye(CLASSES)[digits.labels[digits.retain]])
    assert np.all(weights[digits.forget] == 2.5) and np.all(weights[digits.retain] == 1)
    _, kernel, _ = head_of(digits.model, digits.original["params"])
    logits = digits.original_logits("test")[digits.forget]
    expected = by_definition(logits, kernel, FORGOTTEN, 5.0, temperature=0.4, directions=3)
    np.testing.assert_allclose(targets[digits.forget], expected, atol=1e-4)
    # One program for all of these.
    recipe = training_run(plan, digits).recipe
    for other in (finetune(digits, TUNING), trw(digits, TrwConfig(TUNING, beta=0.0), name="rwft")):
        assert training_run(other, digits).recipe == recipe
    assert TrwConfig().optimization == MethodsConfig().finetune


@pytest.mark.parametrize("per_example", [False, True])
def test_a_level_takes_the_place_of_beta(digits, per_example):
    _, kernel, _ = head_of(digits.model, digits.original["params"])
    similarity = np.asarray(class_similarity(kernel, FORGOTTEN, temperature=0.2))
    others = np.delete(similarity, FORGOTTEN)
    level = float(0.3 * others.min() + 0.7 * others.max())
    settings = TrwConfig(TUNING, level=level, temperature=0.2, level_per_example=per_example)
    targets = np.asarray(trw(digits, settings).examples.targets)[digits.forget]
    means = targets @ similarity
    np.testing.assert_allclose(means if per_example else means.mean(), level, atol=1e-4)
    assert per_example or np.ptp(means) > 1e-3
    with pytest.raises(InputError, match="level is 0.99, but the similarities"):
        trw(digits, dataclasses.replace(settings, level=0.99))


def test_several_forgotten_classes_all_get_nothing(digits):
    gone = (1, 8)
    trained = np.arange(TRAIN)
    leaves = np.isin(digits.labels[:TRAIN], gone)
    task = dataclasses.replace(digits, forget_classes=gone, forget=trained[leaves], retain=trained[~leaves])
    _, kernel, _ = head_of(task.model, task.original["params"])
    logits = task.original_logits("test")
    targets = np.asarray(trw(task, TrwConfig(TUNING)).examples.targets)
    assert np.all(targets[task.forget][:, gone] == 0)
    for f, other in ((1, 8), (8, 1)):
        rows = trained[digits.labels[:TRAIN] == f]
        expected = by_definition(logits[rows], kernel, f, 10.0, also_forgotten=(other,))
        np.testing.assert_allclose(targets[rows], expected, atol=1e-3)
    # The head alone has one tilt for all inputs: by the mean of the two similarities.
    settings = TrwHeadConfig()
    after = softmax(logits_of(task, trw_head(task, settings).variables), axis=-1)
    s = sum(np.asarray(class_similarity(kernel, f, also_forgotten=gone)) for f in gone) / 2
    kept = forgotten_classes(CLASSES, 1, gone) == 0
    expected = softmax(np.where(kept, logits + settings.beta * s, -np.inf), axis=-1)
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_the_head_alone_gives_every_input_its_tilted_target(digits):
    settings = TrwHeadConfig(beta=4.0, temperature=0.3, directions=4, margin=25.0)
    edit = trw_head(digits, settings)
    logits, after = digits.original_logits("test"), logits_of(digits, edit.variables)
    _, kernel, _ = head_of(digits.model, digits.original["params"])
    target = tilted_target(logits, kernel, FORGOTTEN, 4.0, temperature=0.3, directions=4)
    posterior = softmax(after.astype(np.float64), axis=-1)
    np.testing.assert_allclose(posterior, target, atol=1e-5)
    assert np.all(posterior[:, FORGOTTEN] > 0) and np.all(posterior[:, FORGOTTEN] <= np.exp(-25) * 1.001)
    others = np.delete(after, FORGOTTEN, axis=1)
    np.testing.assert_allclose(others.mean(axis=1) - after[:, FORGOTTEN], 25, atol=1e-3)
    forgotten, _ = accuracies(digits, after)
    assert forgotten == 0
    # Nothing below the head moves, and the original stays as it was.
    hidden, old = edit.variables["params"]["hidden1"], digits.original["params"]["hidden1"]
    assert all(np.array_equal(hidden[name], old[name]) for name in old)
    np.testing.assert_array_equal(digits.original_logits("test"), logits)


def test_what_cannot_be_forgotten_is_named(digits):
    single = dataclasses.replace(digits, forget_classes=())
    two = dataclasses.replace(digits, num_classes=2, forget_classes=(1,))
    nothing = dataclasses.replace(digits, retain=np.zeros(0, np.int64))
    untrained = dataclasses.replace(digits, original=None)
    for make, settings in ((trw, TrwConfig(TUNING)), (trw_head, TrwHeadConfig())):
        with pytest.raises(InputError, match=f"'{make.__name__}' forgets whole classes"):
            make(single, settings)
        with pytest.raises(InputError, match="needs at least two classes that stay, but 2 classes without 1"):
            make(two, settings)
        with pytest.raises(InputError, match="reads the original model"):
            make(untrained, settings)
        with pytest.raises(InputError, match="directions is 10, but 10 centred columns of 16 numbers have 9"):
            make(digits, dataclasses.replace(settings, directions=10))
    with pytest.raises(InputError, match="'trw' got no example to retain"):
        trw(nothing, TrwConfig(TUNING))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta", float("nan")),
        ("level", 1.0),
        ("level", -0.1),
        ("temperature", 0.0),
        ("directions", -1),
        ("forget_weight", 0.0),
    ],
)
def test_bad_settings_are_named(key, value):
    with pytest.raises(InputError, match=f"{key} is {value}, but expected"):
        TrwConfig(**{key: value})
    if key in ("beta", "temperature", "directions"):
        with pytest.raises(InputError, match=f"{key} is {value}, but expected"):
            TrwHeadConfig(**{key: value})
    with pytest.raises(InputError, match="margin is 0.0, but expected a positive finite number of nats"):
        TrwHeadConfig(margin=0.0)
