"""The benchmark of sweeps as a user meets it, with cases as small as a ResNet allows."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.orchestrator import Contender, measure
from benchmarks.serving import Prepared, _steps_for
from benchmarks.sweep_case import EXAMPLES, SweepCase
from benchmarks.sweep_data import load_images, write_case
from benchmarks.sweep_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.sweep_table import learning_lines, summary
from mu_jax.config import InputError, OptimizationConfig
from mu_jax.training.schedules import learning_rates

ROOT = pathlib.Path(__file__).parents[2]


def bench(*flags):
    command = [sys.executable, "scripts/bench_sweep.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def tiny_case(tmp_path):
    """Two models of a few steps on the digits, their file written."""
    case = parse_case("digits_w1_k2_e0.1")
    dataset, _ = load_images("digits", None)
    write_case(tmp_path / "case.npz", case, dataset)
    return dataclasses.replace(case, file=str(tmp_path / "case.npz"))


def npz_of(path, images, shape=(32, 32, 3)):
    """An archive of that many images, the value of each pixel the image's number."""
    x = np.broadcast_to(np.arange(images, dtype=np.uint8)[:, None, None, None], (images, *shape))
    y = (np.arange(images) % 10).astype(np.int32)
    half = images // 2
    np.savez(path, x_train=x[:half], y_train=y[:half], x_test=x[half:], y_test=y[half:])
    return f"npz:{path}"


def test_case_names_round_trip():
    for name in (*ALL, "digits_w4_k1_bf16", "cifar_w64_k4096_bf16_e0.5"):
        assert parse_case(name).name == name
    assert parse_case("digits_w16_k8") == SweepCase("digits", 16, 8, "float32", 10.0)
    assert parse_case("cifar_w8_k2_bf16") == SweepCase("cifar", 8, 2, "bfloat16", 4.0)
    assert (parse_case("digits_w16_k8").batch, parse_case("cifar_w16_k8").batch) == (32, 64)
    assert parse_case("digits_w16_k8_e3", epochs=0.2).name == "digits_w16_k8_e0.2"
    assert parse_case("digits_w16_k8", epochs=10.0).name == "digits_w16_k8"


