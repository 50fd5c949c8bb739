"""Made-up images for tests and throughput; a result on them says so by the dataset's name."""

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.array_files import memory_bytes
from mu_jax.data.dataset import Dataset
from mu_jax.data.random_streams import host_stream

_FORM = "H,W,D,CLASSES,TRAIN,TEST"
_PROTOTYPE_STD = 32.0
_NOISE_STD = 48.0
_CHUNK = 4096


def load(sizes: str, seed: int) -> Dataset:
    """One Gaussian prototype a class plus Gaussian noise an image, clipped to 0..255, deterministic by
    `seed`.

    x = clip(128 + 32·prototype[y] + 48·noise), with standard normal prototype and noise [H, W, D]; classes
    are balanced to within one example. `sizes` is "H,W,D,CLASSES,TRAIN,TEST"; raises InputError for anything
    else.
    """
    height, width, channels, classes, train, test = _parse(sizes)
    stream = host_stream(seed, "synthetic images")
    prototypes = stream.standard_normal((classes, height, width, channels), np.float32)

    def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = stream.permutation(np.arange(count) % classes).astype(np.int32)
        images = np.empty((count, height, width, channels), np.uint8)
        for start in range(0, count, _CHUNK):  # float images of a whole set could outgrow the memory
            part = labels[start : start + _CHUNK]
            noise = stream.standard_normal((len(part), height, width, channels), np.float32)
            pixels = 128 + _PROTOTYPE_STD * prototypes[part] + _NOISE_STD * noise
            images[start : start + _CHUNK] = np.clip(np.round(pixels), 0, 255)
        return images, labels

    x_train, y_train = examples(train)
    x_test, y_test = examples(test)
    return Dataset(
        name=f"synthetic ({height}×{width}×{channels}, {classes} classes)",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=tuple(str(label) for label in range(classes)),
    )


def _is_size(field: str) -> bool:
    # Python refuses to read numbers of thousands of digits.
    return field.isdecimal() and len(field) <= 18 and int(field) >= 1


def _parse(sizes: str) -> list[int]:
    fields = sizes.split(",")
    if len(fields) != 6 or not all(_is_size(field.strip()) for field in fields):
        raise InputError(
            f"data.source is 'synthetic:{sizes}', but expected six positive whole numbers; write them as "
            f"'synthetic:{_FORM}', such as 'synthetic:8,8,1,10,1000,200'."
        )
    height, width, channels, _, train, test = numbers = [int(field) for field in fields]
    wanted, there = height * width * channels * (train + test), memory_bytes()
    if wanted > there:
        raise InputError(
            f"data.source is 'synthetic:{sizes}', which takes {wanted / 2**30:,.0f} GiB, but this machine has "
            f"{there / 2**30:,.0f}; ask for fewer or smaller images."
        )
    return numbers
