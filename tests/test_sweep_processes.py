"""Sweeps as a user meets them: in processes of their own, several of them, and killed."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mu_jax.experiments.signal_pool import read_pool

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
    "--config=configs/shadow_sweep.py:smoke", "--config.model.name=mlp", "--config.model.width=64",
    "--config.train.epochs=200", "--config.sweep.models=12", "--config.sweep.models_per_device=2",
    "--config.loop.chunk_steps=20",
)  # fmt: skip
FILES = ("member.npy", "labels.npy", "phi.npy", "probability.npy")
# One device a process, so that one process and two make groups of the same width.
ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}


def start(workdir, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "mu_jax.main", *SMALL, f"--workdir={workdir}", *more],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def kill_when(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def parts(workdir):
    return sorted(path.name for path in (workdir / "signals" / "parts").glob("group_*.npz"))


def signals(workdir):
    return {name: (workdir / "signals" / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module", name="undisturbed")
def undisturbed_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert "12 shadow models" in finish(start(folder))
    return folder


def test_a_sweep_killed_again_and_again_ends_with_the_same_bits(undisturbed, tmp_path):
    folder = tmp_path / "run"
    # Before anything is stored; with a group stored and the next in flight; and at another such moment.
    kill_when(process := start(folder), (folder / "plan.json").exists)
    assert process.returncode == -signal.SIGKILL
    kill_when(start(folder), lambda: len(parts(folder)) >= 1)
    stored = parts(folder)
    times = {name: (folder / "signals" / "parts" / name).stat().st_mtime_ns for name in stored}
    kill_when(start(folder), lambda: len(parts(folder)) >= len(stored) + 2)
    for name in stored:  # what was stored was not made again
        assert (folder / "signals" / "parts" / name).stat().st_mtime_ns == times[name]
    output = finish(start(folder))
    assert "resumes with" in output
    assert signals(folder) == signals(undisturbed)


def two(folder, *more):
    """Both processes of one start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = (f"--coordinator=127.0.0.1:{port}", "--processes=2", *more)
    return [start(folder, *shared, f"--process={i}") for i in range(2)]


@pytest.mark.parametrize("processes", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_two_processes_share_a_sweep_and_a_killed_ones_part_is_picked_up(undisturbed, tmp_path, processes):
    folder = tmp_path / "run"
    first, second = two(folder)
    kill_when(second, lambda: "group_000001.npz" in parts(folder))
    # Its scheduler would end the other one too; left alone, JAX does after its heartbeat's timeout.
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (folder / "results.json").exists()
    # In the same number or another, they go on.
    outputs = [finish(process) for process in (two(folder) if processes == 2 else [start(folder)])]
    assert "resumes with" in outputs[-1]
    assert all("12 shadow models" in output for output in outputs)
    assert (folder / "metrics.process_1.jsonl").exists()
    assert signals(folder) == signals(undisturbed)
    assert read_pool(folder).phi.shape == (12, 1797, 2)
    if processes == 2:
        finish(start(folder, "--config.sweep.models=14"))
        np.testing.assert_array_equal(read_pool(folder).phi[:12], read_pool(undisturbed).phi)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--coordinator=localhost", "--processes=2", "--process=0"), "expected HOST:PORT"),
        (("--coordinator=localhost:1", "--processes=2", "--process=2"), "0 ≤ process < processes"),
        (("--coordinator=localhost:1",), "needs both"),
        (("--processes=2",), "without --coordinator"),
        (("--distributed",), "The other processes were not found by the cluster's own variables"),
    ],
)
def test_bad_launches_are_one_sentence_and_write_nothing(tmp_path, arguments, message):
    process = start(tmp_path / "run", *arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1, output
    assert not (tmp_path / "run").exists()


def test_an_experiment_of_one_process_refuses_several(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mu_jax.main", "--config=configs/quickstart.py", "--distributed"),
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'unlearning_comparison' runs in one process" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_process_that_fails_stops_the_others_and_each_says_one_sentence(tmp_path):
    folder = tmp_path / "run"
    both = two(folder, "--config.sweep.memory_gib=0.000001")
    # The other one is busy when the first one fails, for longer than that one takes to leave by itself.
    while not (folder / ".lock.process_1").exists():
        time.sleep(0.005)
    both[1].send_signal(signal.SIGSTOP)
    while not (folder / ".failed.process_0").exists():
        time.sleep(0.005)
    time.sleep(8)
    both[1].send_signal(signal.SIGCONT)
    first, second = (process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [2, 2], (first, second)
    assert "mu-jax: Training one model takes" in first
    assert "mu-jax: Process 0 of this run has failed: Training one model takes" in second
    assert "Traceback" not in first + second
    # Nothing stands in the way of another try.
    finish(start(folder, "--config.sweep.models=2", "--config.train.epochs=2"))
