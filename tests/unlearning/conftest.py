"""A class to forget, small enough to train on in every test."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, ModelConfig, OptimizationConfig
from mu_jax.models import build_model
from mu_jax.unlearning import Task, carry_out, retrain

SHAPE, CLASSES, TRAIN, N = (8, 8, 1), 5, 240, 360
FORGOTTEN = 2


def _task(name: str, lowering: str) -> Task:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, N).astype(np.int32)
    prototypes = rng.integers(70, 186, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + rng.normal(0, 50, (N, *SHAPE)), 0, 255).astype(np.uint8)
    architecture = ModelConfig(name=name, width=8)
    # The last 120 rows are test examples.
    train = np.random.default_rng(1).permutation(TRAIN)
    return Task(
        model=build_model(architecture, num_classes=CLASSES, image_shape=SHAPE, convolution=lowering),
        images=jnp.asarray(images), labels=labels, num_classes=CLASSES,
        retain=train[labels[train] != FORGOTTEN], forget=train[labels[train] == FORGOTTEN], data=DataConfig(),
        seed=0, forget_classes=(FORGOTTEN,), architecture=architecture, lowering=lowering,
    )  # fmt: skip


def _trained(name: str) -> Task:
    task = _task(name, "xla")
    everything = dataclasses.replace(task, retain=np.arange(TRAIN))
    optimization = OptimizationConfig(epochs=12.0, batch_size=30, learning_rate=0.03, schedule="cosine")
    plan = retrain(everything, optimization, name="original")
    return dataclasses.replace(task, original=carry_out(plan, task, chunk_steps=24).variables)


@pytest.fixture(scope="session", name="mlp_task")
def mlp_task_fixture() -> Task:
    """An MLP that learned five classes, of which one is to be forgotten."""
    return _trained("mlp")


@pytest.fixture(scope="session", name="cnn_task")
def cnn_task_fixture() -> Task:
    """The same of a CNN."""
    return _trained("cnn")


@pytest.fixture(scope="session", name="accuracies")
def accuracies_fixture():
    """`accuracies(task, variables) -> (of the training examples to forget, of those to keep, of the kept classes' test
    examples)`."""

    def accuracies(task, variables):
        right = np.argmax(dataclasses.replace(task, original=variables).original_logits("test"), axis=1)
        right = right == task.labels
        test = np.setdiff1d(np.arange(N), np.concatenate([task.retain, task.forget]))
        test = test[~np.isin(task.labels[test], task.forget_classes)]
        return tuple(float(right[rows].mean()) for rows in (task.forget, task.retain, test))

    return accuracies
