"""Dispatch by the source string, subsets, label noise, and the sources that need no files."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mu_jax.config import DataConfig, InputError
from mu_jax.data import load_dataset


def load(source: str, seed: int = 0, **settings):
    return load_dataset(DataConfig(source=source, **settings), seed)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("tdfs:cifar10", "did you mean 'tfds:NAME'"),
        ("mnist", "expected one of digits, npz:FILE"),
        ("npz", "argument after the colon"),
        ("cifar:", "argument after the colon"),
        ("digits:8", "takes no argument"),
        ("synthetic:8,8,1", "six positive whole numbers"),
        ("synthetic:8,8,1,10,0,5", "six positive whole numbers"),
        ("synthetic:8,8,one,10,5,5", "six positive whole numbers"),
        ("npz:nowhere.npz", "nowhere.npz is not a file"),
        ("cifar:nowhere", "nowhere is not a folder"),
        ("folder:nowhere", "no folder train"),
    ],
)
def test_bad_sources_are_refused_with_a_fix(source, message):
    with pytest.raises(InputError, match=message):
        load(source)


def test_image_size_is_refused_where_it_would_be_ignored():
    with pytest.raises(InputError, match="image_size=0"):
        load("digits", image_size=16)


def test_digits_are_all_of_scikit_learns_images_in_another_order():
    dataset = load("digits")
    assert dataset.x_train.shape == (1297, 8, 8, 1)
    assert dataset.x_test.shape == (500, 8, 8, 1)
    bunch = load_digits()
    ours = np.concatenate([dataset.images.reshape(1797, 64), dataset.labels[:, None]], axis=1)
    scaled = np.array([round(value * 255 / 16) for value in range(17)])  # 0 -> 0 and 16 -> 255
    theirs = np.concatenate([scaled[bunch.data.astype(int)], bunch.target[:, None]], axis=1)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))
    assert dataset.images.max() == 255


def test_digits_split_is_stratified_and_pinned():
    dataset = load("digits")
    everyone, test = np.bincount(dataset.labels), np.bincount(dataset.y_test)
    assert np.abs(test - everyone * 500 / 1797).max() < 1
    assert load("digits", seed=5).fingerprint() == dataset.fingerprint()
    # Changes where the split or the pixels change: then every published number on digits changes, too.
    assert dataset.fingerprint().startswith("1f39d787cf4dc482")


def test_synthetic_is_deterministic_balanced_and_says_what_it_is():
    source = "synthetic:4,5,3,3,301,90"
    dataset = load(source, seed=1)
    assert dataset.x_train.shape == (301, 4, 5, 3)
    assert dataset.x_test.shape == (90, 4, 5, 3)
    assert "synthetic" in dataset.name
    assert np.ptp(np.bincount(dataset.y_train)) <= 1
    assert load(source, seed=1).fingerprint() == dataset.fingerprint()
    assert load(source, seed=2).fingerprint() != dataset.fingerprint()


def test_synthetic_classes_carry_over_to_the_test_set():
    dataset = load("synthetic:8,8,1,4,400,200")
    means = np.stack([dataset.x_train[dataset.y_train == c].mean(axis=0) for c in range(4)])
    distance = ((dataset.x_test[:, None] - means[None]) ** 2).sum(axis=(2, 3, 4))
    assert np.mean(distance.argmin(axis=1) == dataset.y_test) > 0.9


def test_subsets_are_random_parts_of_the_whole_in_its_order():
    whole, part = load("digits"), load("digits", seed=3, train_examples=200, test_examples=50)
    assert (len(part.y_train), len(part.y_test)) == (200, 50)
    rows = [row.tobytes() for row in whole.x_train]
    positions, start = [], 0
    for row in part.x_train:
        start = rows.index(row.tobytes(), start) + 1
        positions.append(start)
    assert positions[-1] > 250  # not a prefix
    assert load("digits", seed=3, train_examples=200, test_examples=50).fingerprint() == part.fingerprint()
    assert load("digits", seed=4, train_examples=200, test_examples=50).fingerprint() != part.fingerprint()
    # The draw of test examples does not disturb that of training examples.
    np.testing.assert_array_equal(load("digits", seed=3, train_examples=200).x_train, part.x_train)


@pytest.mark.parametrize("split", ["train", "test"])
def test_more_examples_than_there_are(split):
    with pytest.raises(InputError, match=f"data.{split}_examples is 1298.*digits"):
        load("digits", **{f"{split}_examples": 1298})


def test_label_noise_reaches_every_other_class_alike_in_train_and_test():
    source = "synthetic:1,1,1,4,20000,20000"
    clean, noisy = load(source), load(source, label_noise=0.3)
    np.testing.assert_array_equal(clean.images, noisy.images)
    for before, after in ((clean.y_train, noisy.y_train), (clean.y_test, noisy.y_test)):
        confusion = np.zeros((4, 4))
        np.add.at(confusion, (before, after), 1)
        confusion /= confusion.sum(axis=1, keepdims=True)
        expected = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
        # 5,000 labels a row: five standard deviations of a share of 0.3 are 0.032.
        np.testing.assert_allclose(confusion, expected, atol=0.032)
    assert np.mean((clean.y_train != noisy.y_train) == (clean.y_test != noisy.y_test)) < 0.7  # own streams


def test_label_noise_needs_a_second_class():
    with pytest.raises(InputError, match="has one class"):
        load("synthetic:1,1,1,1,10,10", label_noise=0.1)


def test_importing_and_digits_leave_optional_frameworks_alone():
    program = (
        "import sys; from mu_jax.data import load_dataset; from mu_jax.config import DataConfig; "
        "load_dataset(DataConfig(), 0); "
        "print(sorted({'tensorflow_datasets', 'tensorflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_classes_are_kept_in_the_order_asked_for_and_renumbered():
    whole, part = load("digits"), load("digits", classes=(7, 2))
    assert part.class_names == ("7", "2") and part.num_classes == 2
    for split in ("train", "test"):
        images, labels = getattr(whole, f"x_{split}"), getattr(whole, f"y_{split}")
        kept = (labels == 7) | (labels == 2)
        np.testing.assert_array_equal(getattr(part, f"x_{split}"), images[kept])
        np.testing.assert_array_equal(getattr(part, f"y_{split}"), np.where(labels[kept] == 7, 0, 1))
    # Subsets and noise come after.
    few = load("digits", classes=(7, 2), train_examples=20, label_noise=0.5)
    assert few.x_train.shape[0] == 20 and set(few.y_train) == {0, 1}
    for classes, message in (((3, 10), "has the classes 0..9"), ((-1, 3), "has the classes 0..9")):
        with pytest.raises(InputError, match=message):
            load("digits", classes=classes)
    for classes in ((3,), (3, 3)):
        with pytest.raises(InputError, match="data.classes is"):
            DataConfig(classes=classes)
