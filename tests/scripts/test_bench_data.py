"""The benchmark of data on its way into training as a user meets it, and the batches that its sides make."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import machine
from benchmarks.data_case import DataCase
from benchmarks.data_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.serving import Prepared, _round
from mu_jax.config import InputError, ModelConfig

ROOT = pathlib.Path(__file__).parents[2]


def bench(*flags):
    command = [sys.executable, "scripts/bench_data.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_case_names_round_trip():
    for name in (*ALL, "epoch_w1_s8_n64", "input_n100"):
        assert parse_case(name).name == name
    assert parse_case("epoch_w16") == DataCase("epoch", 16, 32, 2048)
    assert parse_case("input_s8_n100") == DataCase("input", 0, 8, 100)
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"])] == list(ALL)


def test_an_epoch_has_full_batches_alone():
    assert (parse_case("input_s8_n100").batch, parse_case("input_s8_n100").batches) == (32, 3)
    assert (parse_case("epoch_w16").batch, parse_case("epoch_w16").batches) == (64, 32)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["epoch_16"], "did you mean 'epoch_w16'?"),
        (["batches"], "expected epoch_wWIDTH[_sSIDE][_nEXAMPLES] or input[_sSIDE][_nEXAMPLES]"),
        (["epoch_w0"], "has a width of 0, but expected 1 to 1024"),
        (["input_s4"], "has a side of 4, but expected 8 to 512"),
        (["input_n63"], "has a number of examples of 63, but expected 64 to 1000000"),
        (["input", "input_s32"], "stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_cases(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bad_case_ends_the_script():
    done = bench("--cases=epoch_16")
    assert done.returncode == 2
    assert done.stderr.startswith("bench_data.py: The case is 'epoch_16'")
    assert len(done.stderr.strip().splitlines()) == 1


def windows_of(image, padding=4):
    """All crops of an image from its padded self, and their mirror images, normalised: [2·(2p+1)²,H,W,D]."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crops = [
        padded[down : down + height, right : right + width]
        for down in range(2 * padding + 1)
        for right in range(2 * padding + 1)
    ]
    every = np.stack([*crops, *(crop[:, ::-1] for crop in crops)])
    return (every.astype(np.float32) / 255 - 0.5) / 0.25


def is_among(image, windows):
    return bool((np.abs(windows - image).max(axis=(1, 2, 3)) < 1e-6).any())


def test_our_batches_are_crops_of_their_rows():
    from benchmarks.jax_data_worker import make_batch, random_data, rows_of

    case = parse_case("input_s8_n64")
    images, labels = random_data(case)
    first, second = rows_of(case, 0), rows_of(case, 1)
    # Each epoch has every image once, and in another order.
    assert sorted(first.ravel()) == sorted(second.ravel()) == list(range(64))
    assert not np.array_equal(first, second)
    shown, of = make_batch(
        jax.numpy.asarray(images), jax.numpy.asarray(labels), first[0, :4], jax.random.key(0)
    )
    np.testing.assert_array_equal(of, labels[first[0, :4]])
    for image, row in zip(np.asarray(shown), first[0, :4], strict=True):
        assert is_among(image, windows_of(images[row]))
        assert not is_among(image, windows_of(images[row - 1]))


@pytest.mark.parametrize("form", ["calls", "loop"])
def test_our_epochs_make_all_of_their_batches(form, monkeypatch):
    from benchmarks import jax_data_worker

    seen = []
    real = jax_data_worker.rows_of
    monkeypatch.setattr(
        jax_data_worker, "rows_of", lambda case, epoch: seen.append(epoch) or real(case, epoch)
    )
    prepared = jax_data_worker.prepare(parse_case("input_s8_n330"), {"form": form})
    assert prepared.items_a_step == 320
    prepared.run_steps(2)
    assert seen == [0, 1, 2]


