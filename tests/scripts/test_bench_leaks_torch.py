"""PyTorch's side of the benchmark of pair attacks; and both sides at once."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import jax_leaks_worker
from benchmarks.leaks_answers import read_plan, right_shares
from benchmarks.leaks_case import BATCH
from benchmarks.leaks_data import write_plan
from benchmarks.leaks_names import parse_case
from benchmarks.sweep_data import load_images

ROOT = pathlib.Path(__file__).parents[2]
FORM = {"do": "train", "execution": "eager", "threads": 1, "channels_last": False, "device": "cpu"}


def written(folder, name):
    """The case of this name with its file, and the file's arrays."""
    path = folder / f"{name}.npz"
    case = dataclasses.replace(parse_case(name), file=str(path))
    write_plan(path, case, load_images("digits", None)[0])
    return case, read_plan(case.file)


@pytest.fixture
def torch():
    """PyTorch on one thread: on networks this small several wait for one another, and long on a busy machine."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.mark.torch
def test_pytorch_learns_the_same_rows_one_model_after_another(torch, tmp_path):
    from benchmarks.torch_leaks_worker import Retraining, prepare

    case, plan = written(tmp_path, "retrain_k40_e0.15")
    prepared = prepare(case, FORM)
    assert (prepared.items_a_step, prepared.most) == (1, 40)
    prepared.run_steps(3)
    assert prepared.found["models_trained"] == 3 and set(prepared.found["seconds_a_model"]) == {
        "train",
        "query",
    }
    path = str(tmp_path / "posteriors.npy")
    facts = prepare(case, FORM | {"do": "rest", "posteriors": path}).facts
    assert (facts["models_in_rounds"], facts["models_after_rounds"]) == (3, 37)
    posteriors = np.load(path)
    assert posteriors.shape == (40, 898, 10) and facts["accuracy"] == right_shares(plan, posteriors)
    np.testing.assert_allclose(posteriors.sum(-1), 1.0, atol=1e-5)

    retraining, seen = Retraining(case, FORM), []
    loss_of = retraining._loss_of
    retraining._loss_of = lambda *arguments: seen.append(arguments[1]) or loss_of(*arguments)
    retraining.run(2)
    # A model is its number's: fresh weights and batches of its own, whatever was trained before.
    np.testing.assert_array_equal(retraining.answers[1], posteriors[1])
    assert not np.array_equal(posteriors[0, 0], posteriors[1, 0])
    assert [len(images) for images in seen] == [BATCH] * 4
    for model in (0, 1, 25):
        rows = plan["rows"][model][plan["rows"][model] >= 0]
        whole = dataclasses.replace(retraining._case, epochs=1.0)
        retraining._case = whole
        drawn = retraining.batches(model)
        assert drawn.shape == (-(-len(rows) // BATCH), BATCH)
        np.testing.assert_array_equal(np.sort(drawn.ravel()[: len(rows)].numpy()), np.sort(rows))


@pytest.mark.torch
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_pytorchs_network_is_ours(torch, tmp_path, network):
    from benchmarks.torch_leaks_worker import make_network, reset_parameters

    name = f"retrain_{'cnn_' if network == 'cnn' else ''}k40_e0.15"
    case, _ = written(tmp_path, name)
    ours = jax_leaks_worker.Retraining(case, {"mapping": "one", "models_per_device": 0}).model
    variables = ours.init(jax.random.key(0))
    layers = variables["params"]
    theirs = make_network(network, 10, (1, 8, 8))
    reset_parameters(theirs)
    learned = [layer for layer in theirs if hasattr(layer, "weight")]
    names = ["hidden1", "hidden2", "head"] if network == "mlp" else ["conv1", "conv2", "hidden", "head"]
    assert len(learned) == len(names) == len(layers)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 8, 1)), jnp.float32)
    with torch.no_grad():
        for layer, name in zip(learned, names, strict=True):
            kernel, bias = (np.asarray(layers[name][part]) for part in ("kernel", "bias"))
            spread = layer.weight.std().item()
            assert spread == pytest.approx(kernel.std(), rel=0.2)
            if kernel.ndim == 4:
                kernel = kernel.transpose(3, 2, 0, 1)
                assert torch.all(layer.bias == 0) and np.all(bias == 0)
            elif network == "cnn" and name == "hidden":
                # Ours flattens [H,W,D], theirs [D,H,W].
                kernel = kernel.reshape(4, 4, 32, 128).transpose(2, 0, 1, 3).reshape(-1, 128).T
            else:
                kernel = kernel.T
            layer.weight.copy_(torch.tensor(kernel))
            layer.bias.copy_(torch.tensor(bias))
        got = theirs(torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(got, ours.apply(variables, images, train=False)[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.torch
def test_both_sides_attack_forty_models(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    flags = ["--torch=eager", "--rounds=1", "--seconds=0.1", f"--json={path}"]
    command = [sys.executable, "scripts/bench_leaks.py", "--cases=retrain_k40", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert row["ratio"] == pytest.approx(row["ours"] / row["torch"], rel=0.02)
    sides = row["details"]["beside"]
    theirs = sides["PyTorch"]
    assert theirs["models_in_rounds"] + theirs["models_after_rounds"] == 40
    assert row["torch"] == pytest.approx(60 * 76 / sum(theirs["stages"].values()), rel=0.05)
    for facts in sides.values():
        assert facts["accuracy"]["members"] > 0.97 and facts["accuracy"]["others"] > 0.85
    assert "is broken" not in done.stdout
