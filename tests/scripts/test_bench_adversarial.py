"""The benchmark of adversarial search as a user meets it, with cases as small as a ResNet allows."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import torch_side
from benchmarks.adversarial_case import AdversarialCase, largest_epsilon
from benchmarks.adversarial_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.adversarial_table import (
    agreement,
    agreement_line,
    epsilon_counts,
    epsilon_table,
    summary,
)
from benchmarks.torch_weights import from_state_dict, to_state_dict
from benchmarks.training_data import load_training_images, weights_path, write_images
from benchmarks.worker_process import WorkerDied
from mu_jax.adversarial.pgd import pgd
from mu_jax.adversarial.pixels import PixelModel
from mu_jax.config import InputError, ModelConfig
from mu_jax.models import build_model
from mu_jax.models.pytorch_import import resnet18_from_state_dict

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = (8, 8, 1)
SMALL = "synthetic:8,8,1,10,64,1"


def bench(*flags):
    command = [sys.executable, "scripts/bench_adversarial.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def random_resnet(seed):
    """A ResNet-18 of width 1, and variables drawn by NumPy; those of batch-norm are positive."""
    model = build_model(ModelConfig(width=1), num_classes=10, image_shape=SHAPE, convolution="xla")
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        value = rng.normal(size=leaf.shape).astype(np.float32)
        return jnp.asarray(np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else value)

    like = jax.eval_shape(model.init, jax.random.key(0))
    return model, like, jax.tree_util.tree_map_with_path(drawn, like)


def found_of(epsilon, flipped, predicted, distance, steps):
    return {
        "epsilon": np.array(epsilon, np.float32),
        "flipped": np.array(flipped),
        "predicted": np.array(predicted),
        "distance": np.array(distance, np.float32),
        "steps": np.array(steps),
    }


def test_case_names_round_trip():
    for name in (*ALL, "pgd5_w1_n40_e2", "pgd50_w16_e0.5", "pgd1_w2_n7"):
        assert parse_case(name).name == name
    assert parse_case("pgd50_w16") == AdversarialCase(50, 16, 2000, 15.0, 0.04)
    assert parse_case("pgd10_w2_n30_e4", 0.16) == AdversarialCase(10, 2, 30, 4.0, 0.16)
    assert parse_case("pgd50_w16_n2000_e15").name == "pgd50_w16"


def test_cases_without_names_are_the_table():
    assert TABLE == ("pgd50_w16",)
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"])] == list(ALL)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["pdg50_w16"], "did you mean 'pgd50_w16'?"),
        (["fgsm"], "expected pgdSTEPS_wWIDTH[_nEXAMPLES][_eEPOCHS]"),
        (["pgd50_w16_e2_n5"], "expected pgdSTEPS_wWIDTH[_nEXAMPLES][_eEPOCHS]"),
        (["pgd0_w16"], "has steps 0, but expected 1 to 10000; change it in its name."),
        (["pgd5_w0"], "has width 0, but expected 1 to 1024; change it in its name."),
        (["pgd5_w1_n0"], "has examples 0, but expected 1 to 1000000; change it in its name."),
        (["pgd5_w1_e0"], "has 0 epochs, but expected more than 0 and at most 1000"),
        (["pgd50_w16", "pgd50_w16_n2000"], "stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_cases(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_first_epsilon_beyond_the_largest_is_one_sentence():
    done = bench("--cases=pgd5_w1_n40", f"--data={SMALL}", "--epsilon=5")
    assert done.returncode == 2
    # ½√64
    assert "--epsilon is 5, but expected more than 0 and at most 4; change it." in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_largest_epsilon_is_from_the_middle_grey_to_a_corner():
    assert largest_epsilon((32, 32, 3)) == pytest.approx(np.linalg.norm(np.full(32 * 32 * 3, 0.5)))


def test_images_are_the_first_of_the_training_images(tmp_path):
    x = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, *SHAPE))
    y = (np.arange(30) % 10).astype(np.int32)
    np.savez(tmp_path / "real.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    images, synthetic = load_training_images(f"npz:{tmp_path}/real.npz", 12, 10)
    assert not synthetic and images.name == "npz:real.npz"
    np.testing.assert_array_equal(images.x_train[:, 0, 0, 0], np.arange(12))
    assert len(load_training_images(f"npz:{tmp_path}/real.npz", 100, 10)[0].y_train) == 30
    with pytest.raises(InputError, match="with 30 training images, but expected at least 31"):
        load_training_images(f"npz:{tmp_path}/real.npz", 100, 31)
    images, synthetic = load_training_images(None, 20, 20)
    assert synthetic and images.x_train.shape == (20, 32, 32, 3)


def test_a_trained_model_is_kept_for_its_images_width_and_epochs(tmp_path):
    images, _ = load_training_images(SMALL, 64, 1)
    same, _ = load_training_images(SMALL, 64, 1)
    assert weights_path(tmp_path, images, 16, 4.0) == weights_path(tmp_path, same, 16, 4.0)
    changed = dataclasses.replace(images, y_train=images.y_train[::-1])
    brighter = dataclasses.replace(images, x_train=255 - images.x_train)
    paths = {
        weights_path(tmp_path, *one)
        for one in (
            (images, 16, 4.0),
            (images, 8, 4.0),
            (images, 16, 5.0),
            (changed, 16, 4.0),
            (brighter, 16, 4.0),
        )
    }
    assert len(paths) == 5


def test_weights_go_to_pytorchs_names_and_back():
    _, like, variables = random_resnet(0)
    state_dict = to_state_dict(variables)
    jax.tree.map(np.testing.assert_array_equal, from_state_dict(state_dict, like), variables)
    # The library's own import, from the names that public code has, says the same of each tensor.
    public = {}
    for name, value in state_dict.items():
        module, _, rest = name.partition(".")
        if module == "blocks":
            number, _, rest = rest.partition(".")
            name = f"layer{int(number) // 2 + 1}.{int(number) % 2}.{rest.replace('norm', 'bn')}"
        public[name.replace("stem_norm", "bn1").replace("stem", "conv1").replace("head", "linear")] = value
    jax.tree.map(np.testing.assert_array_equal, resnet18_from_state_dict(public, like), variables)


def test_weights_of_another_width_are_refused():
    _, like, variables = random_resnet(0)
    state_dict = to_state_dict(variables) | {"head.weight": np.zeros((10, 16), np.float32)}
    with pytest.raises(ValueError, match=r"head.weight has shape \(16, 10\), but expected \(8, 10\)"):
        from_state_dict(state_dict, like)


def test_agreement_by_hand():
    ours = found_of(
        [0, 0.04, 0.08, 0.08], [True, True, True, False], [1, 2, 3, 4], [0, 0.03, 0.06, 0.08], [0, 9, 60, 100]
    )
    same = {name: value.copy() for name, value in ours.items()}
    # The ladder's rounding is no difference.
    same["epsilon"][1] = 0.040000003
    assert agreement(ours, same) == {
        "same_epsilon": 1.0,
        "same_label": 1.0,
        "distance_gap": 0.0,
        "agrees": True,
    }
    other = found_of(
        [0, 0.04, 0.16, 0.08], [True, True, True, True], [1, 0, 3, 4], [0, 0.06, 0.12, 0.08], [0, 9, 60, 99]
    )
    figures = agreement(ours, other)
    # The third has another ε, the fourth flipped on one side alone; gaps are those of the second and the third.
    assert (figures["same_epsilon"], figures["same_label"], figures["agrees"]) == (0.5, 0.75, False)
    assert figures["distance_gap"] == pytest.approx(0.5)
    assert "the same ε for 50.0%" in agreement_line(figures) and "WARNING" in agreement_line(figures)
    assert "WARNING" not in agreement_line(agreement(ours, same))


def test_examples_are_counted_by_their_epsilon():
    found = found_of([0, 0.16, 0.08, 0.16, 0.32], [True, True, True, True, False], [0] * 5, [0] * 5, [0] * 5)
    counts = epsilon_counts(found)
    assert counts == {"0": 1, "0.08": 1, "0.16": 2, "none": 1}
    lines = epsilon_table(counts, {"0": 1, "0.16": 3, "1.28": 1}).splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [
        ["1", "1"],
        ["1", "0"],
        ["2", "3"],
        ["0", "1"],
        ["1", "0"],
    ]
    assert epsilon_table(counts, None).splitlines()[-1].split() == [
        "not",
        "within",
        "the",
        "largest",
        "ε",
        "1",
        "–",
    ]


def test_the_summary_has_a_column_for_each_figure():
    row = {"case": "pgd50_w16", "ours": 240.0, "torch": None}
    row["details"] = {
        "data": "digits",
        "examples": 2000,
        "ours": {"batch 128": {"compile_seconds": 14.6, "gradient_steps": 200_000}},
        "ours_best": "batch 128",
        "torch_reference": None,
        "torch_missing": "not installed",
        "agreement": None,
        "memory": {"JAX": {"peak_bytes": 3 * 2**29, "device_peak_bytes": None}},
    }
    compared = {"torch_reference": "eager", "torch_missing": None, "agreement": {"same_epsilon": 0.992}}
    beside = row | {"torch": 60.0, "details": row["details"] | compared}
    lines = summary([row, beside]).splitlines()
    assert lines[2].startswith("| pgd50_w16 on digits | 240 | not installed | – | 500 | – | – | 100 | 14.6 |")
    assert lines[3].startswith("| pgd50_w16 on digits | 240 | 60 | 4.00 | 500 | eager | 99.2% | 100 | 14.6 |")
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    "words, missing", [("ModuleNotFoundError: No module named 'torch'", True), ("Killed", False)]
)
def test_a_missing_pytorch_is_said_and_any_other_death_is_an_error(monkeypatch, words, missing):
    class Dead:
        def __init__(self, *arguments):
            self.closed = False

        def ask(self, do):
            raise WorkerDied(words)

        def close(self):
            pass

    monkeypatch.setattr(torch_side, "Worker", Dead)
    monkeypatch.setattr(torch_side.shell, "TORCH", types.SimpleNamespace(value="all"))
    monkeypatch.setattr(torch_side.shell, "TORCH_PYTHON", types.SimpleNamespace(value="python"))
    with contextlib.ExitStack() as stack:
        if missing:
            assert torch_side.start_torch(stack, "a.module") == (None, "not installed")
        else:
            with pytest.raises(WorkerDied):
                torch_side.start_torch(stack, "a.module")


@pytest.fixture
def torch():
    """PyTorch on one thread: on networks this small several wait for one another, and long on a busy machine."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.mark.torch
