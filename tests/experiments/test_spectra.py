"""The table of a saved model's layers, against the SVD of each layer's matrix."""

import copy
import dataclasses
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    SisaDelete,
    Spectra,
    UnlearningComparison,
    from_config_dict,
    to_dict,
)
from mu_jax.evaluation import report
from mu_jax.evaluation.report.spectra_page import write_spectra_report
from mu_jax.evaluation.report.spectra_tables import METHODS, layers_table, seconds_table, sentences
from mu_jax.experiments import spectra, unlearning_comparison
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.spectra_rows import SpectraRows
from mu_jax.experiments.spectra_source import read_measured
from mu_jax.models import build_model
from mu_jax.models.pytorch_import import _torch_name
from mu_jax.smoothness.layers import kernel_fn, kernel_of, norm_scale

TRAINING = OptimizationConfig(epochs=0.5, batch_size=20, learning_rate=0.05)
COMPARISON = UnlearningComparison(
    data=DataConfig(train_examples=60, test_examples=60),
    model=ModelConfig(name="cnn", width=4),
    train=TRAINING,
    finetune=TRAINING,
    loop=LoopConfig(chunk_steps=80),
    evaluation=EvaluationConfig(bootstrap_samples=100, query_batch=110, gallery_images=2),
)
BOUNDS = ("reshaped_bound", "fourier_bound")
NEVER_ABOVE = ("miyato_started", "gouk")


@pytest.fixture(scope="module", name="trained")
def trained_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("comparison") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda *_: None)
        unlearning_comparison.run(COMPARISON, workdir)
    return workdir


@pytest.fixture(scope="module", name="finished")
def finished_fixture(trained, tmp_path_factory):
    """(the folder, its results, the settings that the run read)"""
    workdir = tmp_path_factory.mktemp("spectra") / "run"
    config = Spectra(checkpoint=str(trained), checkpoint_model="retrain", repeats=2)
    fields, read = {field.name for field in dataclasses.fields(Spectra)}, set()

    def recording(self, name):
        if name in fields:
            read.add(name)
        return object.__getattribute__(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spectra, "__getattribute__", recording, raising=False)
        results, done_before = spectra.run(config, workdir)
    assert not done_before
    return workdir, results, read, config


def matrix_of(variables, layer, scale=1.0):
    kernel, apply = kernel_of(variables["params"], layer), kernel_fn(layer, "xla")
    matrix = jax.jacobian(lambda x: apply(jnp.asarray(kernel) * scale, x))(jnp.zeros(layer.input_shape))
    return np.asarray(matrix, np.float64).reshape(-1, np.prod(layer.input_shape))


def norm_of(matrix):
    return np.linalg.svd(matrix, compute_uv=False)[0]


def claims_of(results, layer):
    return {row["method"]: row for row in results["tables"]["claims"] if row["layer"] == layer}


def test_the_norms_are_those_of_the_layers_matrices(finished, trained):
    _, results, _, _ = finished
    saved = load_model(trained, "retrain")
    rows = {row["layer"]: row for row in results["tables"]["layers"]}
    assert list(rows) == [layer.name for layer in saved.model.layers()]
    assert {row["kind"] for row in rows.values()} == {"conv", "dense"}
    for layer in saved.model.layers():
        row = rows[layer.name]
        assert row["norm"] == pytest.approx(norm_of(matrix_of(saved.variables, layer)), rel=1e-5)
        assert tuple(row["kernel_shape"]) == layer.kernel_shape
        assert row["composed"] is None and row["product_ratio"] is None
        assert row["seconds"] > 0


def test_the_claims_stand_on_their_side_of_the_norm(finished):
    _, results, _, _ = finished
    for row in results["tables"]["layers"]:
        claims = claims_of(results, row["layer"])
        assert set(claims) == set(METHODS) - (
            {"fourier", "fourier_bound"} if row["kind"] == "dense" else set()
        )
        for method, claim in claims.items():
            assert claim["ratio"] == pytest.approx(claim["claimed"] / row["norm"])
            assert claim["seconds"] > 0
            if method in BOUNDS:
                assert claim["ratio"] > 1 - 1e-5
            if method in NEVER_ABOVE:
                assert claim["ratio"] < 1 + 1e-5
        if row["kind"] == "dense":
            assert claims["miyato"]["ratio"] == pytest.approx(1, rel=1e-5)
        else:
            assert claims["miyato"]["ratio"] < 0.9
            assert claims["fourier_bound"]["claimed"] < claims["reshaped_bound"]["claimed"]
        assert claims["miyato_started"]["claimed"] < claims["miyato"]["claimed"] * (1 + 1e-6)


