import dataclasses
import io
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image

from mu_jax.attacks.signals import logit_margin
from mu_jax.config import InputError
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.shadow_sweep import groups_of, run
from mu_jax.experiments.signal_pool import read_pool
from mu_jax.experiments.sweep_setting import model_name, prepare_sweep
from mu_jax.training.parallel import ParallelTrainer
from tiny_sweep import CONFIG, changed, signals


def test_a_sweep_leaves_a_pool_a_report_and_results(finished):
    folder, results = finished
    pool = read_pool(folder)
    assert pool.member.shape == (6, 80)
    np.testing.assert_array_equal(pool.member.sum(axis=0), 3)  # candidates are all examples
    assert pool.phi.shape == pool.probability.shape == (6, 80, 2)
    np.testing.assert_allclose(pool.probability, 1 / (1 + np.exp(-np.float64(pool.phi))), rtol=1e-5)
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert "<img" in (folder / "report.html").read_text()
    assert sorted(results["models"]) == [model_name(k) for k in range(6)]
    sweep = results["sweep"]
    assert (sweep["devices"], sweep["models_per_device"], sweep["groups"]) == (2, 1, 3)
    assert sweep["hash"] == pool.hash
    for k, (name, model) in enumerate(sorted(results["models"].items())):
        assert name == model_name(k)
        assert model["members"] == pool.member[k].sum()
        # Of a right answer φ may be negative among three classes, of a wrong one it is never positive.
        assert model["accuracy"]["member"] >= (pool.phi[k, pool.member[k], 0] > 0).mean()
        assert model["diverged_step"] is None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {tuple(line["models"]) for line in lines} == {(0, 1), (2, 3), (4, 5)}
    assert not (folder / "signals" / "parts").exists()
    assert not (folder / "checkpoints").exists()


def test_the_same_command_reports_that_it_is_done(finished):
    folder, results = finished
    again, before = run(CONFIG, folder)
    assert before
    assert again == json.loads(json.dumps(results))


def test_members_are_memorised_on_the_mean():
    """Signals lie where they belong: members' φ above the others', for each model."""
    config = changed(train={"epochs": 40.0}, data={"label_noise": 0.5})
    setting = prepare_sweep(config)
    member = setting.membership([6])
    trainer = setting.make_trainer(setting.first_placement(1))
    group = trainer.train(setting.runs(member, [0, 1]))
    for i in range(2):
        phi = group.signals["phi"][i, :, 0]
        assert phi[member[i]].mean() > phi[~member[i]].mean() + 1


def test_little_memory_makes_smaller_groups(tmp_path):
    setting = prepare_sweep(changed(sweep={"models_per_device": 3}))
    needed = setting.make_trainer(setting.first_placement(1)).bytes_per_device()
    small = setting.make_trainer(dataclasses.replace(setting.first_placement(1), models_per_device=1))
    assert small.bytes_per_device() < needed
    config = changed(sweep={"models_per_device": 3, "memory_gib": (needed - 1) / 2**30})
    results, _ = run(config, tmp_path / "run")
    assert results["sweep"]["models_per_device"] == 1


def test_a_diverged_model_is_marked_and_the_sweep_goes_on(tmp_path):
    # Wild rates, but gradients that vanish soon in some models: whoever diverges is marked, all are stored.
    results, _ = run(changed(train={"learning_rate": 1e6}), tmp_path / "run")
    pool = read_pool(tmp_path / "run")
    assert pool.diverged
    assert results["sweep"]["diverged"] == len(pool.diverged) == 6 - pool.usable.sum()
    for k, step in pool.diverged.items():
        assert results["models"][model_name(k)]["diverged_step"] == step
        assert results["models"][model_name(k)]["loss"] is None
    assert "diverged and are left out" in (tmp_path / "run" / "report.html").read_text()


def test_a_model_whose_weights_are_finite_but_not_its_logits_is_marked(tmp_path):
    # One step of a loss and gradient that are finite.
    results, _ = run(
        changed(train={"learning_rate": 1e25, "epochs": 0.2, "warmup_epochs": 0.0}, sweep={"models": 2}),
        tmp_path / "run",
    )
    assert results["sweep"]["diverged"] == 2


def test_kept_models_give_the_signals_that_were_stored(finished, tmp_path):
    config = changed(sweep={"keep_models": True, "models": 2}, query={"logits": True})
    run(config, tmp_path / "run")
    pool = read_pool(tmp_path / "run")
    setting = prepare_sweep(config)
    for k in range(2):
        saved = load_model(tmp_path / "run", model_name(k))
        logits = np.asarray(saved.predict(setting.dataset.images))
        np.testing.assert_allclose(pool.logits[k, :, 0], logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            pool.phi[k, :, 0], logit_margin(logits, setting.dataset.labels), rtol=1e-4, atol=1e-4
        )
    with pytest.raises(InputError, match="no model 'original'"):
        load_model(tmp_path / "run", "original")
    with pytest.raises(InputError, match="keep_models"):
        load_model(finished[0], model_name(0))


def test_models_do_not_depend_on_how_many_there_are(finished, tmp_path):
    """Pairs are drawn pair by pair, so even the members are the same."""
    for models in (4, 6):
        run(changed(sweep={"membership": "pairs", "models": models}), tmp_path / str(models))
    small, large = read_pool(tmp_path / "4"), read_pool(tmp_path / "6")
    np.testing.assert_array_equal(small.phi, large.phi[:4])
    np.testing.assert_array_equal(small.member[0], ~small.member[1])


