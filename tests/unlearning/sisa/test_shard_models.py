"""SISA's exactness: what a deletion leaves is bitwise a fit without the deleted examples."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.training.loop import DivergenceError
from mu_jax.unlearning.sisa.shard_models import train_together
from mu_jax.unlearning.sisa.sharding import uniform_sharding
from sisa_case import (
    CLASSES,
    MODEL,
    OPTIMIZATION,
    SHARDING,
    SHARDS,
    SLICES,
    N,
    bits,
    copy,
    images_of,
    shard_models,
)


@pytest.fixture(scope="module", name="fitted")
def fitted_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sisa") / "models"
    sisa = shard_models(folder)
    work = sisa.train(SHARDING)
    assert [(step.shard, step.slice) for step in work.steps] == [
        (shard, slice_) for slice_ in range(SLICES) for shard in range(SHARDS)
    ]
    return folder, bits(sisa, SHARDING)


def test_shards_differ_and_a_finished_fit_trains_nothing(fitted):
    folder, trained = fitted
    assert len({str(shard) for shard in trained}) == SHARDS
    work = shard_models(folder).train(SHARDING)
    assert work.steps == () and work.trained_samples == 0


@pytest.mark.parametrize("epochs", [0.4, 3.0, 7.0])
def test_no_step_is_lost_to_rounding(tmp_path, epochs):
    sisa = shard_models(tmp_path, optimization=dataclasses.replace(OPTIMIZATION, epochs=epochs))
    for shard, steps in enumerate(sisa.steps(SHARDING)):
        sizes = np.cumsum([len(part) for part in SHARDING.slices[shard]])
        exact = (2 * epochs / (SLICES + 1)) * sizes.sum()
        total = sum(step.trained_samples for step in steps)
        assert abs(total - exact) <= OPTIMIZATION.batch_size / 2
        # Later slices hold more examples, and so take no fewer steps, to one.
        taken = [step.trained_samples // OPTIMIZATION.batch_size for step in steps]
        assert all(b >= a - 1 for a, b in itertools.pairwise(taken))


def test_a_fit_of_steps_that_train_nothing_still_ends(tmp_path):
    sisa = shard_models(tmp_path, optimization=dataclasses.replace(OPTIMIZATION, epochs=0.4))
    work = sisa.train(SHARDING)
    assert any(step.trained_samples == 0 for step in work.steps)
    assert all(variables is not None for variables in sisa.variables(SHARDING))


def request(shard, slice_, place=0):
    return [int(SHARDING.slices[shard][slice_][place])]


REQUESTS = {
    "first slice": request(0, 0),
    "a slice between": request(1, 2),
    "last slice": request(0, SLICES - 1),
    "remainder": request(2, SLICES - 1, -1),
    "two shards": request(0, 1) + request(2, 3),
    "two of a slice": request(1, 1) + request(1, 1, 1),
    "all shards": request(0, 3) + request(1, 0) + request(2, 2),
    "a whole slice": [int(i) for i in SHARDING.slices[1][1]],
    "a whole first slice": [int(i) for i in SHARDING.slices[1][0]],
    "a whole shard": [int(i) for part in SHARDING.slices[2] for i in part],
}


FURTHER = ("a slice between", "two of a slice", "all shards")


@pytest.mark.parametrize(
    "deleted",
    [
        pytest.param(indices, id=name, marks=[pytest.mark.slow] * (name in FURTHER))
        for name, indices in REQUESTS.items()
    ],
)
def test_a_deletion_leaves_what_a_fit_without_the_data_makes(fitted, tmp_path, deleted):
    left = SHARDING.without(np.array(deleted))
    # The deleted images are noise by now: nothing may read them.
    unlearned = shard_models(copy(fitted[0], tmp_path / "unlearned"), noise_at=deleted)
    work = unlearned.train(left)
    retrained = shard_models(tmp_path / "retrained", noise_at=deleted)
    whole = retrained.train(left)
    assert bits(unlearned, left) == bits(retrained, left)
    assert unlearned.parameters_sha256(left) == retrained.parameters_sha256(left)
    # Only the affected shards, from the earliest affected slice on.
    first = SHARDING.earliest(np.array(deleted))
    expected = {(shard, slice_) for shard in range(SHARDS) for slice_ in range(first[shard], SLICES)}
    assert {(step.shard, step.slice) for step in work.steps} == expected
    assert work.trained_samples < whole.trained_samples or len(expected) == SHARDS * SLICES
    for shard in range(SHARDS):
        untouched = bits(unlearned, left)[shard] == fitted[1][shard]
        assert untouched == (first[shard] == SLICES)


def test_deletions_one_by_one_end_where_all_at_once_do(fitted, tmp_path):
    deleted = REQUESTS["all shards"] + REQUESTS["two of a slice"]
    one = shard_models(copy(fitted[0], tmp_path / "one"))
    sharding = SHARDING
    for index in deleted:
        sharding = sharding.without(np.array([index]))
        one.train(sharding)
    at_once = shard_models(copy(fitted[0], tmp_path / "at_once"))
    at_once.train(SHARDING.without(np.array(deleted)))
    assert bits(one, sharding) == bits(at_once, sharding)


def test_other_groups_change_rounding_alone_and_companions_no_bit(fitted, tmp_path):
    alone = shard_models(tmp_path / "alone")
    # Shard 1 with other companions, its group not full.
    sharding = SHARDING.without(np.concatenate(SHARDING.slices[0]))
    alone.train(sharding)
    assert bits(alone, sharding)[1:] == fitted[1][1:]
    assert bits(alone, sharding)[0] is None


def test_a_fit_that_was_cut_off_goes_on(fitted, tmp_path, monkeypatch):
    sisa = shard_models(tmp_path / "run")
    train, calls = sisa._trainer.train, []

    def dying(runs, **options):
        calls.append([run.name for run in runs])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(runs, **options)

    monkeypatch.setattr(sisa._trainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        sisa.train(SHARDING)
    again = shard_models(tmp_path / "run")
    work = again.train(SHARDING)
    assert 0 < len(work.steps) < SHARDS * SLICES
    assert bits(again, SHARDING) == fitted[1]


@pytest.mark.parametrize("damage", ["weights", "note", "gone"])
def test_a_damaged_checkpoint_is_found_said_and_trained_again(fitted, tmp_path, damage):
    folder = copy(fitted[0], tmp_path / "run")
    step = folder / "shard_0001" / "slice_0003"
    if damage == "note":
        note = json.loads((step / "step.json").read_text())
        (step / "step.json").write_text(json.dumps(note | {"state_sha256": "0" * 64}))
    else:
        for path in (step / "step_000000000").rglob("*"):
            if path.is_file() and damage == "weights":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            elif path.is_file():
                path.unlink()
    said = []
    sisa = shard_models(folder)
    work = sisa.train(SHARDING, said.append)
    assert [(s.shard, s.slice) for s in work.steps] == [(1, 3)]
    assert any("shard 1, slice 3 is damaged" in line for line in said)
    assert bits(sisa, SHARDING) == fitted[1]


def test_nothing_trained_on_a_deleted_example_is_left(fitted, tmp_path, monkeypatch):
    folder = copy(fitted[0], tmp_path / "run")
    deleted = np.array(request(1, 1))
    sisa = shard_models(folder)

    def dying(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sisa._trainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        sisa.train(SHARDING.without(deleted))
    # Gone before the retraining began; what does not depend on it stays.
    assert not any((folder / "shard_0001" / f"slice_000{i}").exists() for i in (1, 2, 3))
    assert (folder / "shard_0001" / "slice_0000").exists()
    assert (folder / "shard_0000" / "slice_0003").exists()
    with pytest.raises(InputError, match="Shard 1 .* is not trained on the examples that are left"):
        sisa.variables(SHARDING.without(deleted))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 6},
        {"optimization": dataclasses.replace(OPTIMIZATION, learning_rate=0.04)},
        {"optimization": dataclasses.replace(OPTIMIZATION, flip=False)},
        {"noise_at": [int(SHARDING.slices[0][0][0])]},
    ],
    ids=["seed", "rate", "flip", "data"],
)
def test_other_settings_and_data_have_other_keys(fitted, other):
    folder, _ = fitted
    before, after = shard_models(folder).steps(SHARDING), shard_models(folder, **other).steps(SHARDING)
    changed = {
        (a.shard, a.slice)
        for x, y in zip(before, after, strict=True)
        for a, b in zip(x, y, strict=True)
        if a.key != b.key
    }
    everything = {(shard, slice_) for shard in range(SHARDS) for slice_ in range(SLICES)}
    assert changed == ({(0, slice_) for slice_ in range(SLICES)} if "noise_at" in other else everything)


def test_the_ensemble_answers_and_an_empty_shard_does_not_vote(fitted, tmp_path):
    folder, _ = fitted
    logits, votes = shard_models(folder).logits(SHARDING, MODEL, images_of(), (0.5,), (0.25,), 16)
    assert logits.shape == (SHARDS, N, CLASSES) and votes.all()
    left = SHARDING.without(np.array(REQUESTS["a whole shard"]))
    emptied = shard_models(copy(folder, tmp_path / "run"))
    emptied.train(left)
    others, votes = emptied.logits(left, MODEL, images_of(), (0.5,), (0.25,), 16)
    assert votes.tolist() == [True, True, False]
    np.testing.assert_array_equal(others[:2], logits[:2])


def test_a_shard_that_diverges_is_one_sentence(tmp_path):
    wild = dataclasses.replace(OPTIMIZATION, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(
        DivergenceError, match=r"Shard \d diverged in slice \d at step \d+ of \d+; try a smaller"
    ):
        shard_models(tmp_path / "run", optimization=wild).train(SHARDING)


@pytest.mark.parametrize("placement", [("map", 2, 1), ("vmap", 2, 2), ("one", 2, 1)])
def test_over_several_devices_a_deletion_is_exact_too(tmp_path, placement):
    gone = np.concatenate([SHARDING.slices[0][1][:1], SHARDING.slices[2][3]])
    sisa = shard_models(tmp_path / "deleted", placement=placement)
    sisa.train(SHARDING)
    sisa.train(SHARDING.without(gone))
    fresh = shard_models(tmp_path / "fresh", noise_at=gone, placement=placement)
    fresh.train(SHARDING.without(gone))
    assert bits(sisa, SHARDING.without(gone)) == bits(fresh, SHARDING.without(gone))


def test_ensembles_side_by_side_become_what_each_becomes_alone(tmp_path):
    other = uniform_sharding(np.arange(5, 40), 2, 2, seed=3)
    alone = shard_models(tmp_path / "alone")
    alone.train(SHARDING)
    second = shard_models(tmp_path / "second")
    second.train(other)
    first = shard_models(tmp_path / "first")
    with_it = shard_models(tmp_path / "beside", beside=first)
    work = train_together([(first, SHARDING), (with_it, other)])
    assert [len(one.steps) for one in work] == [SHARDS * SLICES, 4]
    assert bits(first, SHARDING) == bits(alone, SHARDING)
    assert bits(with_it, other) == bits(second, other)
    with pytest.raises(ValueError, match="several trainers, but a group has one"):
        train_together([(first, SHARDING), (second, other)])


@pytest.mark.parametrize("indices", [[0], [0, 20, 46], list(range(47))])
def test_what_a_deletion_would_retrain_is_what_it_retrains(fitted, tmp_path, indices):
    sisa = shard_models(copy(fitted[0], tmp_path / "run"))
    expected = sisa.retrained_samples(SHARDING, np.array(indices))
    assert sisa.train(SHARDING.without(np.array(indices))).trained_samples == expected