def test_the_folder_holds_it_all_and_says_when_it_is_done(finished):
    workdir, results, _, config = finished
    assert {path.name for path in workdir.iterdir()} >= {
        "config.json", "results.json", "report.html", "figures",
    }  # fmt: skip
    assert (workdir / "figures" / "claimed_against_true.png").stat().st_size > 10_000
    page = (workdir / "report.html").read_text()
    for row in results["tables"]["layers"]:
        assert f">{row['layer']}<" in page
    assert json.loads((workdir / "results.json").read_text()) == results
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert spectra.run(config, workdir) == (results, True)
    with pytest.raises(InputError, match="gouk_iterations was 5 and is now 6"):
        spectra.run(dataclasses.replace(config, gouk_iterations=6), workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_every_setting_is_read_by_something(finished):
    _, _, read, _ = finished
    assert read == {field.name for field in dataclasses.fields(Spectra)}


@pytest.mark.parametrize("width", [100, 120, 200])
def test_the_terminal_shows_every_figure(finished, width):
    workdir, results, _, _ = finished
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    print_results(results, workdir, False, console)
    text = file.getvalue()
    assert "…" not in text and "retrain of run: norms of 4 layers on images of 8×8×1" in text
    # A table that does not fit is cut off at its right.
    lines = text.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if "all, seconds" in line) + 1]
    assert max(map(len, table)) < width
    if width >= 120:
        assert {line[-1] for line in table[1:]} == set("┓┃┩│")
    for row in results["tables"]["layers"]:
        assert row["layer"] in text
        assert f"{row['norm']:#.4g}" in text
        assert f"({claims_of(results, row['layer'])['miyato']['ratio']:.2f}×)" in text
    assert "all, seconds" in text
    assert f"report: {workdir / 'report.html'}" in text


def with_a_zero_layer(results):
    """The same results, had the first layer been zero and another's error stayed large."""
    results = copy.deepcopy(results)
    first, second = results["tables"]["layers"][:2]
    first |= {"norm": 0.0, "error": 0.0}
    second |= {"error": 0.01, "composed": 2.0, "composed_error": 0.02, "batch_norm": 3.0, "product": 4.0,
               "product_ratio": 2.0}  # fmt: skip
    for row in results["tables"]["claims"]:
        if row["layer"] == first["layer"]:
            row |= {"claimed": 0.0, "ratio": None}
    return results


def test_a_layer_of_norm_zero_and_one_that_did_not_converge_are_shown_as_such(finished, tmp_path):
    _, results, _, config = finished
    changed = with_a_zero_layer(results)
    assert layers_table(changed)[1][0][2:5] == ["0", "–", "0 (–)"]
    lines = sentences(changed)
    assert "Of 1 of 4 layers the estimated error is above the tolerance of 1e-06, at most 0.02" in lines
    assert "A layer's norm times its batch-norm's: 2.000 of the norm of both together" in lines
    assert len(sentences(results)) == len(lines) - 2
    assert write_spectra_report(tmp_path, changed, to_dict(config)).exists()
    header, rows = seconds_table(changed)
    assert len(rows) == 5 and all(len(row) == len(header) for row in rows)


@pytest.fixture(name="torch_file")
def torch_file_fixture(tmp_path):
    """(a ResNet-18's state_dict at tmp_path/net.safetensors, its variables)"""
    numpy_file = pytest.importorskip("safetensors.numpy")
    model = build_model(ModelConfig(width=2), num_classes=4, image_shape=(8, 8, 3), convolution="patches")
    shapes, draw = jax.eval_shape(model.init, jax.random.key(0)), np.random.default_rng(0)
    # From a half up: variances are positive, and channels differ in γ.
    wanted = jax.tree.map(lambda leaf: 0.5 + draw.random(leaf.shape, np.float32), shapes)
    named = {
        _torch_name(tuple(entry.key for entry in path)): leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
        for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)
    }  # fmt: skip
    path = tmp_path / "net.safetensors"
    numpy_file.save_file({name: leaf.copy() for name, leaf in named.items()}, path)
    return path, wanted


