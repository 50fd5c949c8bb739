"""SIGKILL at random moments of a training run, a sweep and a SISA deletion: the same command ends with the same bits.

Fifty moments, drawn once and for all by a seed, uniform over the time that an undisturbed run takes. Runs are children
of a server that has imported everything, so that the moments fall into work, not into imports; each starts its own JAX.
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    ShadowSweep,
    SisaConfig,
    SisaDelete,
    SweepConfig,
    UnlearningComparison,
)
from mu_jax.experiments.registry import launch

pytestmark = pytest.mark.slow

DIGITS = DataConfig(source="digits", train_examples=120, test_examples=60, label_noise=0.2)
TRAIN = OptimizationConfig(epochs=6.0, batch_size=12, learning_rate=0.05)
COMMON = {
    "data": DIGITS,
    "model": ModelConfig(name="mlp", width=8),
    "train": TRAIN,
    "loop": LoopConfig(chunk_steps=10),
}
EVALUATION = EvaluationConfig(bootstrap_samples=100, query_batch=60)
TRAINING = UnlearningComparison(**COMMON, finetune=TRAIN, evaluation=EVALUATION)
SWEEP = ShadowSweep(**COMMON, sweep=SweepConfig(models=6, mapping="pmap_map", models_per_device=1))
SISA = SisaDelete(
    **COMMON,
    evaluation=EVALUATION,
    sisa=SisaConfig(shards=3, slices=3, mapping="pmap_map", models_per_device=2),
)
MOMENTS = np.random.default_rng(12).random(50)
"""Of an undisturbed run's time."""


@pytest.fixture(scope="module", name="start")
def start_fixture():
    """`start(config, workdir)`: a child at work on it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mu_jax.experiments.registry", "mu_jax.experiments.shadow_sweep",
        "mu_jax.experiments.sisa_delete", "mu_jax.experiments.unlearning_comparison"])  # fmt: skip

    def start(config, workdir):
        child = context.Process(target=launch, args=(config, workdir, {}))
        child.start()
        return child

    return start


def finish(start, config, workdir):
    began = time.monotonic()
    child = start(config, workdir)
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - began


def kill_at(start, config, workdir, seconds):
    """Whether it was still at work."""
    child = start(config, workdir)
    child.join(seconds)
    alive = child.is_alive()
    if alive:
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
    return alive


def kept(workdir, *patterns):
    """All bytes of files that hold weights or signals, but for times and Orbax's own names and dates."""
    found = {}
    for pattern in patterns:
        for path in sorted(workdir.glob(pattern)):
            found[str(path.relative_to(workdir))] = path.read_bytes()
    assert found
    return found


def weights(workdir):
    from orbax.checkpoint import v1 as ocp

    folders = sorted((workdir / "checkpoints").glob("*/step_*"))
    return {
        (folder.parent.name, folder.name, leaf): np.asarray(array).tobytes()
        for folder in folders
        for leaf, array in ocp.load(folder).items()
    }


def of_training(workdir):
    results = json.loads((workdir / "results.json").read_text())
    for model in results["models"].values():
        del model["seconds"], model["compile_seconds"]
    del results["environment"]
    return results, weights(workdir), kept(workdir, "splits.npz", "logits.npz")


def of_sweep(workdir):
    assert not (workdir / "signals" / "parts").exists()
    return kept(workdir, "signals/*.npy", "scores.npz")


def of_sisa(workdir):
    log = [json.loads(line) for line in (workdir / "requests.jsonl").read_text().splitlines()]
    requests = [line["indices"] for line in log if "request" in line]
    assert len([line for line in log if "done" in line]) == len(requests) >= 1
    steps = {
        str(path.relative_to(workdir)): json.loads(path.read_text())
        for path in workdir.glob("models/*/*/step.json")
    }
    assert len(steps) == 9
    return {name: (step["key"], step["state_sha256"]) for name, step in steps.items()}, requests[0]


def check(start, tmp_path, config, moments, result, before=None):
    def folder(name):
        if before is not None:
            shutil.copytree(before, tmp_path / name)
        return tmp_path / name

    undisturbed = folder("undisturbed")
    finish(start, config, undisturbed)
    expected = result(undisturbed)
    # The second one finds its programs in JAX's cache, if there is one, as all that follow.
    seconds = finish(start, config, folder("timed"))
    assert result(tmp_path / "timed") == expected
    killed = 0
    for number, moment in enumerate(moments):
        workdir = folder(f"killed_{number}")
        killed += kill_at(start, config, workdir, moment * seconds)
        finish(start, config, workdir)
        assert result(workdir) == expected, f"killed after {moment * seconds:.3f} of {seconds:.3f} s"
        left = [path.name for path in workdir.rglob(".*") if path.name.count(".") > 1]
        assert not left, f"of writes that were cut off: {left}"
        shutil.rmtree(workdir)
    assert killed >= 0.8 * len(moments)
    print(f"killed {killed} of {len(moments)}, within {seconds:.2f} s")


@pytest.mark.parametrize("part", [slice(0, 9), slice(9, 17)])
def test_a_training_run(start, tmp_path, part):
    check(start, tmp_path, TRAINING, MOMENTS[part], of_training)


@pytest.mark.parametrize("part", [slice(17, 26), slice(26, 34)])
def test_a_sweep(start, tmp_path, part):
    check(start, tmp_path, SWEEP, MOMENTS[part], of_sweep)


@pytest.mark.parametrize("part", [slice(34, 42), slice(42, 50)])
def test_a_deletion(start, tmp_path, part):
    fitted = tmp_path / "fitted"
    finish(start, SISA, fitted)
    np.save(tmp_path / "positions.npy", [3, 50, 77])
    asked = dataclasses.replace(SISA, forget=ForgetConfig(indices=str(tmp_path / "positions.npy")))
    check(start, tmp_path, asked, MOMENTS[part], of_sisa, before=fitted)
