"""The checks and the fingerprint of Dataset."""

import dataclasses

import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.data.dataset import Dataset


def make(**changes) -> Dataset:
    fields = {
        "name": "toy",
        "x_train": np.arange(5 * 2 * 3 * 1, dtype=np.uint8).reshape(5, 2, 3, 1),
        "y_train": np.array([0, 1, 2, 0, 1], np.int32),
        "x_test": np.full((2, 2, 3, 1), 7, np.uint8),
        "y_test": np.array([2, 0], np.int32),
        "class_names": ("a", "b", "c"),
    }
    return Dataset(**(fields | changes))


def test_images_and_labels_run_over_training_then_test_examples():
    dataset = make()
    assert dataset.image_shape == (2, 3, 1)
    assert dataset.num_classes == 3
    np.testing.assert_array_equal(dataset.images[:5], dataset.x_train)
    np.testing.assert_array_equal(dataset.images[5:], dataset.x_test)
    np.testing.assert_array_equal(dataset.labels, [0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((5, 2, 3, 1), np.float32)}, "x_train has dtype float32.*uint8"),
        ({"x_test": np.zeros((2, 2, 3), np.uint8)}, "x_test.*shape \\(2, 2, 3\\).*channels"),
        ({"x_test": np.zeros((0, 2, 3, 1), np.uint8), "y_test": np.zeros(0, np.int32)}, "x_test.*non-empty"),
        ({"x_test": np.zeros((2, 3, 3, 1), np.uint8)}, "\\(2, 3, 1\\) and x_test of shape \\(3, 3, 1\\)"),
        ({"y_train": np.zeros(5, np.int64)}, "y_train has dtype int64.*int32"),
        ({"y_train": np.zeros(4, np.int32)}, "y_train.*expected \\(5,\\)"),
        ({"y_test": np.array([0, 3], np.int32)}, "y_test holds labels 0..3.*0..2"),
        ({"y_test": np.array([-1, 2], np.int32)}, "y_test holds labels -1..2"),
    ],
)
def test_bad_arrays_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_fingerprint_follows_contents_not_names():
    dataset = make()
    assert make(name="elsewhere").fingerprint() == dataset.fingerprint()
    assert len(dataset.fingerprint()) == 64
    pixel = dataset.x_train.copy()
    pixel[4, 1, 2, 0] ^= 1
    label = dataset.y_test.copy()
    label[1] = 1
    reshaped = {"x_train": dataset.x_train.reshape(5, 3, 2, 1), "x_test": dataset.x_test.reshape(2, 3, 2, 1)}
    others = [
        dataclasses.replace(dataset, x_train=pixel),
        dataclasses.replace(dataset, y_test=label),
        dataclasses.replace(dataset, **reshaped),
        make(class_names=("a", "b", "c", "d")),
    ]
    assert len({dataset.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_fingerprint_does_not_depend_on_memory_layout():
    dataset = make()
    transposed = np.asfortranarray(dataset.x_train)
    assert dataclasses.replace(dataset, x_train=transposed).fingerprint() == dataset.fingerprint()