@pytest.mark.parametrize("quantize", [False, True])
def test_pytorchs_search_finds_what_ours_does(torch, quantize):
    from benchmarks.torch_minimal_epsilon import Search

    rng = np.random.default_rng(1)
    model = build_model(
        ModelConfig(name="mlp", width=8), num_classes=4, image_shape=(4, 4, 1), convolution="xla"
    )
    variables = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(3)))
    attacked = PixelModel(model, (0.5,), (0.25,))
    images = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    logits = np.asarray(attacked.logits(variables, jnp.asarray(images / np.float32(255))))
    labels = logits.argmax(-1).astype(np.int32)
    labels[:5] = (labels[:5] + 1) % 4  # misclassified from the start
    settings = {"epsilon": 0.02, "max_epsilon": 0.32, "steps": 7}
    ours = pgd(attacked, variables, images, labels, norm="l2", quantize=quantize, batch_size=16, **settings)

    layers = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), variables["params"])

    def logits_of(pixels):
        x = ((pixels - 0.5) / 0.25).permute(0, 2, 3, 1).flatten(1)
        for name in ("hidden1", "hidden2"):
            x = torch.relu(x @ layers[name]["kernel"] + layers[name]["bias"])
        return x @ layers["head"]["kernel"] + layers["head"]["bias"]

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    search = Search(
        logits_of,
        pixels,
        torch.from_numpy(labels).long(),
        steps=7,
        step_ratio=0.1,
        batch=16,
        quantize=quantize,
    )
    search.run(0.02, 0.32)
    np.testing.assert_array_equal(search.flipped.numpy(), ours.flipped)
    np.testing.assert_array_equal(search.predicted.numpy(), ours.predicted)
    np.testing.assert_array_equal(search.steps.numpy(), ours.steps)
    np.testing.assert_allclose(search.epsilon.numpy(), ours.epsilon, rtol=1e-5)
    np.testing.assert_allclose(search.distance.numpy(), ours.distance, atol=2e-5)
    np.testing.assert_allclose(search.images.permute(0, 2, 3, 1).numpy(), ours.images, atol=2e-5)
    # The search had something to find at every place: at once, in several rounds, and not at all.
    assert (ours.steps[:5] == 0).all() and len(set(ours.epsilon[ours.flipped])) > 3
    assert 0 < ours.flipped.sum() < 40 and (ours.steps[~ours.flipped] == 7 * 5).all()