def test_our_epoch_trains_in_chunks_and_goes_on(monkeypatch):
    from benchmarks import jax_data_worker

    monkeypatch.setattr(jax_data_worker, "CHUNK_STEPS", 2)
    monkeypatch.setattr(jax_data_worker, "ModelConfig", lambda width: ModelConfig(name="mlp", width=width))
    counts = []
    real = jax_data_worker.make_run_chunk

    def noted(recipe):
        run = real(recipe)
        assert (recipe.crop_padding, recipe.flip) == (4, True)
        return lambda *arguments: counts.append(int(arguments[3])) or run(*arguments)

    monkeypatch.setattr(jax_data_worker, "make_run_chunk", noted)
    run, lowering = jax_data_worker.training(parse_case("epoch_w8_s8_n96"))
    assert lowering in ("winograd", "patches", "xla")
    first, second = run(1), run(1)
    assert counts == [0, 2, 1, 2, 1]
    assert np.isfinite(first) and first != second


@pytest.mark.torch
@pytest.mark.parametrize("form", ["indexing", "loader"])
def test_pytorchs_batches_are_crops_of_their_rows(form):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_data_worker import Data, Items

    torch.manual_seed(0)
    data = Data(parse_case("input_s8_n64"), {"form": form, "channels_last": False, "device": "cpu"})
    order = data.order()
    assert order.shape == (2, 32) and sorted(order.ravel().tolist()) == list(range(64))
    items = Items(data.images, data.labels)
    assert len(items) == 64
    shown, labels = data.batch(order[0])
    for place, row in enumerate(order[0, :6].tolist()):
        image, label = (shown[place], labels[place]) if form == "indexing" else items[row]
        assert image.dtype == torch.float32 and label == data.labels[row]
        windows = windows_of(data.images[row].permute(1, 2, 0).numpy())
        assert is_among(image.permute(1, 2, 0).numpy(), windows)


@pytest.mark.torch
def test_pytorchs_epoch_moves_the_weights():
    pytest.importorskip("torch")
    from benchmarks.torch_data_worker import prepare

    variant = {"form": "eager", "channels_last": True, "device": "cpu"}
    prepared = prepare(parse_case("epoch_w1_s8_n64"), variant)
    assert prepared.items_a_step == 64 and prepared.facts == variant
    assert prepared.run_steps(1) != prepared.run_steps(1)


def test_processes_of_its_own_are_not_other_programs(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    busy = iter([0.0, 1e6, 0.0, 1e6])
    monkeypatch.setattr(machine, "busy_cpu_seconds", lambda: next(busy))
    helped = iter([0.0, 1e6])
    assert _round(Prepared(lambda count: 0.0, 1), 1)["others_share"] > 0
    assert _round(Prepared(lambda count: 0.0, 1, helpers=lambda: next(helped)), 1)["others_share"] < 1


def test_a_processs_own_seconds():
    assert machine.process_cpu_seconds(2**22 + 1) == 0.0
    if not pathlib.Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc")
    assert machine.process_cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.5)


def test_batches_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--torch=none", "--rounds=1", "--seconds=0.01", f"--json={path}"]
    done = bench("--cases=input_s8_n64", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert list(row) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert (row["case"], row["unit"], row["torch"], row["ratio"]) == ("input_s8_n64", "images/s", None, None)
    assert row["ours"] > 0 and set(row["details"]["ours"]) == {"calls", "loop"}
    assert row["details"]["batch"] == 32


@pytest.mark.slow
@pytest.mark.torch
def test_batches_beside_torch(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    done = bench("--cases=input_s8_n64", "--torch=eager", "--rounds=1", "--seconds=0.01", f"--json={path}")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert row["ratio"] == pytest.approx(row["ours"] / row["torch"], rel=0.02)
    assert set(row["details"]["torch"]) == {"indexing", "loader, 0 workers", "loader, 2 workers"}
    assert all(one["rate"] > 0 for one in row["details"]["torch"].values())