def test_candidates_leave_out_validation_examples():
    setting = prepare_sweep(changed(data={"validation_fraction": 0.2}))
    assert len(setting.candidates) == 80 - 12
    member = setting.membership([6])
    outside = np.setdiff1d(np.arange(80), setting.candidates)
    assert not member[:, outside].any()
    np.testing.assert_array_equal(member[:, setting.candidates].sum(axis=0), 3)


def test_the_hash_is_of_what_makes_a_model_and_of_nothing_else():
    def produced(config):
        return prepare_sweep(config).produced_by()

    base = produced(CONFIG)
    for same in (
        changed(sweep={"models": 64}),
        changed(sweep={"mapping": "vmap", "keep_models": True, "memory_gib": 1.0}),
        changed(model={"convolution": "xla"}),
        changed(query={"batch": 7}),
        changed(loop={"chunk_steps": 3}),
    ):
        assert produced(same) == base
    for other in (
        changed(data={"mean": (0.4,)}),
        changed(data={"label_noise": 0.2}),
        changed(model={"width": 9}),
        changed(model={"compute_dtype": "bfloat16"}),
        changed(train={"batch_size": 9}),
        changed(sweep={"membership": "pairs"}),
        changed(query={"shift": 1}),
        dataclasses.replace(CONFIG, seed=5),
    ):
        assert produced(other) != base


def test_the_programs_of_a_sweep_hold_no_collective_and_export_for_accelerators():
    setting = prepare_sweep(CONFIG)
    trainer = setting.make_trainer(setting.first_placement(1))
    assert trainer.placement.devices == 2
    names = "all-reduce|all-gather|all-to-all|collective|reduce-scatter|send|recv"
    assert not re.search(rf"\b({names})[\w-]*\(", trainer.compiled_text())
    for name, arguments in trainer.arguments().items():
        exported = jax.export.export(getattr(trainer.programs, name), platforms=("cuda", "tpu"))(*arguments)
        assert exported.platforms == ("cuda", "tpu")


def test_groups_are_shared_out_by_number_alone():
    everything = groups_of(10, 4, set())
    assert everything == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [8, 9])]
    for processes in (1, 2, 3, 5):
        shared = [group for p in range(processes) for group in groups_of(10, 4, {1, 2, 8, 9}, p, processes)]
        assert sorted(shared) == [(0, [0, 3]), (1, [4, 5, 6, 7])]


def test_first_placements():
    def placement(processes=1, **sweep):
        found = prepare_sweep(changed(sweep=sweep)).first_placement(processes)
        return found.mapping, found.devices, found.models_per_device

    assert placement(models=64, models_per_device=0) == ("map", 2, 8)
    assert placement(models=64, models_per_device=0, mapping="map") == ("map", 1, 8)
    assert placement(models=64, models_per_device=0, mapping="pmap_vmap") == ("vmap", 2, 32)
    assert placement(models=64, models_per_device=0, mapping="pmap_one") == ("one", 2, 1)
    assert placement(models=6, models_per_device=0) == ("map", 2, 3)
    # Several processes each get a share, rather than one all of it.
    assert placement(processes=3, models=6, models_per_device=0) == ("map", 2, 1)
    with pytest.raises(InputError, match="take 3 devices, but this process has 2"):
        placement(devices=3)
    long = prepare_sweep(changed(train={"epochs": 10000.0}, sweep={"models": 64, "models_per_device": 0}))
    assert long.first_placement(1).models_per_device == 1  # a kill costs a group


def test_an_accelerator_would_use_all_its_devices_one_model_after_another(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    setting = prepare_sweep(changed(sweep={"mapping": "auto"}))
    assert (setting.mapping, setting.lowering) == ("pmap_map", "xla")
    setting = prepare_sweep(changed(sweep={"mapping": "vmap"}))
    assert (setting.mapping, setting.lowering) == ("vmap", "patches")


CIFAR = pathlib.Path(__file__).parent.parent.parent.parent / "shared" / "data" / "cifar10_jpeg.npz"


@pytest.mark.skipif(
    not CIFAR.exists(), reason="needs the JPEG copy of CIFAR-10, which is not part of the project"
)
def test_a_sweep_on_cifar_images(tmp_path, monkeypatch):
    with np.load(CIFAR) as source:
        jpeg, offsets, labels = source["jpeg"], source["offsets"], source["label"]

    def images(rows):
        files = (io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes()) for i in rows)
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])

    train, test = np.arange(120), np.arange(50_000, 50_040)
    arrays = {
        "x_train": images(train),
        "y_train": labels[train],
        "x_test": images(test),
        "y_test": labels[test],
    }
    np.savez(tmp_path / "cifar.npz", **arrays)
    config = changed(
        data={"source": f"npz:{tmp_path / 'cifar.npz'}", "label_noise": 0.0}, sweep={"models": 4}
    )
    results, _ = run(config, tmp_path / "run")
    assert results["data"]["image_shape"] == [32, 32, 3]
    assert read_pool(tmp_path / "run").phi.shape == (4, 160, 2)

    train, groups = ParallelTrainer.train, []

    def dying(self, runs, **options):
        groups.append(runs)
        if len(groups) == 2:
            raise KeyboardInterrupt
        return train(self, runs, **options)

    monkeypatch.setattr(ParallelTrainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "cut_off")
    monkeypatch.undo()
    run(config, tmp_path / "cut_off")
    assert signals(tmp_path / "cut_off") == signals(tmp_path / "run")
    run(dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, models=6)), tmp_path / "run")
    grown, before = read_pool(tmp_path / "run"), read_pool(tmp_path / "cut_off")
    np.testing.assert_array_equal(grown.phi[:4], before.phi)
    np.testing.assert_array_equal(grown.member.sum(axis=0), 3)
