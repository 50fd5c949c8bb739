"""The command line as a user meets it: in a process of its own."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mu_jax.training.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
    "--config.model.name=mlp", "--config.model.width=16", "--config.train.epochs=6", "--config.loop.chunk_steps=10",
    "--config.evaluation.bootstrap_samples=100",
)  # fmt: skip


def command(*arguments):
    return [sys.executable, "-m", "mu_jax.main", *arguments]


def mu_jax(*arguments, **options):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "--config is missing"),
        (("--config=configs/absent.py",), "configs/absent.py' does not exist"),
        (("--config=configs/quickstart.py:smok",), "did you mean 'smoke'"),
        (("--config=configs/quickstart.py", "--config.train.epoch=3"), "did you mean 'epochs'"),
        (
            ("--config=configs/quickstart.py", "--config.train.epochs=few"),
            "could not convert string to float: 'few'",
        ),
        (("--config=configs/quickstart.py", "--config.train.epochs=-1"), "train.epochs is -1.0"),
        (("--config=configs/quickstart.py", "--workdri=x"), "Did you mean: workdir"),
        (("--config=configs/quickstart.py", "stray"), "'stray' is not a flag"),
        (("--config=configs/quickstart.py", "--config.data.source=npz:absent.npz"), "absent.npz"),
        (("--config=configs/quickstart.py", "--config.data.source=digit"), "did you mean 'digits'"),
        (("--config=configs/quickstart.py", "--config.train.learning_rate=inf"), "expected a finite number"),
        (
            ("--config=configs/quickstart.py", "--config.nothing_like_it=1"),
            "'nothing_like_it' is not a setting",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, arguments, message):
    done = mu_jax(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(:", "The config file failed: "),
        ("import nowhere_to_be_found", "The config file failed: .*nowhere_to_be_found"),
        ("def get_config(): return 1 / 0", "The config file failed: .*division by zero"),
        ("get_confi = None", "The config file failed: .*get_config"),
        ("def get_config(): return {'experiment': 'x'}", "experiment is 'x'"),
    ],
)
def test_a_bad_config_file_is_one_sentence(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    done = mu_jax(f"--config={tmp_path / 'bad.py'}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_one_sentence_and_the_run_goes_on_later(tmp_path):
    options = (
        "--config=configs/quickstart.py",
        *SMALL,
        "--config.train.epochs=400",
        f"--workdir={tmp_path / 'run'}",
    )
    # A job in the background (`nohup`, a CI runner) may ignore SIGINT, and its children inherit that.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command(*options), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, inherited)
    while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "original").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130
    assert "Interrupted. The same command goes on" in errors
    assert "Traceback" not in errors


def final_parameters(workdir, model):
    # Read without knowing the structure: the leaves by name, as they lie in the checkpoint.
    from orbax.checkpoint import v1 as ocp

    checkpoints = Checkpoints(workdir / "checkpoints" / model)
    step = checkpoints.latest_step()
    return step, ocp.load(checkpoints.directory / f"step_{step:09d}")


def test_killed_at_any_moment_the_same_command_ends_with_the_same_bits(tmp_path):
    options = ("--config=configs/quickstart.py", *SMALL)
    done = mu_jax(*options, f"--workdir={tmp_path / 'undisturbed'}")
    assert done.returncode == 0, done.stderr
    killed = 0
    # Kills while the original trains, while it is fine-tuned, and later: each waits for a sign of its moment.
    for moment in (
        "checkpoints/original/step_000000010",
        "checkpoints/finetune",
        "checkpoints/retrain_again",
        None,
    ):
        process = subprocess.Popen(
            command(*options, f"--workdir={tmp_path / 'killed'}"), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while moment and process.poll() is None and not (tmp_path / "killed" / moment).exists():
            time.sleep(0.002)
        if moment and process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        errors = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL), errors
    assert killed >= 2
    for model in ("original", "finetune", "retrain", "retrain_again"):
        (step, got), (wanted_step, wanted) = (
            final_parameters(tmp_path / name, model) for name in ("killed", "undisturbed")
        )
        assert step == wanted_step
        assert got.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])

    def without_times(workdir):
        results = json.loads((workdir / "results.json").read_text())
        for model in results["models"].values():
            del model["seconds"], model["compile_seconds"]
        del results["environment"]
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        times = ("seconds", "images_per_second")
        return results, [{k: v for k, v in line.items() if k not in times} for line in lines]

    assert without_times(tmp_path / "killed") == without_times(tmp_path / "undisturbed")
    assert jax.tree.leaves(wanted)

    again = mu_jax(*options, f"--workdir={tmp_path / 'killed'}")
    assert again.returncode == 0
    assert "This run is done already" in again.stdout
    other = mu_jax(*options, f"--workdir={tmp_path / 'killed'}", "--config.seed=4")
    assert other.returncode == 2
    assert "seed was 0 and is now 4" in other.stderr


def test_divergence_ends_in_one_sentence_and_its_own_exit_code(tmp_path):
    done = mu_jax(
        "--config=configs/quickstart.py",
        *SMALL,
        f"--workdir={tmp_path / 'run'}",
        "--config.train.learning_rate=1e30",
    )
    assert done.returncode == 3
    assert re.search(
        r"original diverged: .* step \d+ of \d+ \(learning rate 1e\+30\); try a smaller", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "results.json").exists()
