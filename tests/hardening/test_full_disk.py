"""A disk that fills up, a folder that cannot be written, a second run: said at once, and nothing is half-written."""

import contextlib
import datetime
import fcntl
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    InputError,
    ModelConfig,
    OptimizationConfig,
    UnlearningComparison,
)
from mu_jax.data.files import write_json
from mu_jax.experiments.registry import launch
from mu_jax.experiments.run_folder import RunFolder
from mu_jax.experiments.unlearning_comparison import run
from mu_jax.unlearning.sisa.requests import RequestLog

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--config=configs/quickstart.py:smoke", "--config.model.name=mlp", "--config.model.width=8",
    "--config.train.epochs=2", "--config.data.train_examples=100", "--config.data.test_examples=50",
    "--config.evaluation.bootstrap_samples=100",
)  # fmt: skip


def config():
    train = OptimizationConfig(epochs=1.0, batch_size=16)
    return UnlearningComparison(
        data=DataConfig(source="synthetic:8,8,1,3,60,20"),
        model=ModelConfig(name="mlp", width=8),
        train=train,
        finetune=train,
        evaluation=EvaluationConfig(bootstrap_samples=100),
    )


def half_written(workdir):
    return [path.name for path in workdir.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, no_space_after, old):
    path = tmp_path / "a.json"
    if old:
        path.write_bytes(old)
    no_space_after(0)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == (["a.json"] if old else [])
    assert not old or path.read_bytes() == old


def test_metrics_on_a_device_that_is_always_full(tmp_path):
    """The kernel's own ENOSPC."""
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    folder = RunFolder(tmp_path, {}, inputs={}, overrides={})
    with pytest.raises(OSError, match="No space left"):
        folder.append_metrics({"model": "a", "step": 1})


@pytest.fixture(scope="module", name="undisturbed")
def undisturbed_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    run(config(), workdir)
    return workdir


@pytest.mark.parametrize(
    "written", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2, 3, 4, 5, 6, 7))]
)
def test_a_run_on_a_disk_that_fills_up_goes_on_later(
    undisturbed, tmp_path, no_space_after, monkeypatch, written
):
    workdir = tmp_path / "run"
    with monkeypatch.context():
        no_space_after(written)
        with contextlib.suppress(OSError, InputError):
            run(config(), workdir)
        assert not half_written(workdir)
    monkeypatch.undo()
    run(config(), workdir)
    with (
        np.load(undisturbed / "logits.npz") as expected,
        np.load(workdir / "logits.npz") as found,
    ):
        assert expected.files == found.files
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_request_that_could_not_be_logged_is_none(tmp_path, no_space_after, monkeypatch):
    log, when = RequestLog(tmp_path / "requests.jsonl"), datetime.datetime.now(datetime.UTC)
    log.append(np.array([1]), when)
    no_space_after(0)
    with pytest.raises(
        InputError, match=r"cannot be written \(No space left on device\), so the request is not"
    ):
        log.append(np.array([2]), when)
    monkeypatch.undo()
    assert [request.indices.tolist() for request in log.requests()] == [[1]]
    assert log.append(np.array([3]), when) == 2


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "closed").mkdir(mode=0o500)
    workdir = {"a file": "file", "below a file": "file/run", "read-only": "closed/run"}[place]
    if place == "read-only" and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    with pytest.raises((InputError, NotADirectoryError)) as refused:
        launch(config(), tmp_path / workdir, {})
    assert str(refused.value).isprintable()
    assert (tmp_path / "file").read_text() == "x" and not any((tmp_path / "closed").iterdir())


def test_a_second_run_on_a_folder_is_refused_and_changes_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Another run is at work in"):
            launch(config(), tmp_path / "run", {})
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    with RunFolder(tmp_path / "run", {}, inputs={}, overrides={}):
        assert (tmp_path / "run" / "config.json").exists()


def command_line(*arguments, most=None):
    limit = None if most is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    return subprocess.run(
        [sys.executable, "-m", "mu_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 1_000, 8_000, 30_000, 100_000])
def test_the_command_line_where_files_cannot_grow(tmp_path, most):
    """The kernel's own limit: every file that would pass it, of Orbax's too, fails as on a full disk."""
    done = command_line(*TINY, f"--workdir={tmp_path / 'run'}", most=most)
    if done.returncode:
        assert done.returncode in (1, 2), done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("mu-jax: "), done.stderr
        assert not (tmp_path / "run" / "results.json").exists()
    else:
        assert most == 100_000
    assert not half_written(tmp_path / "run")
    again = command_line(*TINY, f"--workdir={tmp_path / 'run'}")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "results.json").exists()