@pytest.mark.torch
def test_pytorch_has_our_weights(torch, tmp_path):
    from benchmarks.torch_adversarial_worker import PixelNetwork, Searches, load_network, prepare

    model, _, variables = random_resnet(2)
    np.savez(tmp_path / "weights.npz", **to_state_dict(variables))
    images, _ = load_training_images(SMALL, 64, 1)
    write_images(tmp_path / "case.npz", images)
    network = load_network(str(tmp_path / "weights.npz"), 1, 10, 1).eval()
    pixels = images.x_train.astype(np.float32) / 255
    with torch.no_grad():
        theirs = PixelNetwork(network)(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    # The forward pass itself is what test_pytorch_parity compares; here only that each tensor has its place.
    ours = jax.jit(PixelModel(model, (0.5,), (0.25,)).logits)(variables, jnp.asarray(pixels))
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())

    case = dataclasses.replace(
        parse_case("pgd3_w1_n20"),
        file=str(tmp_path / "case.npz"),
        weights=str(tmp_path / "weights.npz"),
        found=str(tmp_path),
    )
    variant = {
        "execution": "eager",
        "channels_last": True,
        "device": "cpu",
        "batch": 8,
        "examples": 20,
        "largest": 0.08,
    }
    prepared = prepare(case, variant)
    assert (prepared.items_a_step, prepared.most, prepared.run_steps(1)) == (20, 1, 0.0)
    with np.load(tmp_path / "torch.npz") as found:
        assert found["epsilon"].shape == (20,) and found["epsilon"].max() <= 0.08
        assert prepared.found["gradient_steps"] == found["steps"].sum()
        np.testing.assert_array_equal(found["steps"] == 0, theirs[:20].argmax(-1) != images.y_train[:20])
    assert not any(parameter.requires_grad for parameter in Searches(case, variant)._logits_of.parameters())


