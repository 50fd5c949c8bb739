"""A user's own network in run folders: recorded, signed, and run only where it is named."""

import dataclasses
import json
import shutil

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
    SisaDelete,
    Spectra,
    UnlearningComparison,
    UnlearnSaved,
    to_dict,
)
from mu_jax.config.class_methods import ClassMethodsConfig
from mu_jax.data.sources import load_dataset
from mu_jax.evaluation import report
from mu_jax.experiments import sisa_delete, unlearn_saved, unlearning_comparison
from mu_jax.experiments.named_code import SIGNATURE
from mu_jax.experiments.saved_checkpoint import read_checkpoint
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.spectra_source import read_measured
from mu_jax.experiments.sweep_setting import prepare_sweep
from mu_jax.models.own_code import signature_of
from tiny_sweep import CONFIG as SWEEP

SOURCE = """
import flax.linen as nn

def get_config():
    return 1

class Net(nn.Module):
    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(self.width, (3, 3), strides=(2, 2), padding=1)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))
"""
TRAINING = OptimizationConfig(epochs=2.0, batch_size=16, learning_rate=0.05, weight_decay=0.0)


@pytest.fixture(scope="module", name="place")
def place_fixture(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "net.py"
    path.write_text(SOURCE)
    return f"{path}:Net"


@pytest.fixture(scope="module", name="config")
def config_fixture(place):
    return UnlearningComparison(
        data=DataConfig(train_examples=96, test_examples=64),
        forget=ForgetConfig(fraction=0.25),
        model=ModelConfig(name="own", module=place, width=4),
        train=TRAINING,
        finetune=dataclasses.replace(TRAINING, epochs=1.0),
        loop=LoopConfig(chunk_steps=6),
        evaluation=EvaluationConfig(bootstrap_samples=100, query_batch=80, gallery_images=2),
    )


@pytest.fixture(scope="module", name="finished")
def finished_fixture(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("own") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda *_: None)
        results, _ = unlearning_comparison.run(config, workdir)
    return workdir, results


def test_a_comparison_trains_it_and_records_its_place_and_signature(finished, config, place):
    workdir, results = finished
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["config"]["model"]["module"] == place
    assert saved["inputs"][SIGNATURE] == signature_of(place)
    assert results["model"]["name"] == "own"
    assert results["model"]["parameters"] == 9 * 4 + 4 + 2 * 4 + (16 * 4 + 1) * 10
    assert list(results["models"]) == ["original", "finetune", "retrain", "retrain_again"]
    assert unlearning_comparison.run(config, workdir) == (results, True)


def test_a_saved_model_is_loaded_where_its_code_is_named(finished, config, place):
    workdir, _ = finished
    images = load_dataset(config.data, config.seed).images
    with np.load(workdir / "logits.npz") as stored:
        logits = stored["finetune"]
    predicted = load_model(workdir, "finetune", module=place).predict(images)
    np.testing.assert_allclose(predicted, logits, rtol=1e-4, atol=1e-5)


def test_code_that_only_a_folder_names_is_never_run(finished, place, tmp_path):
    workdir, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    evil = tmp_path / "evil.py"
    evil.write_text(f"raise SystemExit('ran')\n{SOURCE}")
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(json.dumps(place), json.dumps(f"{evil}:Net")))
    for call in (
        lambda: load_model(copy, "original"),
        lambda: read_checkpoint(UnlearnSaved(checkpoint=str(copy)), {}),
        lambda: read_measured(Spectra(checkpoint=str(copy))),
    ):
        with pytest.raises(
            InputError, match="somebody's own code, .*which is not run because a folder says so"
        ) as refused:
            call()
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="holds a mlp and needs no code of yours"):
        with_mlp = json.loads(text)
        with_mlp["config"]["model"] |= {"name": "mlp", "module": ""}
        (copy / "config.json").write_text(json.dumps(with_mlp))
        load_model(copy, "original", module=place)


