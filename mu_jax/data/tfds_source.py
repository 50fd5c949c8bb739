"""TensorFlow Datasets: CIFAR-10, SVHN, MNIST and hundreds more, by name.

A dataset that was prepared as ArrayRecord (or Parquet) is read without TensorFlow. Preparing one, and reading
one that was prepared as TFRecord, tfds' default, needs it.
"""

import difflib
import importlib.util
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.dataset import Dataset
from mu_jax.data.resizing import resize, stack


def load(name: str, image_size: int) -> Dataset:
    """The splits `train` and `test` (else `validation`) of a tfds image-classification dataset.

    `name` may carry a config and a version, as in `cifar10:3.0.2`. Downloaded and prepared where it is not
    yet, as ArrayRecord, in `TFDS_DATA_DIR` or tfds' own default folder. Examples come in the order of the
    stored files. Raises InputError where the dataset is unknown, is not one of images with one label, cannot
    be prepared, or needs TensorFlow that is not installed.
    """
    tfds = _import_tfds(name)
    try:
        # tfds reads the variable once, when it is first imported; here it counts whenever it is set.
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except tfds.core.DatasetNotFoundError:
        raise InputError(_unknown(name, tfds.list_builders(with_community_datasets=False))) from None
    except ImportError as error:
        if "tensorflow" in str(error):  # some datasets' code imports it at its top
            _require_tensorflow(name, "cannot be looked up")
        raise
    except (ValueError, AssertionError) as error:  # unknown version, unknown config, malformed name
        raise InputError(
            f"data.source is 'tfds:{name}', but tfds refuses that name ({_first_line(error)}); write "
            "tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION."
        ) from error
    if not builder.is_prepared():
        _prepare(builder, name)
    features, splits = builder.info.features, builder.info.splits
    if not isinstance(features, tfds.features.FeaturesDict) or not {"image", "label"} <= set(features):
        raise InputError(
            f"tfds:{name} has the features {features}, but expected image and label; choose another dataset."
        )
    if not isinstance(features["label"], tfds.features.ClassLabel):
        raise InputError(
            f"tfds:{name} has labels of type {type(features['label']).__name__}, but expected ClassLabel; "
            "choose another dataset."
        )
    test = "test" if "test" in splits else "validation"
    for split in ("train", test):
        if split not in splits:
            raise InputError(
                f"tfds:{name} has the splits {', '.join(splits)}, but expected train and test (or "
                "validation); choose another dataset, or save its arrays and use npz:FILE."
            )
    x_train, y_train = _arrays(builder, name, "train", image_size)
    x_test, y_test = _arrays(builder, name, test, image_size)
    size = f" at {image_size}×{image_size}" if image_size else ""
    return Dataset(
        name=f"tfds:{name}{size}",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=tuple(features["label"].names),
    )


def _import_tfds(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds

        tfds.builder  # noqa: B018  # tfds swallows a failed import of its own parts: this is where it shows
    except (ImportError, AttributeError):
        # It does without TensorFlow, but not beside one that is there and fails to load.
        _require_tensorflow(name, "cannot be looked up")
        raise
    return tfds


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.split(":")[0].split("/")[0], known, n=1)
    hint = (
        f"did you mean 'tfds:{close[0]}'?" if close else "see tensorflow.org/datasets/catalog for the names."
    )
    return (
        f"data.source is 'tfds:{name}', but expected a dataset that tfds knows or that lies prepared; {hint}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _require_tensorflow(name: str, why: str) -> None:
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        raise InputError(
            f"tfds:{name} {why}, for which tfds needs TensorFlow, but it is not installed; pip install "
            "'mu-jax[tensorflow]'."
        ) from None


def _prepare(builder: Any, name: str) -> None:
    _require_tensorflow(name, f"is not prepared yet in {builder.data_dir}")
    # ArrayRecord, so that later runs do without TensorFlow; its package does not exist for every platform.
    file_format = "array_record" if importlib.util.find_spec("array_record") else None
    try:
        builder.download_and_prepare(file_format=file_format)
    except Exception as error:  # no network, a moved file, a full disk, a checksum: all the user's to see
        raise InputError(
            f"tfds:{name} could not be prepared in {builder.data_dir} ({_first_line(error)}), but expected a "
            "download to succeed; prepare it on a connected machine and set TFDS_DATA_DIR to that folder."
        ) from error


def _arrays(builder: Any, name: str, split: str, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    labels: list[int] = []

    def images() -> Iterable[np.ndarray]:
        for example in _examples(builder, name, split):
            labels.append(int(example["label"]))
            image = np.asarray(example["image"])
            if image.dtype != np.uint8:
                raise InputError(
                    f"tfds:{name} has images of dtype {image.dtype}, but expected uint8; choose another "
                    "dataset."
                )
            yield resize(image, image_size)

    count = builder.info.splits[split].num_examples
    stacked = stack(images(), [f"tfds:{name} {split} image {i}" for i in range(count)])
    if labels and min(labels) < 0:
        raise InputError(
            f"tfds:{name} has no labels in its split {split}, but expected them; choose another dataset."
        )
    return stacked, np.array(labels, np.int32)


def _examples(builder: Any, name: str, split: str) -> Iterable[dict[str, Any]]:
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split)
    except NotImplementedError:  # prepared in a format without random access
        pass
    _require_tensorflow(name, f"lies prepared as {builder.info.file_format.value} in {builder.data_dir}")
    # One file after another: the order in which a data source of the same files reads them.
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
    return tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=one_by_one))
