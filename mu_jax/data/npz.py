"""NumPy archives: the way in for data prepared elsewhere."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.array_files import ObjectArrayError, UnreadableError, open_archive
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import user_path

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_RECIPE = "np.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...)"


def load(file: str | os.PathLike) -> Dataset:
    """The dataset in an archive of `x_train`, `y_train`, `x_test`, `y_test` and, optionally, `class_names`.

    Images are uint8 [N, H, W, D], or [N, H, W] for gray ones; a table's rows are floats [N, F], kept as float32
    [N, 1, 1, F]; labels integers [N] or [N, 1]; `class_names` an array of strings, the numbers 0..C-1 where absent.
    Raises InputError for anything else.
    """
    path = user_path(file)
    arrays = _read(path)
    for key in _KEYS:
        if key not in arrays:
            raise InputError(
                f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}, but expected {key}; save with "
                f"{_RECIPE}."
            )
    y_train, y_test = (_labels(path, key, arrays[key]) for key in ("y_train", "y_test"))
    return Dataset(
        name=f"npz:{path.name}",
        x_train=_images(path, "x_train", arrays["x_train"]),
        y_train=y_train,
        x_test=_images(path, "x_test", arrays["x_test"]),
        y_test=y_test,
        class_names=_class_names(path, arrays.get("class_names"), y_train, y_test),
    )


def _read(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise InputError(
            f"{path} is not a file, but expected an archive made with {_RECIPE}; check the path."
        )
    key = ""
    arrays = {}
    try:
        with open_archive(path) as archive:
            for key in archive.files:
                if key in (*_KEYS, "class_names"):
                    arrays[key] = archive[key]
    except ObjectArrayError:
        raise InputError(
            f"{path}: {key} is an object array, but expected plain numbers, because reading objects "
            "could run code; stack the images into one uint8 array and save again."
        ) from None
    except (OSError, UnreadableError) as error:
        if not key:
            raise InputError(
                f"{path} is not a whole .npz archive ({error}), but expected one made with {_RECIPE}; save it again."
            ) from error
        raise InputError(
            f"{path}: {key} cannot be read ({error}), but expected a whole archive; save or copy it again."
        ) from error
    return arrays


def _images(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    got = f"{path}: {key} has dtype {images.dtype} and shape {images.shape}"
    if images.ndim == 2 and np.issubdtype(images.dtype, np.floating):
        # What is too large becomes infinite, which Dataset refuses and says where.
        with np.errstate(over="ignore"):
            return images.astype(np.float32)[:, None, None, :]
    if images.dtype != np.uint8:
        raise InputError(
            f"{got}, but expected uint8 pixels in 0..255, or a table's rows as floats [N, columns]; from pixels in "
            "[0, 1], save (255 * x).round().astype(np.uint8)."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise InputError(
            f"{got}, but expected [N, height, width, channels], or [N, height, width]; reshape it."
        )
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise InputError(f"{got}, but expected channels last; save x.transpose(0, 2, 3, 1).")
    return images


def _labels(path: Path, key: str, labels: np.ndarray) -> np.ndarray:
    got = f"{path}: {key} has dtype {labels.dtype} and shape {labels.shape}"
    if labels.dtype.kind not in "iu":
        raise InputError(f"{got}, but expected integer class numbers; save y.astype(np.int32).")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"{got}, but expected [N], or [N, 1]; from one-hot rows, save y.argmax(axis=1).")
    if labels.size and (labels.min() < 0 or labels.max() >= 2**31):
        raise InputError(
            f"{path}: {key} holds labels {labels.min()}..{labels.max()}, but expected 0..C-1; renumber the "
            "classes."
        )
    return labels.astype(np.int32)


def _class_names(
    path: Path, names: np.ndarray | None, y_train: np.ndarray, y_test: np.ndarray
) -> tuple[str, ...]:
    if names is None:
        highest = max((int(labels.max()) for labels in (y_train, y_test) if labels.size), default=0)
        if highest >= 10 * (len(y_train) + len(y_test)):
            raise InputError(
                f"{path} holds label {highest} with {len(y_train) + len(y_test)} examples, but expected "
                "classes numbered from 0; renumber the classes."
            )
        return tuple(str(label) for label in range(highest + 1))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"{path}: class_names has dtype {names.dtype} and shape {names.shape}, but expected a list of "
            "strings; save np.array(['cat', 'dog', ...])."
        )
    return tuple(str(name) for name in names)