def test_a_sisa_folder_runs_no_code_that_it_only_names(place, tmp_path):
    folder = to_dict(SisaDelete(model=ModelConfig(name="own", module=place)))
    (tmp_path / "config.json").write_text(json.dumps({"config": folder, "inputs": {}, "versions": {}}))
    with pytest.raises(InputError, match="which is not run because a folder says so"):
        sisa_delete.run(SisaDelete(), tmp_path)
    with pytest.raises(InputError, match="holds a model of other code"):
        sisa_delete.run(SisaDelete(model=ModelConfig(name="own", module=place)), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [("return 1", "return 2  # not the network", True), ("padding=1", "padding='SAME'", False)],
)
def test_another_network_is_refused_and_the_same_one_elsewhere_is_not(
    finished, config, old, new, same, tmp_path
):
    workdir, _ = finished
    assert SOURCE.count(old) == 1
    (tmp_path / "moved.py").write_text(SOURCE.replace(old, new))
    place = f"{tmp_path / 'moved.py'}:Net"
    unfinished = tmp_path / "run"
    shutil.copytree(workdir, unfinished)
    (unfinished / "results.json").unlink()
    # The place that the folder knows, with this content.
    saved = json.loads((unfinished / "config.json").read_text())
    saved["config"]["model"]["module"] = place
    (unfinished / "config.json").write_text(json.dumps(saved))
    moved = dataclasses.replace(config, model=dataclasses.replace(config.model, module=place))
    calls = [
        (workdir, lambda: load_model(workdir, "original", module=place), "holds a model of other code"),
        (unfinished, lambda: unlearning_comparison.prepare(moved) and _resumed(moved, unfinished), SIGNATURE),
        (
            workdir,
            lambda: read_checkpoint(
                UnlearnSaved(checkpoint=str(workdir), model=ModelConfig(name="own", module=place)), {}
            ),
            "holds a model of other code",
        ),
    ]
    for _, call, message in calls:
        if same:
            call()
            continue
        with pytest.raises(InputError, match=message):
            call()


def _resumed(config, workdir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda *_: None)
        return unlearning_comparison.run(config, workdir)


def test_one_method_deletes_from_it_and_its_layers_are_measured(
    finished, config, place, tmp_path, monkeypatch
):
    workdir, _ = finished
    monkeypatch.setattr(unlearn_saved, "write_saved_report", lambda *_: None)
    np.save(tmp_path / "some.npy", np.arange(8))
    request = UnlearnSaved(
        checkpoint=str(workdir),
        method="finetune",
        model=ModelConfig(name="own", module=place),
        forget=ForgetConfig(indices=str(tmp_path / "some.npy")),
        methods=ClassMethodsConfig(finetune=config.finetune),
        loop=config.loop,
        evaluation=config.evaluation,
    )
    results, _ = unlearn_saved.run(request, tmp_path / "run")
    assert results["data"]["forget"] == 8 and results["model"]["width"] == 4
    assert load_model(tmp_path / "run", "finetune", module=place).model.layers()[-1].kind == "dense"
    measured = read_measured(Spectra(checkpoint=str(workdir), module=place))
    assert [layer.kind for layer in measured.model.layers()] == ["conv", "dense"]
    with pytest.raises(InputError, match="needs no code of yours|is a file of PyTorch's|no such folder"):
        read_measured(Spectra(checkpoint=str(tmp_path / "some.npy"), image_size=8, module=place))


def test_a_pool_is_keyed_by_its_code_and_not_by_its_place(place, tmp_path):
    def produced(where):
        config = dataclasses.replace(SWEEP, model=ModelConfig(name="own", module=where, width=4))
        return prepare_sweep(config).produced_by()

    (tmp_path / "moved.py").write_text(SOURCE)
    (tmp_path / "other.py").write_text(SOURCE.replace("nn.relu", "nn.gelu"))
    assert produced(place) == produced(f"{tmp_path / 'moved.py'}:Net")
    assert produced(place) != produced(f"{tmp_path / 'other.py'}:Net")
    assert "module" not in prepare_sweep(SWEEP).produced_by()["model"]


@pytest.mark.slow
def test_a_sweep_attacks_it(place, tmp_path):
    from mu_jax.experiments import shadow_sweep

    config = dataclasses.replace(SWEEP, model=ModelConfig(name="own", module=place, width=4))
    results, _ = shadow_sweep.run(config, tmp_path / "run")
    assert results["tables"]["attacks"]
