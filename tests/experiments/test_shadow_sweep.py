import dataclasses
import io
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from mu_jax.attacks.signals import logit_margin
from mu_jax.config import (
    DataConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    ShadowSweep,
    SweepConfig,
)
from mu_jax.experiments import shadow_sweep
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.shadow_sweep import groups_of, run
from mu_jax.experiments.signal_parts import SignalParts
from mu_jax.experiments.signal_pool import read_pool
from mu_jax.experiments.sweep_setting import model_name, prepare_sweep
from mu_jax.training.parallel import ParallelTrainer

SWEEP = SweepConfig(models=6, mapping="pmap_map", models_per_device=1)
CONFIG = ShadowSweep(
    data=DataConfig(source="synthetic:8,8,1,3,60,20", label_noise=0.1),
    model=ModelConfig(name="cnn", width=8),
    train=OptimizationConfig(epochs=4.0, batch_size=8, learning_rate=0.05, flip=True),
    sweep=SWEEP,
    loop=LoopConfig(chunk_steps=10),
)
FILES = ("member.npy", "labels.npy", "phi.npy", "probability.npy")


def changed(**changes):
    """CONFIG with settings of its groups replaced: sweep=dict(models=4)."""
    return dataclasses.replace(
        CONFIG,
        **{key: dataclasses.replace(getattr(CONFIG, key), **values) for key, values in changes.items()},
    )


def signals(folder):
    return {name: (folder / "signals" / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "run"
    results, before = run(CONFIG, folder)
    assert not before
    return folder, results


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


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_sweep_that_was_cut_off_repeats_the_group_in_flight_alone(
    finished, tmp_path, monkeypatch, stop_after
):
    trained = []
    train = ParallelTrainer.train

    def dying(self, runs, **options):
        if len(trained) == stop_after:
            raise KeyboardInterrupt
        trained.append([run.name for run in runs])
        return train(self, runs, **options)

    monkeypatch.setattr(ParallelTrainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "run")
    monkeypatch.setattr(
        ParallelTrainer,
        "train",
        lambda self, runs, **o: (trained.append([r.name for r in runs]), train(self, runs, **o))[1],
    )
    run(CONFIG, tmp_path / "run")
    assert trained == [[model_name(k), model_name(k + 1)] for k in (0, 2, 4)]
    assert signals(tmp_path / "run") == signals(finished[0])
    groups = [
        json.loads(line)["group"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert groups == sorted(groups)  # no line of the group that was cut off stands twice


def test_more_models_keep_what_is_there_and_its_balance(finished, tmp_path, monkeypatch):
    run(changed(sweep={"models": 4}), tmp_path / "run")
    small = read_pool(tmp_path / "run")
    before = {name: np.array(getattr(small, name)) for name in ("member", "phi", "probability")}
    trained = []
    train = ParallelTrainer.train
    monkeypatch.setattr(
        ParallelTrainer,
        "train",
        lambda self, runs, **o: (trained.extend(r.name for r in runs), train(self, runs, **o))[1],
    )
    results, done_before = run(changed(sweep={"models": 10}), tmp_path / "run")
    assert not done_before
    assert trained == [model_name(k) for k in range(4, 10)]
    pool = read_pool(tmp_path / "run")
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(pool, name)[:4], array)
    assert pool.blocks == [4, 6]
    np.testing.assert_array_equal(pool.member.sum(axis=0), 5)
    assert pool.hash == read_pool(finished[0]).hash
    assert results["sweep"]["models"] == 10
    with pytest.raises(InputError, match="sweep.models is 6, but .* holds a sweep of 10; a pool only grows"):
        run(CONFIG, tmp_path / "run")
    assert run(changed(sweep={"models": 10}), tmp_path / "run")[1]


def test_an_unfinished_sweep_may_grow_too(finished, tmp_path, monkeypatch):
    train = ParallelTrainer.train
    calls = []

    def dying(self, runs, **options):
        calls.append(runs)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(self, runs, **options)

    monkeypatch.setattr(ParallelTrainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "run")
    run(changed(sweep={"models": 8}), tmp_path / "run")
    pool, undisturbed = read_pool(tmp_path / "run"), read_pool(finished[0])
    assert pool.blocks == [6, 2]
    np.testing.assert_array_equal(pool.phi[:6], undisturbed.phi)


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


def test_membership_from_a_file_and_its_growth(tmp_path):
    whole = np.random.default_rng(1).permuted(np.tile(np.arange(4) < 2, (60, 1)), axis=1).T.copy()
    whole = np.concatenate([whole, ~whole[:2]])
    config = {
        "membership": "file",
        "membership_file": str(tmp_path / "m4.npy"),
        "models": 4,
        "candidates": "train",
    }
    np.save(tmp_path / "m4.npy", whole[:4])
    run(changed(sweep=config), tmp_path / "run")
    pool = read_pool(tmp_path / "run")
    np.testing.assert_array_equal(pool.member[:, :60], whole[:4])
    assert not pool.member[:, 60:].any()  # test examples are never members here
    other = np.roll(whole, 1, axis=1)
    np.save(tmp_path / "other.npy", other)
    config |= {"models": 6}
    with pytest.raises(InputError, match="membership of the first 4 models is not the one"):
        run(changed(sweep=config | {"membership_file": str(tmp_path / "other.npy")}), tmp_path / "run")
    np.save(tmp_path / "m6.npy", whole)
    run(changed(sweep=config | {"membership_file": str(tmp_path / "m6.npy")}), tmp_path / "run")
    np.testing.assert_array_equal(read_pool(tmp_path / "run").member[:, :60], whole)


def test_too_little_memory_for_one_model_is_one_sentence(tmp_path):
    config = changed(sweep={"memory_gib": 1e-6})
    with pytest.raises(InputError, match=r"Training one model takes .* GiB of memory, but there are 0\.00"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "plan.json").exists()


def test_little_memory_makes_smaller_groups(tmp_path):
    setting = prepare_sweep(changed(sweep={"models_per_device": 3}))
    needed = setting.make_trainer(setting.first_placement(1)).bytes_per_device()
    small = setting.make_trainer(dataclasses.replace(setting.first_placement(1), models_per_device=1))
    assert small.bytes_per_device() < needed
    config = changed(sweep={"models_per_device": 3, "memory_gib": (needed - 1) / 2**30})
    results, _ = run(config, tmp_path / "run")
    assert results["sweep"]["models_per_device"] == 1


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


def test_models_kept_before_a_kill_are_written_again(tmp_path, monkeypatch):
    def dying(self, *_):
        raise KeyboardInterrupt

    config = changed(sweep={"keep_models": True, "models": 2})
    monkeypatch.setattr(SignalParts, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run")
    monkeypatch.undo()
    run(config, tmp_path / "run")
    assert load_model(tmp_path / "run", model_name(1)).variables


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
def test_a_sweep_on_cifar_images(tmp_path):
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
