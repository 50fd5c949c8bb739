import errno
import multiprocessing
import os
import shutil
import tracemalloc

import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.experiments import signal_parts
from mu_jax.experiments.signal_group import open_group
from mu_jax.experiments.signal_parts import SignalParts
from mu_jax.experiments.signal_pool import read_pool

N, A, C = 5, 2, 3
MEMBER = np.random.default_rng(0).random((12, N)) < 0.5
LABELS = np.arange(N, dtype=np.int32) % C


def signals(models, n=N):
    """A model's signals depend on nothing but the model; model 3 diverged."""
    rng = [np.random.default_rng(model) for model in models]
    phi = np.stack([r.standard_normal((n, A), np.float32) for r in rng])
    phi[[model == 3 for model in models]] = np.nan
    return {
        "phi": phi,
        "probability": np.stack([r.random((n, A), np.float32) for r in rng]),
        "logits": np.stack([r.standard_normal((n, A, C), np.float32) for r in rng]),
    }


def facts(models):
    return {
        "diverged_step": np.array([9 if model == 3 else -1 for model in models]),
        "loss": np.array([np.inf if model == 3 else model / 3 for model in models], np.float32),
        "samples": np.array([100 + model for model in models], np.int32),
    }


def write(folder, *groups):
    for group, models in enumerate(groups):
        SignalParts(folder).write(group, models, signals(models), facts(models))


def merge(folder, models, blocks=None, **changes):
    SignalParts(folder).merge(
        **{
            "member": MEMBER[:models],
            "labels": LABELS,
            "produced_by": {"seed": 0},
            "queries": ["as is", "flipped"],
            "blocks": blocks or [models],
            "made_with": {"device": "cpu"},
        }
        | changes
    )


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """K to the files of a pool of K models that one group wrote."""
    made = {}
    for models in (4, 6, 12):
        folder = tmp_path_factory.mktemp("undisturbed")
        write(folder, range(models))
        merge(folder, models, [4, models - 4] if models > 4 else [4])
        made[models] = files(folder)
        assert set(made[models]) == {
            f"signals/{name}" for name in (
                "pool.json", "member.npy", "labels.npy", "phi.npy", "probability.npy", "logits.npy",
            )
        }  # fmt: skip
    return made


def test_many_parts_in_any_order_make_the_same_pool_as_one(tmp_path, undisturbed):
    write(tmp_path, [7], [2, 0], [11], [1, 10, 3], [4], [9, 5], [8], [6])
    assert SignalParts(tmp_path).stored_models() == set(range(12))
    merge(tmp_path, 12, [4, 8])
    assert files(tmp_path) == undisturbed[12]
    assert not (tmp_path / "signals" / "parts").exists()
    pool = read_pool(tmp_path)
    assert pool.diverged == {3: 9}
    np.testing.assert_array_equal(pool.per_model["samples"], 100 + np.arange(12))
    np.testing.assert_array_equal(pool.phi, signals(range(12))["phi"])


def test_a_pool_grows(tmp_path, undisturbed):
    write(tmp_path, [2, 3], [0, 1])
    merge(tmp_path, 4)
    assert files(tmp_path) == undisturbed[4]
    assert SignalParts(tmp_path).stored_models() == {0, 1, 2, 3}
    write(tmp_path, [5], [4])
    assert SignalParts(tmp_path).stored_models() == {0, 1, 2, 3, 4, 5}
    merge(tmp_path, 6, [4, 2])
    merge(tmp_path, 6, [4, 2])  # nothing left to do
    assert files(tmp_path) == undisturbed[6]


def test_rows_beyond_the_description_do_not_count(tmp_path):
    write(tmp_path, range(4))
    merge(tmp_path, 4)
    for name, array in signals(range(6)).items():
        np.save(tmp_path / "signals" / f"{name}.npy", array)
    assert SignalParts(tmp_path).stored_models() == {0, 1, 2, 3}
    with pytest.raises(InputError, match=r"lacks 2 of 6 models \(4, 5\).*run the sweep again to train these"):
        merge(tmp_path, 6, [4, 2])


def test_a_model_in_several_parts_is_taken_from_the_lowest_group(tmp_path):
    parts = SignalParts(tmp_path)
    for group, models, like in ((999_999, [0, 1], [0, 1]), (10**6, [2, 0], [2, 8]), (10**6 + 1, [1], [9])):
        parts.write(group, models, signals(like), facts(like))
    merge(tmp_path, 3)
    np.testing.assert_array_equal(read_pool(tmp_path).phi, signals([0, 1, 2])["phi"])
    np.testing.assert_array_equal(read_pool(tmp_path).per_model["samples"], [100, 101, 102])


def test_a_part_comes_before_the_finished_row(tmp_path):
    write(tmp_path, range(4))
    merge(tmp_path, 4)
    SignalParts(tmp_path).write(0, [1, 3], signals([8, 9]), facts([8, 9]))
    merge(tmp_path, 4)
    pool = read_pool(tmp_path)
    np.testing.assert_array_equal(pool.phi, signals([0, 8, 2, 9])["phi"])
    np.testing.assert_array_equal(pool.per_model["samples"], [100, 108, 102, 109])
    assert pool.diverged == {}


