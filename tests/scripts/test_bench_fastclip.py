"""The benchmark of FastClip: names, comparisons, and both sides' algorithms on layers small enough for an SVD."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import fastclip_case, jax_fastclip_worker
from benchmarks.fastclip_case import FastclipCase
from benchmarks.fastclip_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.fastclip_table import (
    differences,
    measuring_lines,
    summary,
    training_figures,
    training_lines,
)
from mu_jax.config import ClippingConfig, InputError, ModelConfig
from mu_jax.models import build_model

ROOT = pathlib.Path(__file__).parents[2]


def bench(*flags):
    command = [sys.executable, "scripts/bench_fastclip.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_case_names_round_trip():
    for name in (*ALL, "fastclip_w1_s8", "measure_w3_s16"):
        assert parse_case(name).name == name
    assert parse_case("fastclip_w16") == FastclipCase("fastclip", 16, 32)
    assert parse_case("measure_w64_s32").name == "measure_w64"
    assert (parse_case("fastclip_w16").batch, parse_case("fastclip_w16_s8").batch) == (64, 32)


def test_cases_without_names_are_the_table():
    assert TABLE == ("fastclip_w16", "measure_w64")
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"])] == list(ALL)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["fastclip_16"], "did you mean 'fastclip_w16'?"),
        (["pgd"], "expected fastclip_wWIDTH[_sSIDE] or measure_wWIDTH[_sSIDE]"),
        (["measure_w0"], "has a width of 0, but expected 1 to 1024; change it in its name."),
        (["measure_w1_s4"], "has a side of 4, but expected 8 to 512; change it in its name."),
        (["fastclip_w16", "fastclip_w16_s32"], "stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_cases(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bad_name_ends_the_command_with_one_sentence():
    done = bench("--cases=measures_w64")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "bench_fastclip.py: The case is 'measures_w64', but expected fastclip_wWIDTH[_sSIDE] or "
        "measure_wWIDTH[_sSIDE], such as fastclip_w16; did you mean 'measure_w64'?"
    )


def test_the_schedule_of_both_sides_is_the_published_one():
    config = ClippingConfig()
    assert (config.every, config.steps, config.step_size) == (
        fastclip_case.EVERY,
        fastclip_case.STEPS,
        fastclip_case.STEP_SIZE,
    )
    assert (config.composed_every, config.composed_steps, config.composed_step_size) == (
        fastclip_case.COMPOSED_EVERY,
        fastclip_case.COMPOSED_STEPS,
        fastclip_case.COMPOSED_STEP_SIZE,
    )
    assert (config.first_iterations, config.iterations) == (
        fastclip_case.POWER_ITERATIONS,
        fastclip_case.CLIP_ITERATIONS,
    )
    # A chunk has its due share of clippings wherever it begins.
    assert fastclip_case.CHUNK_STEPS % config.every == fastclip_case.CHUNK_STEPS % config.composed_every == 0


def test_training_figures_by_hand():
    # Images a second in batches of 10: 10 ms, 11 ms and 12.5 ms a step in the first round, twice that in the second.
    rates = {"plain": [1000, 500], "track": [1000 / 1.1, 500 / 1.1], "fastclip": [800, 500 / 1.15]}
    figures = training_figures(rates, 10, {"plain": [300], "fastclip": [100]})
    assert figures["ratios"] == [1.25, 1.15]
    assert (figures["ratio"], figures["track_ratio"], figures["torch_ratio"]) == (1.2, 1.1, 3.0)
    assert figures["ms_a_step"]["plain"] == pytest.approx(10 * 1000 / 750, abs=1e-3)
    # Clippings: 1.5 and 1 ms a step.
    assert figures["clipping_ms"] == pytest.approx(125.0)
    assert "1.200 times as long as plain" in training_lines(figures)
    assert "PyTorch" not in training_lines(training_figures(rates, 10, None))


def test_differences_by_hand():
    found = differences({"a": 1.0, "b": 2.2, "c": 3.0}, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert (found["layer"], found["median"]) == ("b", 0.0)
    assert found["largest"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="on one side only"):
        differences({"a": 1.0}, {"a": 1.0, "b": 1.0})


def test_norms_that_differ_are_a_warning():
    power = {"ours": {"seconds": 1.0, "largest": 0.01, "layer": "head", "median": 0.001}}
    for largest, warns in ((2e-4, True), (5e-5, False)):
        details = {"agreement": {"largest": largest, "layer": "stem", "median": 0.0}, "power": power}
        assert ("WARNING" in measuring_lines(details)) == warns


def test_the_summary_has_a_column_for_each_figure():
    training = {"kind": "fastclip", "torch_ratio": None, "track_ratio": 1.05, "clipping_ms": 300.0}
    measuring = {"kind": "measure", "agreement": None, "power": {"ours": {"seconds": 2.0, "largest": 0.01}}}
    rows = [
        {
            "case": "fastclip_w16",
            "plain": 50.0,
            "ours": 54.0,
            "ratio": 1.08,
            "torch": None,
            "details": training,
        },
        {"case": "measure_w64", "ours": 9.0, "torch": None, "ratio": None, "details": measuring},
        {
            "case": "measure_w16",
            "ours": 9.0,
            "torch": 18.0,
            "ratio": 2.0,
            "details": measuring | {"agreement": {"largest": 1e-6}},
        },
    ]
    first, second = (table.splitlines() for table in summary(rows).split("\n\n"))
    assert first[2] == "| fastclip_w16 | 50 | 54 | 1.080 | 1.050 | 300 | – |"
    assert second[2:] == [
        "| measure_w64 | 9 | – | – | – | 2 | 1.0e-02 |",
        "| measure_w16 | 9 | 18 | 2.00 | 1.0e-06 | 2 | 1.0e-02 |",
    ]
    assert len({line.count("|") for line in first}) == len({line.count("|") for line in second}) == 1


@pytest.fixture
def small(monkeypatch):
    """The worker with an MLP in the ResNet's place, which compiles in no time."""

    def build(case):
        model = build_model(
            ModelConfig(name="mlp", width=case.width),
            num_classes=10,
            image_shape=(case.side, case.side, 3),
            convolution="patches",
        )
        return model, "patches"

    monkeypatch.setattr(jax_fastclip_worker, "build", build)
    return FastclipCase("fastclip", 8, 8)


