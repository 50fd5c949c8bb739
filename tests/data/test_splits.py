"""Splits: without overlap, complete, seeded, of the size asked for, and safe on disk."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mu_jax.config import DataConfig, ForgetConfig, InputError
from mu_jax.data import Splits, make_splits
from mu_jax.data.dataset import Dataset


def toy(n_train: int = 40, n_test: int = 10, classes: int = 4) -> Dataset:
    def labels(n):
        return (np.arange(n) % classes).astype(np.int32)

    names = tuple(str(c) for c in range(classes))
    x_train, x_test = np.zeros((n_train, 1, 1, 1), np.uint8), np.zeros((n_test, 1, 1, 1), np.uint8)
    return Dataset("toy", x_train, labels(n_train), x_test, labels(n_test), names)


def split(dataset=None, seed=0, validation=0.0, **forget) -> Splits:
    data_config = DataConfig(validation_fraction=validation)
    return make_splits(dataset or toy(), data_config, ForgetConfig(**forget), seed)


def parts(splits: Splits) -> list[list[int]]:
    return [part.tolist() for part in (splits.retain, splits.forget, splits.validation, splits.test)]


@settings(deadline=None, max_examples=40)
@given(
    n_train=st.integers(10, 200),
    n_test=st.integers(1, 50),
    validation=st.floats(0, 0.4),
    fraction=st.floats(0.001, 0.8),
    seed=st.integers(0, 2**31 - 1),
)
def test_parts_are_disjoint_complete_and_of_the_size_asked_for(n_train, n_test, validation, fraction, seed):
    splits = split(toy(n_train, n_test), seed, validation, fraction=fraction)
    retain, forget, held_out, test = parts(splits)
    assert sorted(retain + forget + held_out + test) == list(range(n_train + n_test))
    assert test == list(range(n_train, n_train + n_test))
    assert all(part == sorted(part) for part in (retain, forget, held_out))
    remaining = n_train - len(held_out)
    assert len(held_out) == (0 if validation == 0 else max(1, round(validation * n_train + 1e-9)))
    assert abs(len(forget) - fraction * remaining) <= 0.5 or len(forget) == 1
    assert parts(split(toy(n_train, n_test), seed, validation, fraction=fraction)) == parts(splits)


def test_another_seed_is_another_split():
    dataset = toy(400)
    drawn = {tuple(split(dataset, seed, 0.1).forget) for seed in range(10)}
    assert len(drawn) == 10
    assert len({tuple(split(dataset, seed, 0.1).validation) for seed in range(10)}) == 10


def test_forget_sets_cover_the_training_set_evenly():
    dataset = toy(20)
    counts = np.zeros(20)
    for seed in range(400):
        counts[split(dataset, seed, fraction=0.5).forget] += 1
    # Binomial(400, ½): mean 200, standard deviation 10.
    assert np.abs(counts - 200).max() < 45


@settings(deadline=None, max_examples=20)
@given(classes=st.sets(st.integers(0, 3), min_size=1, max_size=3), seed=st.integers(0, 100))
def test_classes_take_all_that_is_not_validation(classes, seed):
    dataset = toy()
    splits = split(dataset, seed, 0.2, classes=tuple(classes))
    assert set(dataset.labels[splits.forget]) == classes
    assert not classes & set(dataset.labels[splits.retain].tolist())
    assert len(splits.validation) == 8


def test_indices_have_priority_over_validation_and_classes(tmp_path):
    listed = [39, 3, 0, 17, 18, 19, 20]
    np.save(tmp_path / "forget.npy", np.array(listed, np.uint16))
    for seed in range(20):
        splits = split(seed=seed, validation=0.5, indices=str(tmp_path / "forget.npy"), classes=(1,))
        assert splits.forget.tolist() == sorted(listed)
        assert len(splits.validation) == 20
        assert len(splits.retain) == 13


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.array([0.0, 1.0]), "dtype float64"),
        (np.array([True, False]), "dtype bool"),
        (np.array([[0, 1]]), r"shape \(1, 2\)"),
        (np.array([], int), "holds 0 positions"),
        (np.arange(40), "holds 40 positions"),
        (np.array([0, 40]), r"0\.\.40, but expected 0\.\.39"),
        (np.array([-1, 3]), r"-1\.\.3"),
        (np.array([3, 1, 3]), "1 repeats"),
        (np.array([3, None], object), "no plain NumPy array"),
    ],
)
def test_bad_indices(tmp_path, indices, message):
    np.save(tmp_path / "forget.npy", indices, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        split(indices=str(tmp_path / "forget.npy"))


def test_indices_that_are_no_array(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        split(indices=str(tmp_path / "absent.npy"))
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(InputError, match="no plain NumPy array"):
        split(indices=str(tmp_path / "text.npy"))
    np.savez(tmp_path / "archive.npz", a=np.arange(3))
    with pytest.raises(InputError, match=r"an .npz archive"):
        split(indices=str(tmp_path / "archive.npz"))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"classes": (4,)}, r"holds 4, but toy has the classes 0\.\.3"),
        ({"classes": (-1,)}, "holds -1"),
        ({"classes": (0, 1, 2, 3)}, "expected some to stay"),
        ({"fraction": 0.999}, "expected some to stay"),
        ({"validation": 0.99}, "validation_fraction is 0.99"),
    ],
)
def test_settings_that_leave_nothing(settings_, message):
    with pytest.raises(InputError, match=message):
        split(**settings_)


def test_a_class_without_examples_cannot_be_forgotten():
    dataset = toy()
    few = Dataset(
        "few", dataset.x_train[:2], dataset.y_train[:2], dataset.x_test, dataset.y_test, tuple("abcd")
    )
    with pytest.raises(InputError, match="no training example has such a label"):
        split(few, classes=(3,))


def test_save_and_load(tmp_path):
    splits = split(validation=0.1)
    path = tmp_path / "splits"  # np.savez would append a suffix to such a name
    splits.save(path)
    assert parts(Splits.load(path)) == parts(splits)
    assert os.listdir(tmp_path) == ["splits"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    old, new = split(seed=0), split(seed=1)
    path = tmp_path / "splits.npz"
    old.save(path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        new.save(path)
    assert parts(Splits.load(path)) == parts(old)
    assert os.listdir(tmp_path) == ["splits.npz"]


def test_load_refuses_what_save_did_not_write(tmp_path):
    path = tmp_path / "splits.npz"
    with pytest.raises(InputError, match="cannot be read as splits"):
        Splits.load(path)
    split().save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read as splits"):
        Splits.load(path)
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(InputError, match="cannot be read as splits"):
        Splits.load(tmp_path / "array.npy")
    a = np.arange(3)
    np.savez(path, retain=a, forget=a + 2, validation=a[:0], test=a + 10)
    with pytest.raises(InputError, match="share positions"):
        Splits.load(path)
    np.savez(path, retain=a[::-1], forget=a + 3, validation=a[:0], test=a + 10)
    with pytest.raises(InputError, match="retain has dtype int64"):
        Splits.load(path)
