"""Train, forget, audit in memory: the same figures as by hand, and bad arrays named."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from mu_jax.api import audit, forget, train
from mu_jax.config import InputError, ModelConfig
from mu_jax.data.digits import load
from mu_jax.training.chunk import make_run_chunk

DIGITS = load()
X, Y, X_TEST, Y_TEST = (
    DIGITS.x_train[:160, ..., 0],
    DIGITS.y_train[:160].astype(np.int64),
    DIGITS.x_test,
    DIGITS.y_test,
)
HOW = {"epochs": 40, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.0}
GONE = np.arange(40)
# A third of all labels are wrong, so that only memory is right about them.
WRONG = np.random.default_rng(0).random(160) < 0.33
Y = np.where(WRONG, (Y + 1) % 10, Y)


class Net(nn.Module):
    width: int = 64

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1))))


@pytest.fixture(scope="module", name="original")
def original_fixture():
    return train(Net(), X, Y, **HOW)


@pytest.fixture(scope="module", name="models")
def models_fixture(original):
    finetuned = forget(original, GONE, "finetune", epochs=2.0, batch_size=16, learning_rate=0.05)
    return {"original": original, "finetune": finetuned, "retrain": forget(original, GONE, "retrain")}


def test_the_story_in_ten_lines(models):
    found = audit(models, GONE, X_TEST, Y_TEST)
    original, retrained = found.models["original"], found.models["retrain"]
    assert original["accuracy"]["forget"] == 1
    assert retrained["accuracy"]["forget"] < 0.85
    assert original["attacks"]["loss_threshold"]["auc"] > retrained["attacks"]["loss_threshold"]["auc"] + 0.1
    assert retrained["gap_to_retrain"] == 0 < original["gap_to_retrain"]
    assert original["trained_samples"] == 40 * 160 and retrained["trained_samples"] == 40 * 120
    lines = str(found).splitlines()
    assert lines[0].split()[:3] == ["Model", "Retain", "%"] and [
        line.split()[0] for line in lines[1:]
    ] == list(models)


def test_the_figures_are_those_by_hand(models):
    model = models["finetune"]
    logits = np.concatenate([model.predict(X), model.predict(X_TEST)]).astype(np.float64)
    labels = np.concatenate([Y, Y_TEST])
    right = logits.argmax(1) == labels
    found = audit({"it": model, "original": models["original"]}, GONE, X_TEST, Y_TEST).models["it"]
    kept = np.setdiff1d(np.arange(160), GONE)
    assert found["accuracy"] == pytest.approx(
        {"retain": right[kept].mean(), "forget": right[GONE].mean(), "test": right[160:].mean()}
    )
    loss = (
        np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1))
        + logits.max(1)
        - logits[np.arange(len(labels)), labels]
    )
    members, others = loss[GONE][:, None], loss[160:][None]
    auc = np.mean((members < others) + 0.5 * (members == others))
    assert found["attacks"]["loss_threshold"]["auc"] == pytest.approx(auc, abs=1e-3)
    assert found["gap_to_retrain"] is None
    assert model.accuracy(X_TEST, Y_TEST) == pytest.approx(right[160:].mean())


def test_retraining_knows_nothing_of_the_forgotten(original, models):
    """Bit for bit what training on the rest makes, with the forgotten images overwritten."""
    noise = X.copy()
    noise[GONE] = np.random.default_rng(1).integers(0, 256, noise[GONE].shape)
    rest = train(Net(), noise, Y, rows=np.arange(40, 160), name="retrain", **HOW)
    jax.tree.map(np.testing.assert_array_equal, rest.variables, models["retrain"].variables)
    np.testing.assert_array_equal(models["retrain"].task.retain, np.arange(40, 160))
    # The original was not touched, and another seed is another model.
    assert original.task.original is None
    other = train(Net(), X, Y, seed=1, **(HOW | {"epochs": 1}))
    assert not np.array_equal(
        other.predict(X_TEST), train(Net(), X, Y, **(HOW | {"epochs": 1})).predict(X_TEST)
    )


def test_models_of_one_network_share_their_program():
    before = make_run_chunk.cache_info().misses
    train(Net(), X, Y, seed=5, name="a", **(HOW | {"epochs": 1}))
    train(Net(), X, Y, seed=6, name="b", rows=np.arange(100), **(HOW | {"epochs": 1}))
    assert make_run_chunk.cache_info().misses - before <= 1


@pytest.mark.parametrize("method", ["random_labels", pytest.param("amun", marks=pytest.mark.slow)])
def test_a_second_request_follows_the_first(original, method):
    first = forget(original, GONE[:8], method, epochs=1.0, batch_size=16, learning_rate=0.01)
    assert first.name == method and len(first.task.retain) == 152
    second = forget(
        first, GONE[8:16], "gradient_ascent", epochs=1.0, batch_size=8, learning_rate=1e-3, name="second"
    )
    assert second.name == "second" and len(second.task.retain) == 144
    with pytest.raises(
        InputError, match=rf"holds 1 positions that '{method}' was not trained on, the first of them 3"
    ):
        forget(first, np.array([3, 20]), "finetune")


def test_a_class_goes_by_a_method_for_classes(original):
    of_class = np.flatnonzero(Y == 3)
    without = forget(original, of_class, "linear_filtration", classes=(3,))
    assert not (without.predict(X_TEST).argmax(axis=1) == 3).any()
    assert without.trained_samples == 0


def test_augmentation_is_that_of_the_classifier(original):
    from mu_jax.api.forgetting import _with_settings
    from mu_jax.config.methods import AmunConfig

    published = AmunConfig()
    assert published.optimization.flip and published.optimization.crop_padding
    mine = _with_settings(published, {"epochs": 3, "l1": 0.5}, original.optimization)
    assert (mine.optimization.flip, mine.optimization.crop_padding) == (False, 0)
    assert (mine.optimization.epochs, mine.l1) == (3.0, 0.5)


def test_built_in_networks_serve_as_well():
    model = train(ModelConfig(name="logistic_regression", width=1), X, Y, **(HOW | {"epochs": 5}))
    assert model.predict(X_TEST[:7]).shape == (7, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": X.astype(np.float32)}, "expected uint8"),
        ({"images": X[:10]}, r"expected \(10,\), one label an image"),
        ({"labels": Y.astype(float)}, "labels has dtype float64"),
        ({"labels": np.where(Y == 1, -1, Y)}, "whole numbers from 0"),
        ({"labels": Y + 10**6}, "expected classes numbered from 0"),
        ({"num_classes": 5}, "holds labels 0..9, but expected 0..4"),
        ({"num_classes": 12}, r"expected logits of shape \(2, 12\)"),
        ({"rows": np.array([0, 0])}, "1 of them twice"),
        ({"rows": np.array([200])}, "expected distinct ones in 0..159"),
        ({"rows": WRONG}, "give np.flatnonzero"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values and std 1, but the images have 1 channels"),
        ({"epoch": 3}, "'epoch' is not a setting; did you mean 'epochs'"),
        ({"epochs": "many"}, "epochs is 'many', but expected a value of type float; correct it"),
        ({"epochs": -1}, "epochs is -1.0, but expected a positive number; correct it"),
    ],
)
def test_bad_arrays_and_settings_are_refused_in_one_sentence(change, message):
    given = {"images": X, "labels": Y, **HOW} | change
    with pytest.raises(InputError, match=message) as refused:
        train(Net(), given.pop("images"), given.pop("labels"), **given)
    assert "\n" not in str(refused.value) and "--config" not in str(refused.value)


def test_bad_requests_are_refused(original, models):
    class Listed(nn.Module):
        sizes: list

        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(10)(images.reshape(images.shape[0], -1))

    cases = [
        (lambda: forget(original, GONE, "finetun"), "did you mean 'finetune'"),
        (lambda: forget(original, np.arange(160), "retrain"), "holds all 160 examples"),
        (lambda: forget(original, GONE, "amun_transferred"), "needs an adversarial set of another model"),
        (lambda: forget(original, GONE, "trw"), "forgets whole classes"),
        (lambda: audit({}, GONE, X_TEST, Y_TEST), "classifiers is empty"),
        (lambda: audit(models, GONE, X_TEST, Y_TEST + 20), "expected 0..9"),
        (lambda: train(Listed([1]), X, Y), "cannot be hashed"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
    shorter = train(Net(), X[:100], Y[:100], num_classes=10, **(HOW | {"epochs": 1}))
    with pytest.raises(InputError, match="trained on different examples"):
        audit({"a": original, "b": shorter}, GONE, X_TEST, Y_TEST)