def test_the_worker_trains_in_each_form(small):
    prepared = {
        form: jax_fastclip_worker.prepare(small, {"form": form}) for form in ("plain", "track", "fastclip")
    }
    losses = {form: one.run_steps(1) for form, one in prepared.items()}
    assert {one.items_a_step for one in prepared.values()} == {100 * 32}
    # Tracking alone leaves the training as it is.
    assert losses["plain"] == pytest.approx(losses["track"], rel=1e-3)
    norms = {form: prepared[form].found["largest_norm"] for form in ("track", "fastclip")}
    assert norms["fastclip"] < norms["track"] and prepared["plain"].found == {}


def test_the_worker_measures_and_power_iteration_is_never_above(small, monkeypatch):
    case = dataclasses.replace(small, kind="measure")
    variables = jax_fastclip_worker.build(case)[0].init(jax.random.key(0))
    monkeypatch.setattr(jax_fastclip_worker, "_read_weights", lambda case, model: variables)
    found = {}
    for form in ("measure", "power"):
        prepared = jax_fastclip_worker.prepare(case, {"form": form})
        assert (prepared.items_a_step, prepared.run_steps(1)) == (1, 0.0)
        found[form] = prepared.found["norms"]
    assert found["power"].keys() == found["measure"].keys() and len(found["power"]) == 3
    for name, norm in found["measure"].items():
        assert 0.95 * norm < found["power"][name] < norm * (1 + 1e-5)


def matrix_of(layer, torch):
    """[outputs, inputs], by the images of the unit vectors."""
    size = int(np.prod(layer.shape))
    return layer.apply(torch.eye(size).reshape(size, *layer.shape)).reshape(size, -1).T