class Killed(BaseException):
    pass


def killed_at(moment, folder, *arguments):
    """Merge in a process that dies before its `moment`-th call that changes the disk for good; True if it did."""
    calls = 0

    def mortal(call):
        def dying(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > moment:  # a dead process cleans nothing up either
                raise Killed
            return call(*args, **kwargs)

        return dying

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "rmdir", "fsync", "chmod"):
            patch.setattr(os, name, mortal(getattr(os, name)))
        try:
            merge(folder, *arguments)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_kill_at_any_moment_of_a_merge_loses_nothing(tmp_path, undisturbed, grown, again):
    base = tmp_path / "base"
    if grown:
        write(base, range(4))
        merge(base, 4)
        write(base, [5, 3], [4, 3])  # one old model was trained again, twice
    else:
        write(base, [5, 3], [0, 1], [4, 2, 3])
    # A part that repeats a model with other numbers loses, however many parts a kill left.
    SignalParts(base).write(2 if grown else 3, [5], signals([8]), facts([8]))
    moment, died = 0, True
    while died:
        folder = tmp_path / str(moment)
        shutil.copytree(base, folder)
        died = killed_at(moment, folder, 6, [4, 2])
        if grown or (folder / "signals" / "pool.json").exists():
            pool = read_pool(folder, {"seed": 0})
            assert len(pool.phi) in (4, 6)
            np.testing.assert_array_equal(pool.phi, signals(range(len(pool.phi)))["phi"])
        else:
            with pytest.raises(InputError, match="unfinished"):
                read_pool(folder)
        assert SignalParts(folder).stored_models() == set(range(6))
        if again:
            killed_at(moment // 2, folder, 6, [4, 2])
        merge(folder, 6, [4, 2])
        assert files(folder) == undisturbed[6]
        moment += 1
    assert moment > 20


def test_two_processes_write_what_one_would(tmp_path, undisturbed):
    spawn = multiprocessing.get_context("spawn")
    shares = ([4, 1, 0], [2, 5, 3])
    processes = [
        spawn.Process(
            target=SignalParts(tmp_path).write, args=(group, models, signals(models), facts(models))
        )
        for group, models in enumerate(shares)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    merge(tmp_path, 6, [4, 2])
    assert files(tmp_path) == undisturbed[6]


def test_a_merge_holds_one_row_at_a_time(tmp_path):
    many, models = 20_000, range(16)
    row = signals([0], many)["logits"].nbytes
    SignalParts(tmp_path).write(0, models, signals(models, many), facts(models))
    whole = {"member": np.ones((16, many), bool), "labels": np.zeros(many, np.int32)}
    for _ in range(2):  # from a part, then from the finished arrays
        tracemalloc.start()
        merge(tmp_path, 16, **whole)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * row


def test_a_killed_writers_leftovers_go(tmp_path):
    parts = SignalParts(tmp_path)
    write(tmp_path, [0])
    for name in (".group_000000.npz.abc", ".group_000000.npz.new", ".group_000001.npz.abc"):
        (parts.parts / name).write_bytes(b"half")
        if name.endswith("abc"):
            os.utime(parts.parts / name, (0, 0))
    write(tmp_path, [0])
    # A new one may be another process's, at work.
    left = {"group_000000.npz", ".group_000000.npz.new", ".group_000001.npz.abc"}
    assert {path.name for path in parts.parts.iterdir()} == left
    merge(tmp_path, 1)
    assert not parts.parts.exists()


def test_a_group_written_again_replaces_its_part_only_where_no_model_is_lost(tmp_path, undisturbed):
    parts = SignalParts(tmp_path)
    parts.write(0, [0, 1], signals([8, 9]), facts([8, 9]))
    parts.write(0, [1, 0], signals([1, 0]), facts([1, 0]))
    assert len(list(parts.parts.iterdir())) == 1
    for models in ([2, 3], [2, 3], [4, 5]):  # a sweep that grew before it was merged
        parts.write(0, models, signals(models), facts(models))
    assert len(list(parts.parts.iterdir())) == 3
    assert parts.stored_models() == set(range(6))
    merge(tmp_path, 6, [4, 2])
    assert files(tmp_path) == undisturbed[6]


def test_a_merge_of_another_process_hides_no_model(tmp_path, monkeypatch):
    for opened_before in range(4):
        folder = tmp_path / str(opened_before)
        write(folder, [0], [1], [2])
        opened = 0

        def open_while_another_merges(path, folder=folder, opened_before=opened_before):
            nonlocal opened
            opened += 1
            if opened == opened_before:
                monkeypatch.undo()
                merge(folder, 3)
            return open_group(path)

        monkeypatch.setattr(signal_parts, "open_group", open_while_another_merges)
        assert SignalParts(folder).stored_models() == {0, 1, 2}
        monkeypatch.undo()


def test_files_of_others_stay(tmp_path):
    write(tmp_path, [0])
    (tmp_path / "signals" / "parts" / "notes.txt").write_text("mine")
    merge(tmp_path, 1)
    assert [path.name for path in (tmp_path / "signals" / "parts").iterdir()] == ["notes.txt"]


def test_a_damaged_byte_of_a_part_never_reaches_a_pool(tmp_path, undisturbed):
    write(tmp_path, range(4))
    path = tmp_path / "signals" / "parts" / "group_000000.npz"
    whole, caught = path.read_bytes(), 0
    places = range(0, len(whole), 7)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            merge(tmp_path, 4)
        except InputError as error:
            assert "group_000000.npz" in str(error)
            caught += 1
        else:  # dates and the like
            assert files(tmp_path) == undisturbed[4]
        shutil.rmtree(tmp_path / "signals")
        path.parent.mkdir(parents=True)
    assert caught > len(places) / 2


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"member": MEMBER[:4].astype(int)},
            r"member is int64\[4, 5\] and labels int32\[5\], but expected bool",
        ),
        ({"labels": LABELS.astype(np.int64)}, "labels int64"),
        ({"labels": LABELS[:-1]}, r"labels int32\[4\]"),
        ({"member": MEMBER[:0]}, r"member is bool\[0, 5\]"),
        ({"blocks": [3]}, r"blocks are \[3\], but expected positive numbers that sum to the 4 models"),
        ({"blocks": [4, 0]}, r"blocks are \[4, 0\]"),
        ({"member": MEMBER[:3], "blocks": [3]}, "holds model 3, but expected models below 3"),
        (
            {"member": MEMBER[:4, :3], "labels": LABELS[:3]},
            "signals of 5 examples, but expected the 3 of member",
        ),
        ({"made_with": {"time": float("nan")}}, "made_with.time is nan"),
    ],
)
def test_a_merge_that_does_not_fit_is_refused_and_changes_nothing(tmp_path, changes, message):
    write(tmp_path, range(4))
    before = files(tmp_path)
    with pytest.raises(InputError, match=message):
        merge(tmp_path, 4, **changes)
    assert files(tmp_path) == before