def test_cases_without_names_are_the_table():
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"], 0.2)] == [f"{name}_e0.2" for name in ALL]


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["digit_w16_k8"], "did you mean 'digits_w16_k8'?"),
        (["mnist"], "expected DATA_wWIDTH_kMODELS[_bf16][_eEPOCHS]"),
        (["digits_w16_k3"], "has 3 models, but expected 1 or an even number up to 4096"),
        (["digits_w16_k0"], "has 0 models"),
        (["digits_w0_k2"], "has a width of 0, but expected 1 to 1024"),
        (["digits_w16_k2_e0"], "has 0 epochs, but expected more than 0 and at most 1000"),
        (["digits_w16_k8", "digits_w16_k8_e10"], "stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_cases(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--mapping=pmap"], "--mapping is 'pmap', but expected auto, all, one, map"),
        (["--mapping=all,map"], "expected all alone"),
        (["--epochs=nan"], "--epochs is nan, but expected more than 0"),
        (["--cifar=npz:no/such.npz", "--cases=cifar_w1_k2"], "no/such.npz is not a file"),
    ],
)
def test_bad_flags_are_one_sentence(flags, sentence):
    done = bench(*flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_cifar_is_cut_to_its_first_images_and_says_what_it_is(tmp_path):
    dataset, synthetic = load_images("cifar", npz_of(tmp_path / "real.npz", EXAMPLES + 100))
    assert dataset.name == "npz:real.npz" and not synthetic
    assert len(dataset.labels) == EXAMPLES
    np.testing.assert_array_equal(dataset.images[:, 0, 0, 0], np.arange(EXAMPLES) % 256)
    dataset, synthetic = load_images("cifar", None)
    assert dataset.name.startswith("synthetic") and synthetic
    assert dataset.images.shape == (EXAMPLES, 32, 32, 3)


@pytest.mark.parametrize("images, shape, got", [(100, (32, 32, 3), "100 images"), (3000, (8, 8, 1), "8×8×1")])
def test_other_images_than_cifars_are_refused(tmp_path, images, shape, got):
    with pytest.raises(InputError, match=f"{got}.* but expected at least 2048 of 32×32×3"):
        load_images("cifar", npz_of(tmp_path / "other.npz", images, shape))


def test_each_image_is_in_half_of_the_models(tmp_path):
    dataset, _ = load_images("digits", None)
    for models in (1, 6):
        write_case(tmp_path / "case.npz", SweepCase("digits", 1, models, "float32", 1.0), dataset)
        member = np.load(tmp_path / "case.npz")["member"]
        assert member.shape == (models, 1797) and member.dtype == bool
        if models > 1:
            assert set(member.sum(axis=0)) == {models // 2}
        else:
            assert 800 < member.sum() < 1000


def test_pytorch_has_our_learning_rates():
    case = parse_case("digits_w16_k8_e2.5")
    config = OptimizationConfig(epochs=2.5, batch_size=32, learning_rate=0.1, schedule="cosine")
    got = case.learning_rates(901)
    np.testing.assert_allclose(got, learning_rates(config, 901, 0, len(got)), rtol=1e-6, atol=1e-9)


class Recorder:
    """A worker as fast as it is told."""

    def ask(self, do, **_):
        found = {"models_a_round": 4, "member_accuracy": 0.99, "nonmember_accuracy": 0.9}
        if do == "prepare":
            return {"facts": {"prepare_seconds": 1.0}}
        return {"items": 4, "seconds": 8.0, "others_share": 0.0, "found": found}


def test_rates_are_models_per_minute_and_what_was_learned_comes_along():
    ours = Contender("auto", Recorder(), {})
    measure([ours], [], {}, rounds=2, seconds=1.0, say=lambda _: None, span=60.0)
    assert ours.rates == [30.0, 30.0]
    assert learning_lines([ours], []) == "accuracy of 4 model(s) of auto: members 99.0%, others 90.0%"
    broken = dataclasses.replace(ours, facts=ours.facts | {"member_accuracy": 0.3})
    assert "one of the loops is broken" in learning_lines([ours], [broken])


def test_a_round_has_no_more_steps_than_the_most():
    for most, expected_calls in ((1, []), (3, [1, 1, 2, 3])):
        calls = []
        prepared = Prepared(lambda count, calls=calls: calls.append(count) or 0.0, 1, most=most)
        assert _steps_for(prepared, seconds=60.0) == most
        assert calls == expected_calls


def test_the_summary_names_data_form_and_memory():
    row = {"case": "cifar_w16_k8", "ours": 12.3, "torch": None, "ratio": None}
    row["details"] = {
        "data": "synthetic (32×32×3, 10 classes)",
        "ours": {"auto (map)": {"compile_seconds": 14.6}},
        "ours_best": "auto (map)",
        "torch_reference": None,
        "memory": {"JAX": {"peak_bytes": 3 * 2**29, "device_peak_bytes": None}},
    }
    beside = row | {"torch": 5.0, "details": {**row["details"], "torch_reference": "eager float32"}}
    beside["details"]["memory"] = {"JAX": {"peak_bytes": 2**30, "device_peak_bytes": 2**29},
                                   "PyTorch": {"peak_bytes": 2**30, "device_peak_bytes": 2**28}}  # fmt: skip
    lines = summary([row, beside]).splitlines()
    name = "cifar_w16_k8 on synthetic (32×32×3, 10 classes)"
    assert lines[2] == f"| {name} | 12.3 | – | – | – | 14.6 | 1.50 GiB / – |"
    assert lines[3] == f"| {name} | 12.3 | 5 | 2.46 | eager float32 | 14.6 | 0.50 GiB / 0.25 GiB |"


def test_two_models_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--torch=none", "--rounds=1", "--epochs=0.1", f"--json={path}"]
    done = bench("--cases=digits_w1_k2", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert list(row) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert row["case"] == "digits_w1_k2_e0.1" and row["unit"] == "models/min"
    assert row["ours"] > 0 and row["torch"] is None and row["ratio"] is None
    details = row["details"]
    assert (details["data"], details["synthetic"]) == ("digits (scikit-learn)", False)
    assert (details["examples"], details["epochs"], details["models"]) == (1797, 0.1, 2)
    assert details["ours_best"].startswith("auto (")
    facts = details["ours"][details["ours_best"]]
    assert facts["models_a_round"] == 2 and facts["compile_seconds"] > 0
    assert 0 < facts["member_accuracy"] < 0.5
    assert done.stdout.rstrip().splitlines()[-1].startswith("| digits_w1_k2_e0.1 on digits (scikit-learn) | ")


@pytest.mark.slow
@pytest.mark.torch
def test_both_sides_learn_the_digits(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    flags = ["--torch=eager", "--rounds=1", "--seconds=0.01", f"--json={path}"]
    done = bench("--cases=digits_w2_k1", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert row["ratio"] == pytest.approx(row["ours"] / row["torch"], rel=0.02)
    details = row["details"]
    assert (details["ours_best"], details["torch_reference"]) == ("one", "eager float32")
    for facts in (details["ours"]["one"], details["torch"]["eager float32"]):
        assert facts["models_a_round"] == 1
        assert facts["member_accuracy"] > 0.9


@pytest.mark.torch
def test_both_sides_read_the_same_signals_off_logits():
    torch = pytest.importorskip("torch")
    from benchmarks.torch_sweep_worker import signals
    from mu_jax.attacks.signals import confidence, logit_margin

    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 60)
    for scale in (0.1, 10.0, 1e4):
        logits = (scale * random.normal(size=(60, 10))).astype(np.float32)
        phi, probability, correct = signals(torch.from_numpy(logits), torch.from_numpy(labels))
        np.testing.assert_allclose(phi.numpy(), logit_margin(logits, labels), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probability.numpy(), confidence(logits, labels), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(correct.numpy(), logits.argmax(-1) == labels)


@pytest.mark.torch
def test_pytorch_trains_whole_models_one_after_another(tiny_case):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_sweep_worker import Sweep, prepare, signals

    variant = {"execution": "eager", "dtype": "float32", "channels_last": True, "device": "cpu"}
    prepared = prepare(tiny_case, variant)
    assert (prepared.items_a_step, prepared.most) == (1, 2)
    prepared.run_steps(2)
    assert prepared.found["models_a_round"] == 2

    sweep = Sweep(tiny_case, variant)
    steps = []
    trained = sweep._loss_of
    sweep._loss_of = lambda *arguments: steps.append(1) or trained(*arguments)
    sweep.run(3)
    # The third model is the first again: from its own fresh weights, with its own batches.
    for name in ("phi", "probability", "correct"):
        assert sweep.signals[name].shape == (3, 1797, 2)
        np.testing.assert_array_equal(sweep.signals[name][2], sweep.signals[name][0])
    assert not np.array_equal(sweep.signals["phi"][0], sweep.signals["phi"][1])
    member = np.load(tiny_case.file)["member"]
    assert len(steps) == sum(len(tiny_case.learning_rates(member[k].sum())) for k in (0, 1, 0))
    # The second view is that of mirrored images.
    with torch.inference_mode():
        phi, _, _ = signals(sweep._network(sweep._images.flip(3)), sweep._labels)
    np.testing.assert_allclose(sweep.signals["phi"][2, :, 1], phi.numpy(), rtol=1e-3, atol=1e-3)