@pytest.mark.torch
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "shape, kernel, stride, padding",
    [
        ((2, 6, 5), (3, 2, 3, 3), 1, 1),
        ((2, 6, 5), (3, 2, 3, 3), 2, 1),
        ((3, 6, 7), (4, 3, 1, 1), 2, 0),
        ((12,), (5, 12), 1, 0),
    ],
)
def test_pytorchs_algorithm_finds_the_singular_value(shape, kernel, stride, padding, channels_last):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_spectra import Map, largest_singular_value, power_qr

    random = torch.Generator().manual_seed(0)
    weight = torch.randn(kernel, generator=random)
    if channels_last and weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    layer = Map(weight, shape, stride, padding)
    matrix = matrix_of(layer, torch)
    y = torch.randn((2, matrix.shape[0]), generator=random)
    one = layer.apply(torch.zeros((2, *shape)))
    moved = layer.transpose(y.reshape(one.shape)).flatten(1)
    torch.testing.assert_close(moved, y @ matrix, rtol=1e-4, atol=1e-4)
    true = float(torch.linalg.svdvals(matrix.double())[0])
    value, error = largest_singular_value(layer, 1e-6, random)
    assert value == pytest.approx(true, rel=1e-5) and error < 1e-4
    assert 0.98 * true < power_qr(layer, 100, random) < true * (1 + 1e-5)


@pytest.mark.torch
def test_pytorchs_layers_are_ours_and_clipping_shrinks_them(monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_fastclip_worker import layers_of
    from benchmarks.torch_resnet import ResNet18

    model = build_model(ModelConfig(width=2), num_classes=10, image_shape=(8, 8, 3), convolution="xla")
    torch.manual_seed(0)
    network = ResNet18(2, 10)
    layers = layers_of(network, 8)
    for ours, theirs in zip(model.layers(), layers, strict=True):
        assert ours.name == theirs.name and (ours.norm is None) == (theirs.norm is None)
        shape = ours.input_shape if len(ours.input_shape) == 1 else np.roll(ours.input_shape, 1)
        assert tuple(shape) == theirs.shape
    assert network.training
    layer = layers[0]
    norms = [float(layer.iterate(False, 200))]
    assert norms[0] > 1
    for _ in range(3):
        layer.clip(False)
        norms.append(float(layer.iterate(False, 200)))
    # One singular vector a clipping, and several lie close together.
    assert norms[3] < norms[2] < norms[1] < norms[0]
    # By itself the norm of the kernel; composed, of the kernel times γ/√(σ² + ε).
    with torch.no_grad():
        layer.norm.weight.fill_(3.0)
    assert float(layer.iterate(True, 200)) == pytest.approx(3 * norms[3], rel=1e-2)


@pytest.mark.torch
def test_pytorchs_clipping_is_ours():
    torch = pytest.importorskip("torch")
    from benchmarks.torch_fastclip_worker import Layer
    from mu_jax.ops import conv
    from mu_jax.smoothness.fastclip import clip_step

    torch.manual_seed(1)
    module = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False)
    with torch.no_grad():
        module.weight.mul_(3)
    layer = Layer("conv", module, None, (2, 5, 6))
    norm = layer.iterate(False, 10)  # then the clipping's own ten
    kernel = jnp.asarray(module.weight.detach().numpy().transpose(2, 3, 1, 0).copy())
    start = layer.vectors[False]
    norm = layer.iterate(False, 10)
    vector = jnp.asarray(layer.vectors[False].numpy().copy())
    layer.vectors[False] = start
    layer.clip(False)

    def apply(kernel, x):
        return conv(x[..., None], kernel, stride=1, padding=1, lowering="patches")[..., 0]

    expected = clip_step(apply, kernel, vector, jnp.asarray([float(norm)]), 1.0, steps=5, step_size=0.35)
    assert float(norm) > 1
    found = module.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - kernel).max() > 1e-3