def test_parts_of_different_sweeps_are_refused(tmp_path):
    write(tmp_path, [0])
    parts = SignalParts(tmp_path)
    without = {name: array for name, array in signals([1]).items() if name != "logits"}
    for arrays, given in ((without, facts([1])), (signals([1]), {"diverged_step": np.array([-1])})):
        parts.write(1, [1], arrays, given)
        with pytest.raises(
            InputError, match=r"group_000001.npz holds .*as in .*group_000000.npz; delete the part"
        ):
            merge(tmp_path, 2)
    (parts.parts / "group_000001.npz").unlink()
    merge(tmp_path, 1)
    parts.write(0, [1], without, facts([1]))
    with pytest.raises(InputError, match=r"group_000000.npz holds .*as in .*pool.json"):
        merge(tmp_path, 2)


@pytest.mark.parametrize(
    "models, changes, message",
    [
        (6, {"produced_by": {"seed": 1}}, "seed was 0 and is now 1"),
        (6, {"queries": ["as is"]}, r"has queries \['as is', 'flipped'\], but expected \['as is'\]"),
        (6, {"labels": LABELS[::-1].copy()}, "has other labels"),
        (6, {"member": ~MEMBER[:6]}, "has other memberships"),
        (6, {"member": MEMBER[:6, :3], "labels": LABELS[:3]}, "has 5 examples, but expected 3"),
        (3, {}, "has 4 models, but expected at most 3"),
        (6, {}, r"lacks 1 of 6 models \(5\)"),
    ],
)
def test_a_growth_that_does_not_fit_is_refused_and_changes_nothing(tmp_path, models, changes, message):
    write(tmp_path, range(4))
    merge(tmp_path, 4)
    write(tmp_path, [4])
    before = files(tmp_path)
    with pytest.raises(InputError, match=message):
        merge(tmp_path, models, **changes)
    assert files(tmp_path) == before


def test_many_missing_models_are_counted_and_some_named(tmp_path):
    with pytest.raises(InputError, match=r"lacks 12 of 12 models \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...\)"):
        merge(tmp_path, 12)


def test_a_damaged_finished_array_is_noticed_before_a_sweep_trains(tmp_path):
    write(tmp_path, range(4))
    merge(tmp_path, 4)
    os.truncate(tmp_path / "signals" / "phi.npy", 200)
    with pytest.raises(InputError, match="phi.npy has 200 bytes"):
        SignalParts(tmp_path).stored_models()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path, [0])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match="signals cannot be written .No space left on device.; free some space"
    ):
        merge(tmp_path, 1)
    with pytest.raises(InputError, match="group_000000.npz cannot be written"):
        write(tmp_path, [0])
    assert set(files(tmp_path)) == {"signals/parts/group_000000.npz"}
