"""The benchmark of inference as a user meets it, and its sides' logits beside one another."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks.inference_case import InferenceCase
from benchmarks.inference_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.inference_table import agreement_line, compare, summary
from mu_jax.config import InputError

ROOT = pathlib.Path(__file__).parents[2]


def bench(*flags):
    command = [sys.executable, "scripts/bench_inference.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def case(tmp_path):
    return dataclasses.replace(parse_case("inference_w1_s8_n10"), folder=str(tmp_path))


def test_case_names_round_trip():
    for name in (*ALL, "inference_w8_s64_n7"):
        assert parse_case(name).name == name
    assert parse_case("inference_w64") == InferenceCase(64, 32, 2048)
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"])] == list(ALL)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["inference_16"], "did you mean 'inference_w16'?"),
        (["logits"], "expected inference_wWIDTH[_sSIDE][_nIMAGES]"),
        (["inference_w0"], "has a width of 0, but expected 1 to 1024"),
        (["inference_w1_s4"], "has a side of 4, but expected 8 to 512"),
        (["inference_w1_n0"], "has a number of images of 0, but expected 1 to 1000000"),
        (["inference_w16", "inference_w16_s32"], "stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_cases(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "flag, sentence",
    [
        ("--blocks=0", "--blocks has '0', but expected numbers of images from 1 to 100000"),
        ("--blocks=64,064", "--blocks is '64,64', but expected one or more, each once"),
        ("--lowerings=winograd_9", "--lowerings is 'winograd_9', but expected auto, all, xla"),
    ],
)
def test_bad_flags_are_one_sentence(flag, sentence):
    done = bench(flag)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_logits_are_compared_by_the_largest():
    theirs = np.array([[1.0, -4.0], [2.0, 0.0]])
    assert compare(theirs, theirs) == {"max_difference": 0.0, "agree": True}
    off = compare(theirs + np.array([[0.0, 0.0], [0.0, 0.004]]), theirs)
    assert off["max_difference"] == pytest.approx(0.001) and not off["agree"]
    assert not compare(np.full((2, 2), np.nan), theirs)["agree"]
    assert "WARNING" in agreement_line(off)
    with pytest.raises(ValueError, match="shapes"):
        compare(theirs[:1], theirs)


@pytest.mark.slow
def test_ours_is_the_network_of_the_weights_asked_image_by_image(case):
    from benchmarks.jax_inference_worker import prepare, random_images
    from benchmarks.torch_weights import from_state_dict
    from mu_jax.config import ModelConfig
    from mu_jax.models import build_model

    prepare(case, {"form": "weights"})
    prepared = prepare(case, {"form": "query", "lowering": "patches", "block": 4})
    assert prepared.items_a_step == 10 and prepared.facts == {"lowering": "patches", "block": 4}
    logits = np.load(case.logits("ours"))
    config = ModelConfig(width=1)
    model = build_model(config, num_classes=10, image_shape=(8, 8, 3), convolution="xla")
    with np.load(case.weights) as arrays:
        variables = from_state_dict(dict(arrays), jax.eval_shape(model.init, jax.random.key(0)))
    pixels = (random_images(case).astype(np.float32) / 255 - 0.5) / 0.25
    expected = model.apply(variables, pixels, train=False)[0]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.torch
def test_pytorch_finds_the_same_logits(case):
    pytest.importorskip("torch")
    from benchmarks.jax_inference_worker import prepare as prepare_ours
    from benchmarks.torch_inference_worker import prepare

    prepare_ours(case, {"form": "weights"})
    prepare_ours(case, {"form": "query", "lowering": "patches", "block": 4})
    variant = {"execution": "eager", "channels_last": True, "device": "cpu", "block": 3}
    prepared = prepare(case, variant)
    assert prepared.items_a_step == 10 and prepared.facts == variant
    assert compare(np.load(case.logits("ours")), np.load(case.logits("torch")))["agree"]


def test_the_summary_has_a_line_a_case():
    details = {"ours_best": "patches, block 128", "torch_reference": None, "agreement": None}
    alone = {"case": "inference_w1", "ours": 200.0, "torch": None, "details": details}
    compared = {"torch_reference": "eager", "agreement": {"max_difference": 2e-6}}
    beside = alone | {"torch": 400.0, "details": details | compared}
    lines = summary([alone, beside]).splitlines()
    assert lines[2] == "| inference_w1 | 200 | patches, block 128 | – | – | – | – |"
    assert lines[3] == "| inference_w1 | 200 | patches, block 128 | 400 | 0.50 | eager | 2.0e-06 |"


def test_one_small_network_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--torch=none", "--rounds=1", "--seconds=0.01", "--lowerings=patches", "--blocks=8"]
    done = bench("--cases=inference_w1_s8_n16", *flags, f"--json={path}")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert list(row) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert (row["case"], row["unit"], row["torch"], row["ratio"]) == (
        "inference_w1_s8_n16",
        "images/s",
        None,
        None,
    )
    assert row["ours"] > 0 and row["details"]["ours_best"] == "patches, block 8"
    assert row["details"]["ours"]["patches, block 8"]["prepare_seconds"] > 0
