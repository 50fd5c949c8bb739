import json

import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.shadow_sweep import run
from mu_jax.experiments.signal_parts import SignalParts
from mu_jax.experiments.signal_pool import read_pool
from mu_jax.experiments.sweep_setting import model_name
from mu_jax.training.parallel import ParallelTrainer
from tiny_sweep import CONFIG, changed, signals


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


def _dying_in_chunk(monkeypatch, group, chunk):
    """Die in this process's `chunk`-th report of its `group`-th group."""
    train, groups = ParallelTrainer.train, []

    def dying(self, runs, *, on_chunk, **options):
        groups.append(runs)
        reports = []

        def report(now):
            on_chunk(now)
            reports.append(now)
            if (len(groups), len(reports)) == (group, chunk):
                raise KeyboardInterrupt

        return train(self, runs, on_chunk=report, **options)

    monkeypatch.setattr(ParallelTrainer, "train", dying)


def test_lines_of_a_group_that_died_half_way_are_told_once(finished, tmp_path, monkeypatch):
    _dying_in_chunk(monkeypatch, group=2, chunk=1)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "run")
    begun = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(begun[-1])["models"] == [2, 3]  # the group in flight had said something
    monkeypatch.undo()
    run(CONFIG, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [(*line["models"], line["step"]) for line in lines]
    assert len(told) == len(set(told))
    undisturbed = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert {(*line["models"], line["step"]): line["loss"] for line in lines} == {
        (*line["models"], line["step"]): line["loss"] for line in undisturbed
    }
    assert signals(tmp_path / "run") == signals(finished[0])


@pytest.mark.parametrize("place", ["training", pytest.param("merge", marks=pytest.mark.slow)])
def test_growth_may_be_killed(tmp_path, monkeypatch, place):
    """Bitwise the pool of an undisturbed growth, and what was there before is never lost."""
    small, large = changed(sweep={"models": 2}), changed(sweep={"models": 6})
    for name in ("undisturbed", "run"):
        run(small, tmp_path / name)
    before = np.array(read_pool(tmp_path / "run").phi)
    run(large, tmp_path / "undisturbed")

    def dying(*_, **__):
        raise KeyboardInterrupt

    if place == "training":
        _dying_in_chunk(monkeypatch, group=2, chunk=1)
    else:
        monkeypatch.setattr(SignalParts, "merge", dying)
    with pytest.raises(KeyboardInterrupt):
        run(large, tmp_path / "run")
    monkeypatch.undo()
    pool = read_pool(tmp_path / "run")
    np.testing.assert_array_equal(pool.phi[:2], before)
    assert len(pool.phi) == 2
    assert not (tmp_path / "run" / "results.json").exists()
    results, was_done = run(large, tmp_path / "run")
    assert not was_done and results["sweep"]["models"] == 6
    assert signals(tmp_path / "run") == signals(tmp_path / "undisturbed")