def test_a_pytorch_file_says_its_own_width_and_batch_norm_is_composed(torch_file):
    path, wanted = torch_file
    config = Spectra(checkpoint=str(path), image_size=8, tolerance=1e-5, repeats=1)
    measured = read_measured(config)
    assert (measured.image_shape, measured.classes) == ((8, 8, 3), 4)
    assert (measured.facts["width"], measured.facts["norm"]) == (2, "batch")
    jax.tree.map(np.testing.assert_array_equal, measured.variables, wanted)
    # Two layers of 21: one is the first of its stride.
    chosen = [one for one in measured.model.layers() if one.name in ("stem", "stage2_block0/conv1")]
    few = dataclasses.replace(measured, model=measured.model._replace(layers=lambda: tuple(chosen)))
    found = list(SpectraRows(config, few))
    assert [row["stride"] for row, _ in found] == [1, 2]
    for layer, (row, claims) in zip(chosen, found, strict=True):
        scale = norm_scale(wanted["params"], wanted["batch_stats"], layer)
        assert row["norm"] == pytest.approx(norm_of(matrix_of(wanted, layer)), rel=1e-5)
        assert row["composed"] == pytest.approx(norm_of(matrix_of(wanted, layer, scale)), rel=1e-5)
        assert row["batch_norm"] == pytest.approx(float(np.max(scale)), rel=1e-5)
        assert row["product_ratio"] == pytest.approx(row["norm"] * row["batch_norm"] / row["composed"])
        assert row["product_ratio"] > 1.001
        ratios = {claim["method"]: claim["ratio"] for claim in claims}
        assert min(ratios[method] for method in BOUNDS) > 1 - 1e-5
        # Positive kernels: patches that overlap add up, and a stride halves that in each direction.
        assert ratios["miyato"] < (0.5 if layer.stride == 1 else 0.8)
        if layer.stride == 2:
            assert ratios["fourier"] > 1.5 > ratios["fourier_bound"]


def test_a_file_needs_its_images_size_and_a_run_has_it(torch_file, trained, tmp_path):
    path, _ = torch_file
    for config, message in (
        (Spectra(checkpoint=str(path)), "image_size is 0, but .* give --config.image_size=32"),
        (Spectra(checkpoint=str(path), image_size=4), "at least 8×8"),
        (Spectra(checkpoint=str(path), image_size=8, checkpoint_model="amun"), "holds one model"),
        (Spectra(checkpoint=str(trained), image_size=8), "image_size is 8, but .* leave it away"),
    ):
        with pytest.raises(InputError, match=message):
            spectra.run(config, tmp_path / "out")
    from safetensors.numpy import save_file

    save_file({"conv1.bias": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="has no conv1.weight of four axes"):
        spectra.run(Spectra(checkpoint=str(tmp_path / "other.safetensors"), image_size=8), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_none_is_refused_and_nothing_is_written(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    unfinished, other = tmp_path / "unfinished", tmp_path / "other"
    for folder, config in ((unfinished, COMPARISON), (other, SisaDelete())):
        folder.mkdir()
        saved = {"config": to_dict(config), "inputs": {}, "versions": {}}
        (folder / "config.json").write_text(json.dumps(saved))
    for checkpoint, message in (
        ("", "checkpoint is empty, but expected"),
        (tmp_path / "absent", "there is no such folder or file"),
        (tmp_path / "empty", "holds no run"),
        (unfinished, "not finished"),
        (other, "holds a run of sisa_delete, but expected one of unlearning_comparison"),
    ):
        with pytest.raises(InputError, match=message):
            spectra.run(Spectra(checkpoint=str(checkpoint)), tmp_path / "out")
    with pytest.raises(InputError, match="has no model 'amun', but original"):
        spectra.run(Spectra(checkpoint=str(trained), checkpoint_model="amun"), tmp_path / "out")
    assert not pathlib.Path(tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tolerance": 0.0}, "tolerance is 0.0, but expected a positive number"),
        ({"tolerance": -1e-6}, "tolerance is -1e-06"),
        ({"repeats": 0}, "repeats is 0"),
        ({"miyato_iterations": 0}, "miyato_iterations is 0"),
        ({"gouk_iterations": -1}, "gouk_iterations is -1"),
        ({"image_size": -8}, "image_size is -8"),
        ({"seed": -1}, "seed is -1"),
        ({"tolerence": 1.0}, "did you mean 'tolerance'"),
    ],
)
def test_bad_settings_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        from_config_dict({"experiment": "spectra", **changes})
