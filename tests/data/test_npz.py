"""NumPy archives: what is read, and one clear sentence for each thing that is wrong."""

import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError
from mu_jax.data import load_dataset


def arrays(**changes) -> dict[str, np.ndarray]:
    stream = np.random.default_rng(0)
    return {
        "x_train": stream.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": stream.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8),
        "y_test": np.array([2, 1, 0]),
    } | changes


def load(path):
    return load_dataset(DataConfig(source=f"npz:{path}"), 0)


def test_arrays_come_back_and_the_file_names_the_dataset(tmp_path):
    saved = arrays()
    np.savez_compressed(tmp_path / "mine.npz", **saved)
    dataset = load(tmp_path / "mine.npz")
    assert dataset.name == "npz:mine.npz"
    assert dataset.class_names == ("0", "1", "2")
    for key, value in saved.items():
        np.testing.assert_array_equal(getattr(dataset, key), value)


def test_gray_images_column_labels_and_class_names(tmp_path):
    saved = arrays(
        x_train=np.full((6, 5, 4), 9, np.uint8),
        x_test=np.zeros((3, 5, 4), np.uint8),
        y_train=np.array([[0], [1], [2], [0], [1], [2]], np.uint8),
        y_test=np.array([0, 1, 1], np.int64),
        class_names=np.array(["ant", "bee", "cow", "doe"]),
        unread=np.array([{}], object),
    )
    np.savez(tmp_path / "gray.npz", **saved)
    dataset = load(tmp_path / "gray.npz")
    assert dataset.image_shape == (5, 4, 1)
    assert dataset.class_names == ("ant", "bee", "cow", "doe")
    np.testing.assert_array_equal(dataset.y_train, [0, 1, 2, 0, 1, 2])
    assert dataset.y_train.dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((6, 5, 4, 3), np.float32)}, "x_train has dtype float32.*uint8"),
        ({"x_test": np.zeros((3, 60), np.uint8)}, "x_test.*\\(3, 60\\).*channels"),
        ({"x_train": np.zeros((6, 3, 32, 32), np.uint8)}, "channels last.*transpose"),
        ({"y_train": np.zeros(6)}, "y_train has dtype float64.*integer"),
        ({"y_train": np.eye(6, dtype=np.int64)}, "y_train.*argmax"),
        ({"y_train": np.zeros(5, np.int64)}, "y_train.*\\(5,\\).*expected \\(6,\\)"),
        ({"y_test": np.array([0, -1, 2])}, "y_test holds labels -1..2"),
        ({"y_test": np.array([0, 1, 2**40])}, "y_test holds labels 0..1099511627776"),
        ({"y_test": np.array([0, 1, 5000])}, "label 5000 with 9 examples"),
        ({"x_test": np.zeros((0, 5, 4, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test.*non-empty"),
        ({"x_train": np.array([[1], [2, 3]], object)}, "x_train is an object array"),
        ({"class_names": np.array(["a", "b"])}, "holds labels 0..2.*2 classes"),
        ({"class_names": np.array([1, 2, 3])}, "class_names.*list of strings"),
    ],
)
def test_wrong_arrays(tmp_path, changes, message):
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path / "bad.npz")
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("missing", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_key(tmp_path, missing):
    np.savez(tmp_path / "bad.npz", **{key: value for key, value in arrays().items() if key != missing})
    with pytest.raises(InputError, match=f"but expected {missing}"):
        load(tmp_path / "bad.npz")


def test_files_that_are_no_whole_archive(tmp_path):
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, **arrays())
    whole = good.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"not a whole .npz"):
        load(bad)
    bad.write_bytes(b"some text")
    with pytest.raises(InputError, match=r"not a whole .npz"):
        load(bad)
    with open(bad, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match=r"not a whole .npz"):
        load(bad)
    with pytest.raises(InputError, match="is not a file"):
        load(tmp_path)
    with pytest.raises(InputError, match="is not a file"):
        load(tmp_path / "absent.npz")


def test_flipped_bytes_are_noticed(tmp_path):
    path = tmp_path / "bad.npz"
    saved = arrays()
    np.savez(path, **saved)
    whole = bytearray(path.read_bytes())
    start = bytes(whole).index(saved["x_test"].tobytes())
    whole[start] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"x_test cannot be read.*CRC"):
        load(path)
