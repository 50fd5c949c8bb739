import dataclasses
import json

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
    UnlearningComparison,
    to_dict,
)
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.unlearning_comparison import run

OPTIMIZATION = OptimizationConfig(epochs=60.0, batch_size=16, learning_rate=0.05, weight_decay=0.0)
CONFIG = UnlearningComparison(
    data=DataConfig(train_examples=160, test_examples=200, label_noise=0.3),
    forget=ForgetConfig(fraction=0.4),
    model=ModelConfig(name="mlp", width=64),
    train=OPTIMIZATION,
    finetune=dataclasses.replace(OPTIMIZATION, epochs=2.0),
    loop=LoopConfig(chunk_steps=200),
    evaluation=EvaluationConfig(bootstrap_samples=200, query_batch=64, gallery_images=4),
)


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("comparison") / "run"
    results, done_before = run(CONFIG, workdir)
    assert not done_before
    return workdir, results


def test_the_folder_holds_what_the_contract_lists(finished):
    workdir, results = finished
    names = {path.name for path in workdir.iterdir()}
    assert {
        "config.json", "metrics.jsonl", "results.json", "report.html", "figures", "checkpoints", "splits.npz",
        "logits.npz",
    } <= names  # fmt: skip
    assert len(list((workdir / "figures").glob("*.png"))) == 4
    assert json.loads((workdir / "results.json").read_text()) == results
    assert json.loads((workdir / "config.json").read_text())["config"] == to_dict(CONFIG)


def test_memorised_labels_are_visible_in_the_original_and_not_after_retraining(finished):
    _, results = finished
    models = results["models"]
    assert list(models) == ["original", "finetune", "retrain", "retrain_again"]
    auc = {name: model["attacks"]["loss_threshold"]["auc"] for name, model in models.items()}
    assert models["original"]["accuracy"]["forget"] > 0.95
    assert auc["original"] > 0.65
    for name in ("retrain", "retrain_again"):
        assert abs(auc[name] - 0.5) < 0.12
        assert models[name]["accuracy"]["forget"] < 0.85
        low, high = models[name]["attacks"]["loss_threshold"]["interval"]["auc"]
        assert low < auc[name] < high
    assert models["retrain"]["gap_to_retrain"] == 0
    assert 0 < models["retrain_again"]["gap_to_retrain"] < models["original"]["gap_to_retrain"]


def test_figures_in_results_agree_with_the_stored_logits(finished):
    workdir, results = finished
    splits = Splits.load(workdir / "splits.npz")
    with np.load(workdir / "logits.npz", allow_pickle=False) as stored:
        labels, logits = stored["labels"], stored["finetune"]
    finetune = results["models"]["finetune"]
    correct = logits.argmax(1) == labels
    assert finetune["accuracy"]["retain"] == pytest.approx(correct[splits.retain].mean())
    assert finetune["accuracy"]["forget"] == pytest.approx(correct[splits.forget].mean())
    # Mann–Whitney on the loss, by comparing every pair.
    z = logits.astype(np.float64)
    loss = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(len(z)), labels]
    members, others = loss[splits.forget][:, None], loss[splits.test][None]
    auc = np.mean((members < others) + 0.5 * (members == others))
    assert finetune["attacks"]["loss_threshold"]["auc"] == pytest.approx(auc, abs=2e-4)
    parts = finetune["gap_parts"]
    assert finetune["gap_to_retrain"] == pytest.approx(np.mean(list(parts.values())))


def test_examples_and_epochs_are_counted_honestly(finished):
    workdir, results = finished
    models = results["models"]
    # 160 examples, of which 96 stay: ⌈60·160/16⌉ = 600 steps, ⌈60·96/16⌉ = 360, ⌈2·96/16⌉ = 12.
    assert [model["trained_samples"] for model in models.values()] == [9600, 192, 5760, 5760]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["model"] == "original"]
    assert steps == [200, 400, 600]


def test_a_finished_run_hands_out_its_models(finished):
    workdir, _ = finished
    with np.load(workdir / "logits.npz", allow_pickle=False) as stored:
        wanted = {name: stored[name] for name in ("finetune", "retrain")}
    images = load_dataset(CONFIG.data, CONFIG.seed).images
    for name, logits in wanted.items():
        np.testing.assert_allclose(load_model(workdir, name).predict(images), logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="has no model 'amun', but original, finetune"):
        load_model(workdir, "amun")
    with pytest.raises(InputError, match="holds no finished run"):
        load_model(workdir / "checkpoints", "finetune")


def test_the_same_command_again_only_says_done(finished):
    workdir, results = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again, done_before = run(CONFIG, workdir)
    assert done_before
    assert again == results
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_another_config_on_the_folder_is_refused(finished):
    workdir, _ = finished
    with pytest.raises(InputError, match="seed was 0 and is now 1"):
        run(dataclasses.replace(CONFIG, seed=1), workdir)


