"""CIFAR-10 and CIFAR-100 from the files of their binary version.

Layout (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the files' own page): a
record is one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3,072 pixel bytes, red plane
first, each plane row by row.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import user_path

_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class _Version:
    name: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    label_bytes: int  # the last of them is the label
    classes: int
    class_names: str
    pickled_folder: str
    pickled_files: tuple[str, ...]


_VERSIONS = (
    _Version(
        name="CIFAR-10",
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        label_bytes=1,
        classes=10,
        class_names="batches.meta.txt",
        pickled_folder="cifar-10-batches-py",
        pickled_files=("data_batch_1",),
    ),
    _Version(
        name="CIFAR-100",
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        train=("train.bin",),
        test="test.bin",
        label_bytes=2,
        classes=100,
        class_names="fine_label_names.txt",
        pickled_folder="cifar-100-python",
        pickled_files=("train", "meta"),
    ),
)


def load(folder: str | os.PathLike) -> Dataset:
    """CIFAR-10, or CIFAR-100 with its fine labels, from the folder of `.bin` files or the folder above it.

    Raises InputError where files are missing, are of the pickled Python version, or do not hold whole
    records.
    """
    version, found = _find(user_path(folder))
    parts = [_records(found / file, version) for file in version.train]
    x_test, y_test = _records(found / version.test, version)
    return Dataset(
        name=version.name,
        x_train=np.concatenate([images for images, _ in parts]),
        y_train=np.concatenate([labels for _, labels in parts]),
        x_test=x_test,
        y_test=y_test,
        class_names=_class_names(found / version.class_names, version),
    )


def _find(folder: Path) -> tuple[_Version, Path]:
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder, but expected one with CIFAR's .bin files; check the path."
        )
    found = [
        (version, place)
        for version in _VERSIONS
        for place in (folder, folder / version.folder)
        if (place / version.train[0]).is_file()
    ]
    if len(found) > 1:
        raise InputError(
            f"{folder} holds {' and '.join(version.name for version, _ in found)}, but expected one of them; "
            f"name the folder itself, such as {found[0][1]}."
        )
    if found:
        return found[0]
    for version in _VERSIONS:
        for place in (folder, folder / version.pickled_folder):
            if all((place / file).is_file() for file in version.pickled_files):
                raise InputError(
                    f"{place} holds {version.name}'s pickled Python version, which is not read because "
                    f"unpickling can run code, but expected the binary version; unpack {version.archive} and "
                    f"name its folder {version.folder}."
                )
    raise InputError(
        f"{folder} holds no {' or '.join(version.train[0] for version in _VERSIONS)}, but expected CIFAR's "
        f"binary version; unpack {' or '.join(version.archive for version in _VERSIONS)} and name its folder."
    )


def _records(path: Path, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path} is missing, but {version.name} needs it; unpack {version.archive} again.")
    record = version.label_bytes + _PIXELS
    size = path.stat().st_size
    if size == 0 or size % record:
        raise InputError(
            f"{path} has {size} bytes, but expected a multiple of {record}, one record an image; the file is "
            f"cut short or not CIFAR's: unpack {version.archive} again."
        )
    records = np.fromfile(path, np.uint8).reshape(-1, record)
    labels = records[:, version.label_bytes - 1].astype(np.int32)
    if labels.max() >= version.classes:
        raise InputError(
            f"{path} holds label {labels.max()}, but {version.name} has {version.classes} classes; the file "
            f"is damaged or of another dataset: unpack {version.archive} again."
        )
    planes = records[:, version.label_bytes :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _class_names(path: Path, version: _Version) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(label) for label in range(version.classes))
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != version.classes:
        raise InputError(
            f"{path} names {len(names)} classes, but expected {version.classes}; unpack {version.archive} "
            "again."
        )
    return names
