"""A PyTorch checkpoint as a run's folder: the same logits, and taken by the commands that take one."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    ImportCheckpoint,
    InputError,
    ModelConfig,
    Spectra,
    UnlearnSaved,
)
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits
from mu_jax.experiments import import_checkpoint
from mu_jax.experiments.pretrained import settle
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.saved_checkpoint import read_checkpoint
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.spectra_source import read_measured
from mu_jax.experiments.unlearn_saved_setting import prepare_saved
from mu_jax.models import build_model
from mu_jax.models.pytorch_import import classes_of, load_state_dict
from test_transfer_unlearning import CONFIG as TRANSFER

MODEL = ModelConfig(name="vit", width=8, depth=1, heads=2, patch_size=4)
_BLOCK = {"norm1": "norm1.", "qkv": "self_attn.in_proj_", "projection": "self_attn.out_proj.", "norm2": "norm2.",
          "mlp1": "linear1.", "mlp2": "linear2."}  # fmt: skip
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def state_dict_of(variables):
    """Of a ViT with one block, as `torch.nn.TransformerEncoder` names it."""
    params, named = variables["params"], {}
    named["class_token"] = params["class_token"][None, None]
    named["pos_embedding"] = params["position"][None]
    kernel = params["patches"]["kernel"]
    named["conv_proj.weight"] = kernel.reshape(4, 4, 1, 8).transpose(3, 2, 0, 1)
    named["conv_proj.bias"] = params["patches"]["bias"]
    for name, leaves in [*params["block1"].items(), ("norm", params["norm"]), ("head", params["head"])]:
        prefix = (
            f"encoder.layers.0.{_BLOCK[name]}"
            if name in _BLOCK
            else {"norm": "encoder.norm.", "head": "head."}[name]
        )
        for leaf, value in leaves.items():
            named[prefix + _LEAVES[leaf]] = value.T
    return {name: np.ascontiguousarray(value) for name, value in named.items()}


@pytest.fixture(scope="module", name="given")
def given_fixture(tmp_path_factory):
    """(its file, the variables in it)"""
    numpy_file = pytest.importorskip("safetensors.numpy")
    model = build_model(MODEL, num_classes=10, image_shape=(8, 8, 1), convolution="xla")
    variables = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    path = tmp_path_factory.mktemp("file") / "vit.safetensors"
    wrapped = {f"model.module.{name}": value for name, value in state_dict_of(variables).items()}
    numpy_file.save_file(wrapped, path)
    return path, variables


@pytest.fixture(scope="module", name="finished")
def finished_fixture(given, tmp_path_factory):
    config = ImportCheckpoint(
        checkpoint=str(given[0]),
        data=DataConfig(train_examples=120, test_examples=80, validation_fraction=0.1),
        model=MODEL,
        evaluation=EvaluationConfig(bootstrap_samples=100, query_batch=100),
    )
    workdir = tmp_path_factory.mktemp("imported") / "run"
    results, done_before = import_checkpoint.run(config, workdir)
    assert not done_before
    return config, workdir, results


def test_the_folder_holds_the_weights_and_what_they_say(given, finished):
    config, workdir, results = finished
    saved = load_model(workdir, "original")
    jax.tree.map(np.testing.assert_array_equal, saved.variables, given[1])
    dataset = load_dataset(config.data, config.seed)
    with np.load(workdir / "logits.npz") as stored:
        logits = stored["original"]
    images = (dataset.images / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    wanted, _ = saved.model.apply(given[1], images.astype(np.float32), train=False)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    splits = Splits.load(workdir / "splits.npz")
    assert [len(part) for part in vars(splits).values()] == [108, 0, 12, 80]
    right = logits.argmax(axis=1) == dataset.labels
    accuracy = results["models"]["original"]["accuracy"]
    assert accuracy == {
        "train": right[splits.retain].mean(), "test": right[splits.test].mean(), "validation":
        right[splits.validation].mean(),
    }  # fmt: skip
    assert import_checkpoint.run(config, workdir) == (results, True)
    assert json.loads((workdir / "results.json").read_text()) == results
    assert f"{100 * accuracy['test']:.1f}% of 80 test images" in (workdir / "report.html").read_text()


def test_the_terminal_says_what_to_do_next(finished):
    _, workdir, results = finished
    file = io.StringIO()
    print_results(results, workdir, False, Console(file=file, width=160))
    text = file.getvalue()
    assert "Test %" in text and f"--config.checkpoint={workdir}" in text and "report.html" in text


def test_other_commands_take_the_folder(finished, tmp_path):
    config, workdir, _ = finished
    np.save(tmp_path / "some.npy", Splits.load(workdir / "splits.npz").retain[:5])
    request = UnlearnSaved(checkpoint=str(workdir), forget=ForgetConfig(indices=str(tmp_path / "some.npy")))
    settled, run = read_checkpoint(request, {})
    assert settled.model == MODEL and settled.data == config.data and run.augmentation is None
    setting = prepare_saved(settled, run)
    assert [len(part) for part in vars(setting.splits).values()] == [103, 5, 12, 80]
    measured = read_measured(Spectra(checkpoint=str(workdir)))
    assert measured.model.layers()[-1].name == "head" and measured.facts["norm"] == "layer"
    transfer = dataclasses.replace(
        TRANSFER,
        model=ModelConfig(),
        pretrained=dataclasses.replace(TRANSFER.pretrained, checkpoint=str(workdir)),
    )
    assert settle(transfer, {})[0].model == MODEL


def test_bad_input_is_one_sentence_and_writes_nothing(given, finished, tmp_path):
    config, _, _ = finished
    cases = [
        ({"checkpoint": ""}, "checkpoint is '', but expected a file"),
        ({"checkpoint": str(tmp_path)}, "but expected a file of PyTorch's"),
        ({"model": ModelConfig(name="mlp")}, "model.name is 'mlp', but expected 'resnet18'"),
        ({"data": DataConfig(classes=(1, 2))}, "is a classifier of 10 classes, but data.source digits has 2"),
        ({"model": dataclasses.replace(MODEL, width=16)}, "has shape"),
    ]
    for change, message in cases:
        with pytest.raises(InputError, match=message) as refused:
            import_checkpoint.run(dataclasses.replace(config, **change), tmp_path / "run")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["fc", "linear", "classifier", "classifier.0", "head", "heads", "heads.head"]
)
def test_the_head_says_how_many_classes_there_are(name):
    kernel = {
        f"{name}.weight": np.zeros((7, 3)),
        "layer.fc.weight": np.zeros((5, 5)),
        "conv1.weight": np.zeros((4, 1, 3, 3)),
    }
    assert classes_of(kernel) == 7
    with pytest.raises(InputError, match="has none of two axes"):
        classes_of({"conv1.weight": np.zeros((4, 1, 3, 3)), "fc.weight": np.zeros(3)})
    with pytest.raises(InputError, match="'fc.weight', 'head.weight' of two axes"):
        classes_of({"fc.weight": np.zeros((2, 2)), "head.weight": np.zeros((2, 2))})


def test_wrappers_are_cut_off_in_any_order(given, tmp_path):
    numpy_file = pytest.importorskip("safetensors.numpy")
    plain = state_dict_of(given[1])
    for prefix in ("module.", "_orig_mod.module.", "module._orig_mod.", "net."):
        numpy_file.save_file(
            {prefix + name: value for name, value in plain.items()}, tmp_path / "a.safetensors"
        )
        assert set(load_state_dict(tmp_path / "a.safetensors")) == set(plain)


@pytest.mark.torch
def test_a_torch_file_is_read(given, finished, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(value) for name, value in state_dict_of(given[1]).items()}
    torch.save({"state_dict": tensors}, tmp_path / "vit.pt")
    _, variables = import_checkpoint.prepare_import(
        dataclasses.replace(finished[0], checkpoint=str(tmp_path / "vit.pt"))
    )
    jax.tree.map(np.testing.assert_array_equal, variables, given[1])