def test_forgetting_a_class_compares_with_that_class_and_keeps_its_column(tmp_path):
    short = dataclasses.replace(OPTIMIZATION, epochs=12.0)
    config = dataclasses.replace(
        CONFIG,
        data=DataConfig(train_examples=300, validation_fraction=0.1),
        forget=ForgetConfig(classes=(3,)),
        train=short,
    )
    results, _ = run(config, tmp_path / "run")
    splits = Splits.load(tmp_path / "run" / "splits.npz")
    with np.load(tmp_path / "run" / "logits.npz", allow_pickle=False) as stored:
        labels, logits = stored["labels"], stored["retrain"]
    assert set(labels[splits.forget]) == {3}
    assert 3 not in labels[splits.retain]
    assert logits.shape[1] == 10
    assert results["data"]["nonmembers"] == np.sum(labels[splits.test] == 3) < results["data"]["test"]
    assert results["models"]["retrain"]["accuracy"]["forget"] == 0.0
    assert results["models"]["original"]["accuracy"]["forget"] > 0.8
    assert "validation" in results["models"]["retrain"]["accuracy"]


def test_one_deletion_is_enough(tmp_path):
    np.save(tmp_path / "one.npy", np.array([7]))
    config = dataclasses.replace(
        CONFIG,
        forget=ForgetConfig(indices=str(tmp_path / "one.npy")),
        train=dataclasses.replace(OPTIMIZATION, epochs=1.0),
    )
    results, _ = run(config, tmp_path / "run")
    assert results["data"]["forget"] == 1
    attacks = results["models"]["original"]["attacks"]
    assert "loss_logistic" not in attacks
    assert attacks["loss_threshold"]["accuracy"] is None
    low, high = attacks["loss_threshold"]["interval"]["auc"]
    assert high - low > 0.5  # one example says next to nothing of the attack
    assert (tmp_path / "run" / "report.html").exists()


def test_images_of_two_channels_are_trained_on_and_shown(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        data=DataConfig(source="synthetic:8,8,2,3,60,40"),
        train=dataclasses.replace(OPTIMIZATION, epochs=1.0),
    )
    run(config, tmp_path / "run")
    assert (tmp_path / "run" / "results.json").exists()


def test_nothing_is_written_when_the_input_is_bad(tmp_path):
    for config, message in (
        (dataclasses.replace(CONFIG, data=DataConfig(source="npz:/absent.npz")), "absent.npz"),
        (dataclasses.replace(CONFIG, data=DataConfig(mean=(0.1, 0.2))), "data.mean has 2 values"),
        (dataclasses.replace(CONFIG, forget=ForgetConfig(classes=(11,))), "11"),
    ):
        with pytest.raises(InputError, match=message):
            run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_every_setting_is_read_by_something(tmp_path, monkeypatch):
    """A key that nothing reads is a lie: record what runs of every kind read, and compare with what there is."""
    read, classes = set(), {}

    def walk(dataclass):
        classes[type(dataclass)] = [field.name for field in dataclasses.fields(dataclass)]
        for field in dataclasses.fields(dataclass):
            value = getattr(dataclass, field.name)
            if dataclasses.is_dataclass(value):
                walk(value)

    np.save(tmp_path / "some.npy", np.arange(12))
    small = dataclasses.replace(CONFIG, train=dataclasses.replace(OPTIMIZATION, epochs=0.5, schedule="step"))
    pixels = tmp_path / "pixels"
    for split in ("train", "test"):
        for label in ("a", "b"):
            (pixels / split / label).mkdir(parents=True)
            for i in range(4):
                _write_gray_image(pixels / split / label / f"{i}.png", (i + 5, i + 5), seed=i)
    configs = [
        small,
        dataclasses.replace(
            small,
            model=ModelConfig(name="cnn", width=2),
            data=DataConfig(source=f"folder:{pixels}", image_size=8),
            forget=ForgetConfig(fraction=0.3),
        ),
        dataclasses.replace(small, forget=ForgetConfig(indices=str(tmp_path / "some.npy"))),
    ]
    walk(configs[0])

    def recorder(cls):
        def __getattribute__(self, name):
            if name in classes[cls]:
                read.add((cls, name))
            return object.__getattribute__(self, name)

        return __getattribute__

    for cls in classes:
        monkeypatch.setattr(cls, "__getattribute__", recorder(cls), raising=False)
    for i, config in enumerate(configs):
        run(config, tmp_path / f"run{i}")
    # `halve_shortcut` belongs to the ResNet, which takes long to compile: building one is reading it.
    from mu_jax.models import build_model

    build_model(
        ModelConfig(name="resnet18", width=4), num_classes=2, image_shape=(8, 8, 1), convolution="patches"
    )
    unread = {
        (cls.__name__, name) for cls, names in classes.items() for name in names if (cls, name) not in read
    }
    assert not unread


def _write_gray_image(path, size, seed):
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels, mode=None).save(path)
