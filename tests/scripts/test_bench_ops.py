"""The benchmark as a user meets it, with cases as small as a ResNet allows."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks.case_names import ALL, TABLE, TABLE_BFLOAT16, parse_case, parse_cases
from benchmarks.choices_table import choice_row, merge_choices
from benchmarks.machine import usable_cores
from benchmarks.orchestrator import Contender, measure
from benchmarks.worker_process import Worker, WorkerDied

ROOT = pathlib.Path(__file__).parents[2]


def bench(*flags):
    command = [sys.executable, "scripts/bench_ops.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def worker_of(tmp_path, program):
    """A worker whose interpreter is `program`, a Python script."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{program}\n")
    path.chmod(0o755)
    return Worker("PyTorch", str(path), "benchmarks.torch_training_worker", {})


def test_case_names_round_trip():
    for name in (*ALL, *TABLE, TABLE_BFLOAT16, "8x8_w8_single_b16", "32x32_w64_k2_bf16_b512"):
        assert parse_case(name).name == name
    case = parse_case("32x32_w64_k8_bf16")
    assert (case.side, case.width, case.models, case.dtype, case.batch) == (32, 64, 8, "bfloat16", 64)
    assert parse_case("8x8_w16_chunk", batch=128).name == "8x8_w16_chunk_b128"
    assert parse_case("8x8_w16_chunk").images_a_step == 32
    assert parse_case("8x8_w16_k16").images_a_step == 16 * 32


def test_cases_without_names_are_the_table():
    assert [case.name for case in parse_cases([], None, False)] == list(TABLE)
    assert parse_cases([], None, True)[-1].name == TABLE_BFLOAT16
    assert [case.name for case in parse_cases(["all"], None, False)] == list(ALL)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--cases=8x8_w16_chnk"], "did you mean '8x8_w16_chunk'?"),
        (["--cases=8x16_w16_chunk"], "expected a square"),
        (["--cases=4x4_w16_chunk"], "has a side of 4, but expected 8 to 512"),
        (["--cases=8x8_w16_k1"], "has a number of models of 1, but expected 2 to 1024"),
        (["--cases=8x8_w16_k8,8x8_w16_k8"], "stands twice"),
        (["--torch=some"], "--torch is 'some', but expected all, eager or none"),
        (["--mapping=pmap"], "--mapping is 'pmap', but expected vmap, map, pmap_vmap or pmap_map"),
        (["--rounds=0"], "--rounds is 0"),
        (["--batch=0"], "--batch is 0"),
        (["--json=no/such/folder/rows.json"], "expected a file in a folder that exists"),
        (["--write-table"], "add --lowerings=all"),
        (["--roundz=3"], "Did you mean: rounds ?"),
        (["rounds"], "'rounds' is no flag"),
    ],
)
def test_bad_flags_are_one_sentence(flags, sentence):
    done = bench(*flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_lowering_is_refused():
    done = bench("--cases=8x8_w8_chunk", "--lowerings=winograd_9")
    assert done.returncode == 2
    assert "--lowerings is 'winograd_9', but expected all, auto, xla" in done.stderr


def test_a_missing_interpreter_is_refused():
    done = bench("--cases=8x8_w8_chunk", "--torch-python=no/such/python")
    assert done.returncode == 2
    assert "'no/such/python', which does not start" in done.stderr


def test_a_worker_that_dies_says_its_last_words(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho the reason is this >&2\nexit 7\n")
    python.chmod(0o755)
    done = bench("--cases=8x8_w8_chunk", f"--torch-python={python}")
    assert done.returncode == 1
    assert "The PyTorch worker died with exit code 7 at the request 'describe'" in done.stderr
    assert "the reason is this" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "program, words",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "by SIGKILL (a lack of memory"),
        ("raise SystemExit(3)", "with exit code 3 at the request 'describe'; it said nothing"),
        ("input(); print('hello', flush=True); input()", "answered 'hello' to 'describe', which is no JSON"),
    ],
)
def test_how_a_worker_ended_is_said(tmp_path, program, words):
    worker = worker_of(tmp_path, program)
    with pytest.raises(WorkerDied) as raised:
        worker.ask("describe")
    worker.close()
    assert words in str(raised.value)


class Recorder:
    """A worker that notes what it is asked, and is as fast as it is told."""

    def __init__(self, log, rates):
        self.log, self.rates = log, rates

    def ask(self, do, *, name, **_):
        self.log.append((do, name))
        if do == "prepare":
            return {"unavailable": "no compiler"} if name == "broken" else {"facts": {}}
        return {"items": self.rates[name], "seconds": 1.0, "others_share": 0.0}


