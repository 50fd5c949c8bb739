"""Robust accuracy and transfer, counted by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from mu_jax.adversarial.pgd import pgd_l2
from mu_jax.adversarial.pixels import PixelModel, predict
from mu_jax.adversarial.robustness import robust_accuracy, transfer_rate
from mu_jax.config import InputError
from mu_jax.models.mlp import mlp_model

SHAPE, N = (4, 4, 1), 20
EPSILON = {"epsilon": 0.2, "steps": 11, "batch_size": 8}


@pytest.fixture(scope="module")
def linear():
    rng = np.random.default_rng(0)
    attacked = PixelModel(mlp_model((), 2, SHAPE), (0.5,), (0.25,))
    variables = attacked.model.init(jax.random.key(0))
    images = rng.uniform(0.3, 0.7, (N, *SHAPE)).astype(np.float32)
    labels = predict(attacked, variables, images)
    labels[:4] = 1 - labels[:4]
    return attacked, variables, images, labels


def test_robust_accuracy_of_a_linear_model_is_known(linear):
    attacked, variables, images, labels = linear
    kernel = next(x for x in jax.tree.leaves(variables["params"]["head"]) if x.ndim == 2)
    w = np.asarray(kernel[:, 1] - kernel[:, 0]) / 0.25
    logits = np.asarray(attacked.logits(variables, jax.numpy.asarray(images)))
    margin = np.where(labels == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    assert np.mean(margin > 0) == 0.8
    for norm, dual in (("l2", 2), ("linf", 1)):
        # Half way between two distances, so that rounding decides nothing: 10 of 20 withstand.
        nearest = np.sort(margin / np.linalg.norm(w, dual))
        settings = EPSILON | {"epsilon": float(nearest[9:11].mean())}
        assert robust_accuracy(*linear, norm=norm, **settings) == 0.5


def test_transfer_counts_what_both_models_had_right(linear):
    attacked, variables, images, labels = linear
    found = pgd_l2(*linear, **EPSILON | {"max_epsilon": 1.6})
    itself = transfer_rate(found, images, attacked, variables)
    assert itself == (16, 1.0, 1.0)
    other = attacked.model.init(jax.random.key(5))
    mixed = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, variables, other)
    before, after = (predict(attacked, mixed, pixels) for pixels in (images, found.images))
    rows = [n for n in range(4, N) if before[n] == labels[n]]
    flips = sum(after[n] != labels[n] for n in rows)
    assert 0 < flips < len(rows) < N
    transfer = transfer_rate(found, images, attacked, mixed)
    assert transfer == (len(rows), flips / len(rows), flips / len(rows))


def test_with_three_classes_another_wrong_label_is_no_same_label():
    attacked = PixelModel(mlp_model((), 3, SHAPE), (0.5,), (0.25,))
    variables = attacked.model.init(jax.random.key(1))
    images = np.random.default_rng(1).uniform(0.3, 0.7, (N, *SHAPE)).astype(np.float32)
    labels = predict(attacked, variables, images)
    found = pgd_l2(attacked, variables, images, labels, **EPSILON | {"max_epsilon": 1.6})
    third = dataclasses.replace(found, predicted=3 - labels - found.predicted)
    assert transfer_rate(third, images, attacked, variables) == (N, 1.0, 0.0)


def test_bad_input_is_one_sentence(linear):
    attacked, variables, images, labels = linear
    found = pgd_l2(*linear, **EPSILON)
    with pytest.raises(InputError, match="expected the images that were attacked"):
        transfer_rate(found, images[:5], attacked, variables)
    with pytest.raises(InputError, match="The examples are of a targeted attack"):
        transfer_rate(dataclasses.replace(found, targeted=True), images, attacked, variables)
    nothing = pgd_l2(attacked, variables, images, labels, epsilon=1e-6, steps=2, batch_size=8)
    with pytest.raises(InputError, match="None of the 20 examples is right on both models and flips"):
        transfer_rate(nothing, images, attacked, variables)
