"""Whole run folders with one file damaged: refused in one sentence, or the model and the table that were there."""

import json
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    SisaConfig,
    SisaDelete,
    UnlearningComparison,
)
from mu_jax.experiments import sisa_delete, unlearning_comparison
from mu_jax.experiments.progress import LiveProgress
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.saved_models import load_model

pytestmark = pytest.mark.slow

TRAIN = OptimizationConfig(epochs=2.0, batch_size=8, learning_rate=0.05)
EVALUATION = EvaluationConfig(bootstrap_samples=100, query_batch=20)
COMMON = {"data": DataConfig(source="synthetic:8,8,1,3,40,20"), "model": ModelConfig(name="mlp", width=4)}
COMPARISON = UnlearningComparison(**COMMON, train=TRAIN, finetune=TRAIN, evaluation=EVALUATION)
SISA = SisaDelete(
    **COMMON,
    train=TRAIN,
    evaluation=EVALUATION,
    loop=LoopConfig(chunk_steps=10),
    sisa=SisaConfig(shards=2, slices=2, mapping="pmap_map", models_per_device=1),
)


class Silent(LiveProgress):
    def say(self, text):
        pass

    def __enter__(self):
        return self


def test_a_finished_run(reads_or_refuses, files_below, tmp_path):
    """`load_model` and the table of a command that finds its work done."""
    workdir = tmp_path / "run"
    unlearning_comparison.run(COMPARISON, workdir, {})
    files = {name: content for name, content in files_below(workdir).items() if not name.startswith(".")}
    wanted = jax.tree.map(np.asarray, load_model(workdir, "original").variables)
    # Of a checkpoint the arrays alone matter, and of the others nothing is read here.
    damaged = {
        name: content
        for name, content in files.items()
        if name in ("config.json", "results.json") or "/original/" in name
    }

    def read(folder):
        model = load_model(folder, "original")
        assert jax.tree.map(np.shape, model.variables) == jax.tree.map(np.shape, wanted)
        return model

    reads_or_refuses(damaged, read, 250)

    def table(folder):
        results, done_before = unlearning_comparison.run(COMPARISON, folder, {})
        print_results(results, folder, done_before, Console(quiet=True))
        return results

    # Without results.json the run would be done again, which takes seconds: only what is in it is damaged.
    whole = {"results.json": files["results.json"]}

    def of_results(folder):
        if not (folder / "results.json").is_file():
            return 0
        for name in ("config.json", "splits.npz"):
            (folder / name).write_bytes(files[name])
        try:
            return table(folder)
        finally:
            for name in ("config.json", "splits.npz"):
                (folder / name).unlink()

    reads_or_refuses(whole, of_results, 250)


def hashes(folder):
    return {
        str(path.relative_to(folder)): json.loads(path.read_text())["state_sha256"]
        for path in folder.glob("models/*/*/step.json")
    }


def test_an_ensemble(fuzz, one_sentence, files_below, tmp_path, damage_file):
    """What is damaged is trained again to the same bits, or said; a request is never lost or changed in silence."""
    fitted = tmp_path / "fitted"
    np.save(tmp_path / "positions.npy", [3, 5])
    sisa_delete.run(SISA, fitted, progress=Silent())
    expected = hashes(fitted)
    files = [
        name for name in files_below(fitted) if not name.startswith((".", "figures", "report", "metrics"))
    ]
    outcomes = {"same": 0, "refused": 0}

    def check(data):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fitted, folder)
        damage_file(data, folder, files)
        done = one_sentence(lambda: sisa_delete.run(SISA, folder, progress=Silent()))
        outcomes["refused" if done is None else "same"] += 1
        if done is not None:
            assert hashes(folder) == expected

    fuzz(check, 60)
    assert min(outcomes.values()) > 0, outcomes
