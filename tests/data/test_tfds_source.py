"""TensorFlow Datasets, prepared on the spot by tfds' own writer."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError
from mu_jax.data import load_dataset, tfds_source

# What TensorFlow and tfds warn of on their own account is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

READ_WITHOUT_TENSORFLOW = """
import sys

class NoTensorFlow:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] == "tensorflow"
        return None if absent else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [NoTensorFlow(finder) for finder in sys.meta_path]
from mu_jax.config import DataConfig
from mu_jax.data import load_dataset
print(load_dataset(DataConfig(source="tfds:tiny_set"), 0).fingerprint())
"""


class NoTensorFlow:
    """An import finder that finds all but TensorFlow, as where it is not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] == "tensorflow"
        return None if absent else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


@pytest.fixture
def without_tensorflow(monkeypatch):
    def hide():
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
        monkeypatch.setattr(sys, "meta_path", [NoTensorFlow(finder) for finder in sys.meta_path])

    return hide


def load(name, image_size=0):
    return load_dataset(DataConfig(source=f"tfds:{name}", image_size=image_size), 0)


def prepare(folder, file_format, shape=(4, 5, 3), test_split="test"):
    """Six training and three test images whose pixels tell which they are; the folder to read them from."""
    import tensorflow_datasets as tfds

    def examples(count, first):
        return [(i, {"image": np.full(shape, first + i, np.uint8), "label": i % 2}) for i in range(count)]

    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_set",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
        ),
        split_datasets={"train": examples(6, 0), test_split: examples(3, 100)},
        data_dir=folder,
        file_format=file_format,
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_prepared_dataset(tmp_path, monkeypatch, file_format):
    pytest.importorskip("tensorflow", reason="preparing a dataset needs the extra [tensorflow]")
    prepare(tmp_path, file_format)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    dataset = load("tiny_set:1.0.0")
    assert dataset.name == "tfds:tiny_set:1.0.0"
    assert dataset.class_names == ("cat", "dog")
    for images, labels, first, count in (
        (dataset.x_train, dataset.y_train, 0, 6),
        (dataset.x_test, dataset.y_test, 100, 3),
    ):
        assert images.shape == (count, 4, 5, 3)
        number = images[:, 0, 0, 0].astype(int) - first
        assert sorted(number) == list(range(count))
        assert (images == images[:, :1, :1, :1]).all()
        np.testing.assert_array_equal(labels, number % 2)
    assert load("tiny_set:1.0.0").fingerprint() == dataset.fingerprint()
    assert load("tiny_set", image_size=3).x_train.shape == (6, 3, 3, 3)
    with pytest.raises(InputError, match=r"tfds refuses that name|did you mean|expected a dataset"):
        load("tiny_set:9.9.9")


@pytest.mark.tensorflow
def test_array_record_is_read_without_tensorflow_in_the_same_order(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow", reason="preparing a dataset needs the extra [tensorflow]")
    prepare(tmp_path, "array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    command = [sys.executable, "-c", READ_WITHOUT_TENSORFLOW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == load("tiny_set").fingerprint()


@pytest.mark.tensorflow
def test_gray_images_validation_split_and_tfrecord_without_tensorflow(
    tmp_path, monkeypatch, without_tensorflow
):
    pytest.importorskip("tensorflow", reason="preparing a dataset needs the extra [tensorflow]")
    prepare(tmp_path, "tfrecord", shape=(4, 4, 1), test_split="validation")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    dataset = load("tiny_set", image_size=2)
    assert dataset.x_test.shape == (3, 2, 2, 1)
    assert sorted(dataset.x_test[:, 0, 0, 0]) == [100, 101, 102]
    without_tensorflow()
    with pytest.raises(InputError, match=r"lies prepared as tfrecord.*mu-jax\[tensorflow\]"):
        load("tiny_set")


def test_without_tensorflow_the_error_names_the_extra(tmp_path, monkeypatch, without_tensorflow):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    without_tensorflow()
    with pytest.raises(InputError, match=r"cifar10 is not prepared.*pip install 'mu-jax\[tensorflow\]'"):
        load("cifar10")


def test_a_tensorflow_that_fails_to_load_is_told_from_a_bug_of_tfds():
    program = (
        "import sys; sys.modules['tensorflow'] = None; from mu_jax.data import load_dataset; "
        "from mu_jax.config import DataConfig; load_dataset(DataConfig(source='tfds:cifar10'), 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "pip install 'mu-jax[tensorflow]'" in done.stderr.strip().splitlines()[-1]


def test_unknown_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="did you mean 'tfds:cifar10'"):
        load("cifar_10")
    with pytest.raises(InputError, match="tfds refuses that name"):
        load("cifar10/no_such_config")


def test_failed_download_is_reported(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self, **_):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source, "_require_tensorflow", lambda *_: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match=r"could not be prepared.*\(no route to host\).*TFDS_DATA_DIR"):
        load("cifar10")
