"""Transfer learning: all models start from the same pretrained weights, and only those that may see what must go."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    PretrainedConfig,
    TransferUnlearning,
    UnlearnSaved,
)
from mu_jax.config.class_methods import ClassMethodsConfig
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits
from mu_jax.evaluation import report
from mu_jax.experiments import transfer_unlearning
from mu_jax.experiments.pretrained import PretrainedWeights, settle, with_new_head
from mu_jax.experiments.saved_checkpoint import read_checkpoint
from mu_jax.experiments.saved_models import load_model
from mu_jax.models import build_model
from mu_jax.models.head import head_of

TRAINING = OptimizationConfig(epochs=20.0, batch_size=16, learning_rate=0.05, weight_decay=0.0)
CONFIG = TransferUnlearning(
    pretrained=PretrainedConfig(
        data=DataConfig(classes=(0, 1, 2, 3), train_examples=160, test_examples=40), train=TRAINING
    ),
    data=DataConfig(classes=(5, 6, 7), train_examples=120, test_examples=100, label_noise=0.3),
    forget=ForgetConfig(fraction=0.25),
    model=ModelConfig(name="mlp", width=64),
    train=dataclasses.replace(TRAINING, epochs=80.0),
    names=("finetune",),
    methods=ClassMethodsConfig(finetune=dataclasses.replace(TRAINING, epochs=2.0)),
    loop=LoopConfig(chunk_steps=100),
    evaluation=EvaluationConfig(bootstrap_samples=100, query_batch=110, gallery_images=2),
)


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("transfer") / "run"
    results, done_before = transfer_unlearning.run(CONFIG, workdir)
    assert not done_before
    return workdir, results


def test_the_folder_tells_the_whole_story(finished):
    workdir, results = finished
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "results.json", "report.html", "splits.npz", "logits.npz", "checkpoints"} <= names
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {
        "pretrained", "original", "finetune", "retrain", "retrain_again",
    }  # fmt: skip
    assert list(results["models"]) == ["original", "finetune", "retrain", "retrain_again"]
    assert results["data"]["classes"] == 3 and results["pretrained"]["classes"] == 4
    assert results["pretrained"]["trained_samples"] == 20 * 160
    assert results["models"]["retrain"]["gap_to_retrain"] == 0
    assert transfer_unlearning.run(CONFIG, workdir) == (results, True)
    assert json.loads((workdir / "results.json").read_text()) == results


def test_memory_is_seen_in_the_original_and_not_where_the_forgotten_was_never_shown(finished):
    _, results = finished
    models = results["models"]
    auc = {name: model["attacks"]["loss_threshold"]["auc"] for name, model in models.items()}
    assert models["original"]["accuracy"]["forget"] > 0.95
    assert models["retrain"]["accuracy"]["forget"] < 0.85
    assert auc["original"] - auc["retrain"] > 0.15


def test_what_was_forgotten_leaves_no_bit_in_the_retrained_model(finished, tmp_path, monkeypatch):
    """Overwritten by noise, the forgotten images change `original` and nothing of `retrain`."""
    workdir, _ = finished
    forget = Splits.load(workdir / "splits.npz").forget
    read = transfer_unlearning.read_data

    def noisy(config, seed):
        dataset = read(config, seed)
        if config.classes != CONFIG.data.classes:
            return dataset
        images = dataset.x_train.copy()
        images[forget] = np.random.default_rng(0).integers(0, 256, images[forget].shape)
        return dataclasses.replace(dataset, x_train=images)

    monkeypatch.setattr(transfer_unlearning, "read_data", noisy)
    monkeypatch.setattr(report, "write_report", lambda *_: None)
    transfer_unlearning.run(CONFIG, tmp_path / "run")
    models = {
        name: [load_model(where, name).variables for where in (workdir, tmp_path / "run")]
        for name in ("retrain", "original")
    }
    jax.tree.map(np.testing.assert_array_equal, *models["retrain"])
    first, second = (jax.tree.leaves(one) for one in models["original"])
    assert any((a != b).any() for a, b in zip(first, second, strict=True))


def test_a_run_that_was_cut_off_ends_with_the_same_bits(finished, tmp_path, monkeypatch):
    workdir, _ = finished
    monkeypatch.setattr(report, "write_report", lambda *_: None)
    evaluate = transfer_unlearning.query_models
    monkeypatch.setattr(transfer_unlearning, "query_models", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        transfer_unlearning.run(CONFIG, tmp_path / "run")
    monkeypatch.setattr(transfer_unlearning, "query_models", evaluate)
    transfer_unlearning.run(CONFIG, tmp_path / "run")
    with np.load(workdir / "logits.npz") as mine, np.load(tmp_path / "run" / "logits.npz") as theirs:
        assert mine.files == theirs.files
        for name in mine.files:
            np.testing.assert_array_equal(mine[name], theirs[name])


def test_a_new_head_is_the_models_own_and_all_else_is_shared():
    old, new = (
        build_model(CONFIG.model, num_classes=c, image_shape=(8, 8, 1), convolution="xla") for c in (4, 3)
    )
    weights = PretrainedWeights(old, old.init(jax.random.key(0)), 4)
    first, again, other, seeded = (
        with_new_head(weights, new, 3, *how) for how in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
    )
    _, kernel, bias = head_of(new, first["params"])
    assert kernel.shape == (64, 3) and bias.shape == (3,)
    assert np.abs(kernel).max() <= 64**-0.5 and np.abs(kernel).max() > 0.9 * 64**-0.5
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for changed in (other, seeded):
        assert (head_of(new, changed["params"])[1] != kernel).any()
    assert first["params"]["hidden1"] is weights.variables["params"]["hidden1"]
    images = np.zeros((2, 8, 8, 1), np.float32)
    assert new.apply(first, images, train=False)[0].shape == (2, 3)


def test_it_goes_on_from_a_finished_runs_folder_and_its_own_folder_is_one(finished, tmp_path, monkeypatch):
    workdir, _ = finished
    monkeypatch.setattr(report, "write_report", lambda *_: None)
    quick = dataclasses.replace(TRAINING, epochs=1.0)
    config = dataclasses.replace(
        CONFIG,
        pretrained=PretrainedConfig(checkpoint=str(workdir), checkpoint_model="retrain"),
        data=DataConfig(classes=(8, 9), train_examples=64, test_examples=40),
        model=ModelConfig(),
        train=quick,
        methods=ClassMethodsConfig(finetune=quick),
    )
    settled, run = settle(config, {})
    # The run's architecture, without being told.
    assert settled.model == CONFIG.model and run.name == "retrain"
    results, _ = transfer_unlearning.run(config, tmp_path / "next")
    assert results["pretrained"]["classes"] == 3 and results["data"]["classes"] == 2
    assert results["pretrained"]["seconds"] is None
    images = load_dataset(config.data, config.seed).x_test
    assert load_model(tmp_path / "next", "retrain").predict(images).shape == (40, 2)
    settled, run = read_checkpoint(UnlearnSaved(checkpoint=str(tmp_path / "next")), {})
    assert settled.model == CONFIG.model and settled.data.classes == (8, 9)
    assert len(run.rows()[0]) == 64


def test_bad_input_is_one_sentence_and_writes_nothing(finished, tmp_path):
    workdir, _ = finished
    here = PretrainedConfig(checkpoint=str(workdir))

    def change(**changes):
        return dataclasses.replace(CONFIG, **changes)

    large = np.zeros((20, 12, 12, 1), np.uint8)
    np.savez(
        tmp_path / "large.npz",
        x_train=large,
        y_train=np.arange(20) % 2,
        x_test=large,
        y_test=np.arange(20) % 2,
    )
    elsewhere = DataConfig(source=f"npz:{tmp_path / 'large.npz'}")
    cases = [
        (change(names=("amun",)), "needs an adversarial set"),
        (change(names=("finetun",)), "did you mean 'finetune'"),
        (
            change(pretrained=PretrainedConfig(checkpoint=str(tmp_path / "no"))),
            "--config.pretrained.checkpoint|no such folder",
        ),
        (change(pretrained=dataclasses.replace(here, checkpoint_model="amun")), "has no model 'amun'"),
        (change(pretrained=PretrainedConfig(checkpoint_model="retrain")), "pretrained.checkpoint is empty"),
        (
            change(pretrained=here, model=ModelConfig(name="mlp", width=8)),
            "model.width is 8, but the checkpoint",
        ),
        (
            change(pretrained=here, data=dataclasses.replace(CONFIG.data, mean=(0.4,))),
            r"data.mean is \(0.4,\), but the pretrained",
        ),
        (change(pretrained=here, data=elsewhere), "do not fit images of 12×12×1"),
        (change(data=elsewhere), "pretrained.data has images of .8, 8, 1., but data of .12, 12, 1."),
        (
            change(pretrained=PretrainedConfig(checkpoint=str(tmp_path / "large.npz"))),
            "model.name is 'mlp', but expected 'resnet18'",
        ),
    ]
    for bad, message in cases:
        with pytest.raises(InputError, match=message) as refused:
            transfer_unlearning.run(bad, tmp_path / "run")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists(), message
    with pytest.raises(InputError, match="names is"):
        change(names=())