def test_rounds_interleave_and_the_hopeless_stop():
    log = []
    worker = Recorder(log, {"a": 100.0, "slow": 10.0, "x": 50.0, "y": 40.0})
    ours = [Contender(name, worker, {}) for name in ("a", "slow")]
    theirs = [Contender(name, worker, {}) for name in ("x", "broken", "y")]
    measure(ours, theirs, {}, rounds=3, seconds=1.0, say=lambda _: None)
    runs = [name for do, name in log if do == "run"]
    assert runs == ["a", "x", "slow", "y", "a", "x", "y", "a", "x", "y"]
    assert theirs[1].unavailable == "no compiler"
    assert ours[0].rate == 100.0


def test_what_the_ratio_divides_by_runs_every_round():
    log = []
    worker = Recorder(log, {"a": 100.0, "x": 50.0, "slow": 1.0})
    theirs = [Contender("x", worker, {}), Contender("slow", worker, {}, required=True)]
    measure([Contender("a", worker, {})], theirs, {}, rounds=3, seconds=1.0, say=lambda _: None)
    assert len(theirs[1].rates) == 3


def test_measured_choices_replace_their_own_entries_alone(tmp_path):
    path = tmp_path / "choices.json"
    path.write_text("[]")
    chunk, single = parse_case("8x8_w16_chunk"), parse_case("8x8_w16_single")
    merge_choices(path, [choice_row(chunk, "cpu", {"xla": 5.0, "patches": 9.0}, "one", "old")])
    merge_choices(path, [choice_row(single, "cpu", {"xla": 7.0, "patches": 6.0}, "one", "old")])
    merge_choices(path, [choice_row(chunk, "cpu", {"xla": 4.0, "patches": 3.0}, "one", "new")])
    rows = json.loads(path.read_text())
    assert [(row["in_loop"], row["lowering"], row["device"]) for row in rows] == [
        (False, "xla", "old"),
        (True, "xla", "new"),
    ]
    assert rows[1]["images_per_second"] == {"xla": 4.0, "patches": 3.0}


@pytest.mark.slow
def test_k_models_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--torch=none", "--rounds=1", "--seconds=0.01", "--lowerings=patches", f"--json={path}"]
    done = bench("--cases=8x8_w1_k2_b2", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert list(row) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert row["case"] == "8x8_w1_k2_b2" and row["unit"] == "images/s"
    assert row["ours"] > 0 and row["torch"] is None and row["ratio"] is None
    mappings = ["vmap", "map"]
    if usable_cores() == 2:  # else two models do not split over the devices
        mappings += ["pmap_vmap", "pmap_map"]
    for mapping in mappings:
        facts = row["details"]["ours"][f"patches, {mapping}"]
        assert (facts["lowering"], facts["mapping"]) == ("patches", mapping) and facts["rate"] > 0
    assert row["details"]["memory"]["JAX"]["peak_bytes"] > 2**20
    assert "| 8x8_w1_k2_b2 |" in done.stdout


@pytest.mark.torch
def test_one_model_beside_torch(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    flags = ["--torch=eager", "--rounds=1", "--seconds=0.01", "--lowerings=patches", f"--json={path}"]
    done = bench("--cases=8x8_w1_chunk_b2", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert row["ratio"] == pytest.approx(row["ours"] / row["torch"], rel=0.02)
    assert row["details"]["torch_reference"] == "eager float32"


@pytest.mark.torch
def test_both_sides_train_the_same_network():
    torch = pytest.importorskip("torch")
    import jax
    import numpy as np

    from benchmarks.torch_resnet import ResNet18
    from mu_jax.config import ModelConfig
    from mu_jax.models import build_model
    from mu_jax.models.pytorch_import import resnet18_from_state_dict

    def usual_name(name):
        """That of the public CIFAR ResNets."""
        name = re.sub(r"^stem_norm", "bn1", re.sub(r"^stem\.", "conv1.", name)).replace("head", "linear")
        name = re.sub(r"^blocks\.(\d)", lambda m: f"layer{int(m[1]) // 2 + 1}.{int(m[1]) % 2}", name)
        return re.sub(r"norm([12])", r"bn\1", name)

    torch.manual_seed(0)
    theirs = ResNet18(4, 10)
    model = build_model(ModelConfig(width=4), num_classes=10, image_shape=(8, 8, 3), convolution="patches")
    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = resnet18_from_state_dict(
        {usual_name(name): value.numpy().copy() for name, value in theirs.state_dict().items()}, like
    )
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    wanted = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).detach().numpy()
    got, _ = jax.jit(lambda v, x: model.apply(v, x, train=True))(variables, images)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