@pytest.mark.slow
@pytest.mark.torch
def test_both_sides_find_the_same_epsilons(tmp_path):
    pytest.importorskip("torch")
    flags = ["--torch=eager", "--rounds=1", "--trial=16", f"--data={SMALL}", f"--workdir={tmp_path}/models"]
    done = bench("--cases=pgd10_w4_n40_e30", f"--json={tmp_path}/rows.json", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert list(row) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert (row["case"], row["unit"]) == ("pgd10_w4_n40_e30", "examples/min")
    assert row["ratio"] == pytest.approx(row["ours"] / row["torch"], rel=0.02)
    details = row["details"]
    assert details["trained"]["training_accuracy"] > 0.9 and not details["trained"]["kept_from_before"]
    assert details["agreement"]["agrees"] and details["agreement"]["same_label"] > 0.9
    assert sum(details["epsilon_counts"]["jax"].values()) == 40
    assert len(details["epsilon_counts"]["jax"]) > 2
    ours, theirs = details["ours"]["batch 128"], details["torch"][details["torch_reference"]]
    assert ours["gradient_steps"] == pytest.approx(theirs["gradient_steps"], rel=0.1)
    assert len(list((tmp_path / "models").iterdir())) == 1

    # Without PyTorch, and with the model of before.
    done = bench("--cases=pgd10_w4_n40_e30", f"--json={tmp_path}/rows.json", "--torch=none", *flags[1:])
    assert done.returncode == 0, done.stderr
    (again,) = json.loads((tmp_path / "rows.json").read_text())
    assert again["torch"] is None and again["ratio"] is None
    assert again["details"]["trained"]["kept_from_before"]
    assert again["details"]["epsilon_counts"]["jax"] == details["epsilon_counts"]["jax"]
    assert "| left out | – |" in done.stdout.splitlines()[-1]
