"""CIFAR's binary files, written by hand from the format's description."""

import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError
from mu_jax.data import load_dataset

TEN = [f"thing{i}" for i in range(10)]


def record(labels: list[int], image: np.ndarray) -> bytes:
    """Label bytes, then the red, green and blue plane, each row by row."""
    planes = [bytes(image[row, column, d] for row in range(32) for column in range(32)) for d in range(3)]
    return bytes(labels) + b"".join(planes)


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write_cifar10(folder):
    folder.mkdir(parents=True)
    x, x_test = images(10, 0), images(2, 1)
    for batch in range(5):
        examples = (record([2 * batch + i], x[2 * batch + i]) for i in range(2))
        (folder / f"data_batch_{batch + 1}.bin").write_bytes(b"".join(examples))
    (folder / "test_batch.bin").write_bytes(record([3], x_test[0]) + record([4], x_test[1]))
    (folder / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    return x, x_test


def write_cifar100(folder):
    folder.mkdir(parents=True)
    x, x_test = images(2, 2), images(1, 3)
    (folder / "train.bin").write_bytes(record([19, 99], x[0]) + record([3, 42], x[1]))
    (folder / "test.bin").write_bytes(record([7, 0], x_test[0]))
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)) + "\n")
    return x, x_test


def load(folder):
    return load_dataset(DataConfig(source=f"cifar:{folder}"), 0)


@pytest.mark.parametrize("above", [False, True])
def test_cifar10(tmp_path, above):
    folder = tmp_path / "cifar-10-batches-bin"
    x, x_test = write_cifar10(folder)
    dataset = load(tmp_path if above else folder)
    assert dataset.name == "CIFAR-10"
    np.testing.assert_array_equal(dataset.x_train, x)
    np.testing.assert_array_equal(dataset.y_train, np.arange(10))
    np.testing.assert_array_equal(dataset.x_test, x_test)
    np.testing.assert_array_equal(dataset.y_test, [3, 4])
    assert dataset.class_names == tuple(TEN)


@pytest.mark.parametrize("above", [False, True])
def test_cifar100_has_fine_labels(tmp_path, above):
    folder = tmp_path / "cifar-100-binary"
    x, x_test = write_cifar100(folder)
    dataset = load(tmp_path if above else folder)
    assert dataset.name == "CIFAR-100"
    np.testing.assert_array_equal(dataset.x_train, x)
    np.testing.assert_array_equal(dataset.y_train, [99, 42])
    np.testing.assert_array_equal(dataset.x_test, x_test)
    np.testing.assert_array_equal(dataset.y_test, [0])
    assert dataset.class_names[42] == "fine42"


def test_names_are_numbers_where_their_file_is_absent(tmp_path):
    write_cifar10(tmp_path / "c")
    (tmp_path / "c" / "batches.meta.txt").unlink()
    assert load(tmp_path / "c").class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("folder", "files", "archive"),
    [
        ("cifar-10-batches-py", ["data_batch_1", "batches.meta"], "cifar-10-binary.tar.gz"),
        ("cifar-100-python", ["train", "test", "meta"], "cifar-100-binary.tar.gz"),
    ],
)
@pytest.mark.parametrize("above", [False, True])
def test_pickled_versions_are_refused_with_a_pointer(tmp_path, folder, files, archive, above):
    (tmp_path / folder).mkdir()
    for file in files:
        (tmp_path / folder / file).write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match=f"pickled Python version.*{archive}"):
        load(tmp_path if above else tmp_path / folder)


def test_damaged_folders(tmp_path):
    with pytest.raises(InputError, match=r"holds no data_batch_1.bin or train.bin"):
        load(tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10(folder)
    part = folder / "data_batch_3.bin"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"data_batch_3.bin has 6145 bytes.*multiple of 3073"):
        load(folder)
    part.write_bytes(b"")
    with pytest.raises(InputError, match=r"data_batch_3.bin has 0 bytes"):
        load(folder)
    part.write_bytes(bytes([10]) + whole[1:])
    with pytest.raises(InputError, match=r"data_batch_3.bin holds label 10.*10 classes"):
        load(folder)
    part.unlink()
    with pytest.raises(InputError, match=r"data_batch_3.bin is missing"):
        load(folder)
    part.write_bytes(whole)
    (folder / "batches.meta.txt").write_text("only two")
    with pytest.raises(InputError, match="names 2 classes, but expected 10"):
        load(folder)


def test_a_folder_above_both_is_ambiguous(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    write_cifar100(tmp_path / "cifar-100-binary")
    with pytest.raises(InputError, match="CIFAR-10 and CIFAR-100"):
        load(tmp_path)
