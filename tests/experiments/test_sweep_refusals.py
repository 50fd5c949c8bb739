import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.experiments import shadow_sweep
from mu_jax.experiments.shadow_sweep import run
from mu_jax.experiments.signal_pool import read_pool
from mu_jax.training.parallel import ParallelTrainer
from tiny_sweep import CONFIG, changed, signals


def test_a_folder_of_other_settings_is_refused_by_name(finished):
    folder, _ = finished
    before = signals(folder)
    for config, message in (
        (changed(train={"epochs": 5.0}), r"train\.epochs was 4\.0 and is now 5\.0"),
        (changed(query={"flip": False}), r"query\.flip was True and is now False"),
        (changed(sweep={"candidates": "train"}), r"sweep\.candidates was 'train\+test'"),
        (dataclasses.replace(CONFIG, seed=1), "seed was 0 and is now 1"),
    ):
        with pytest.raises(InputError, match=message):
            run(config, folder)
    assert signals(folder) == before


def test_a_pool_of_something_else_in_the_folder_is_refused(finished, tmp_path):
    """Somebody copied signals/ of another sweep here."""
    shutil.copytree(finished[0] / "signals", tmp_path / "run" / "signals")
    shutil.copy(finished[0] / "config.json", tmp_path / "run" / "config.json")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    saved["config"]["train"]["epochs"] = 5.0
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"made by something else: train\.epochs was 4\.0 and is now 5\.0"):
        run(changed(train={"epochs": 5.0}), tmp_path / "run")


@pytest.mark.parametrize("kind", ["shape", "never", "missing"])
def test_bad_membership_files_are_refused_and_nothing_is_written(tmp_path, kind):
    member = np.random.default_rng(0).permuted(np.tile(np.arange(6) < 3, (80, 1)), axis=1).T.copy()
    message = {
        "shape": r"has shape \(6, 79\), but expected \(6, 80\)",
        "never": "1 of 80 candidates are in none or all of the models, the first in column 7",
        "missing": "there is no such file",
    }[kind]
    if kind == "shape":
        member = member[:, 1:]
    if kind == "never":
        member[:, 7] = False
    if kind != "missing":
        np.save(tmp_path / "member.npy", member)
    config = changed(sweep={"membership": "file", "membership_file": str(tmp_path / "member.npy")})
    with pytest.raises(InputError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_little_memory_for_one_model_is_one_sentence(tmp_path):
    config = changed(sweep={"memory_gib": 1e-6})
    with pytest.raises(
        InputError, match=r"Training one model takes .* MiB of memory, but there are 1\.0 KiB"
    ):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "plan.json").exists()
    # The folder may be tried again, with other settings too.
    results, _ = run(
        changed(train={"batch_size": 4}, sweep={"memory_gib": 4.0, "models": 2}), tmp_path / "run"
    )
    assert results["sweep"]["models"] == 2


def test_memory_that_runs_out_while_training_is_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 42 bytes.")

    monkeypatch.setattr(ParallelTrainer, "train", full)
    with pytest.raises(InputError, match="ran out for groups of 2 models .*42 bytes.*memory_gib"):
        run(CONFIG, tmp_path / "run")
    monkeypatch.undo()
    run(CONFIG, tmp_path / "run")

    def broken(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(ParallelTrainer, "train", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run(changed(sweep={"models": 8}), tmp_path / "run")


def test_a_truncated_part_is_one_sentence(tmp_path, monkeypatch):
    def dying(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(shadow_sweep._Sweep, "_wait_for_others", dying)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "run")
    monkeypatch.undo()
    part = tmp_path / "run" / "signals" / "parts" / "group_000001.npz"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(InputError, match="group_000001.npz cannot be read .*; delete it"):
        run(CONFIG, tmp_path / "run")
    part.unlink()
    run(CONFIG, tmp_path / "run")
    assert read_pool(tmp_path / "run").phi.shape[0] == 6


def test_a_truncated_pool_is_refused_when_it_grows(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / "signals" / "phi.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"phi\.npy has \d+ bytes, but expected \d+"):
        run(changed(sweep={"models": 8}), tmp_path / "run")


def test_wrong_signals_are_noticed_and_not_stored(tmp_path, monkeypatch):
    train = ParallelTrainer.train

    def wrong(self, runs, **options):
        group = train(self, runs, **options)
        phi = group.signals["phi"].copy()
        phi[1, -1, 0] += 0.5
        return dataclasses.replace(group, signals=group.signals | {"phi": phi})

    monkeypatch.setattr(ParallelTrainer, "train", wrong)
    with pytest.raises(RuntimeError, match="φ of example 79 is .* by a second computation"):
        run(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "signals").exists()
