"""Folders of images, one a class: ImageFolder layout and Tiny-ImageNet's."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import read_text_lines, user_path
from mu_jax.data.resizing import resize, stack

_EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
_LAYOUT = "train/CLASS/*.png (or .jpg, ...) and test/CLASS or val/CLASS"
_ANNOTATIONS = "val/val_annotations.txt"

Example = tuple[Path, int]


def load(folder: str | os.PathLike, image_size: int) -> Dataset:
    """The images under `train/CLASS` and `test/CLASS` (else `val/CLASS`), classes and files in sorted order.

    Tiny-ImageNet is read as it is distributed: `train/CLASS/images/*` and `val/images/*` with
    `val/val_annotations.txt` as the test set (its own `test` has no labels). Images are gray where all files
    are, else RGB; `image_size` > 0 resizes to that side in pixels, 0 requires one size. Raises InputError for
    another layout, an image that cannot be decoded, or sizes that differ.
    """
    root = user_path(folder)
    if not (root / "train").is_dir():
        raise InputError(f"{root} has no folder train, but expected {_LAYOUT}; check the path.")
    class_names = _subfolders(root / "train")
    if not class_names:
        raise InputError(
            f"{root / 'train'} holds no class folders, but expected {_LAYOUT}; make one a class."
        )
    train = _by_class(root / "train", class_names)
    if (root / _ANNOTATIONS).is_file():
        test = _annotated(root, class_names)
    else:
        test = _by_class(_test_folder(root), class_names, may_lack_classes=True)
    examples = [*train, *test]
    images = _decode([path for path, _ in examples], image_size)
    labels = np.array([label for _, label in examples], np.int32)
    size = f" at {image_size}×{image_size}" if image_size else ""
    return Dataset(
        name=f"folder:{root.resolve().name}{size}",
        x_train=images[: len(train)],
        y_train=labels[: len(train)],
        x_test=images[len(train) :],
        y_test=labels[len(train) :],
        class_names=class_names,
    )


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [p for p in folder.iterdir() if p.suffix.lower() in _EXTENSIONS and not p.name.startswith(".")]
    return sorted(files)


def _by_class(folder: Path, class_names: tuple[str, ...], may_lack_classes: bool = False) -> list[Example]:
    unknown = sorted(set(_subfolders(folder)) - set(class_names))
    if unknown:
        raise InputError(
            f"{folder} holds class {unknown[0]!r}, which train lacks, but expected the classes of train; "
            "rename or remove it."
        )
    examples = []
    for label, name in enumerate(class_names):
        files = _image_files(folder / name) + _image_files(folder / name / "images")
        if not files and not may_lack_classes:
            raise InputError(
                f"{folder / name} holds no images, but expected {_LAYOUT}; fill or remove the folder."
            )
        examples += [(file, label) for file in files]
    if not examples:
        raise InputError(f"{folder} holds no images, but expected {_LAYOUT}; add test images.")
    return examples


def _test_folder(root: Path) -> Path:
    for name in ("test", "val"):
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root} has neither test nor val, but expected {_LAYOUT}; add test images.")


def _annotated(root: Path, class_names: tuple[str, ...]) -> list[Example]:
    number = {name: label for label, name in enumerate(class_names)}
    examples = []
    for line, text in enumerate(read_text_lines(root / _ANNOTATIONS, "unpack Tiny-ImageNet again"), start=1):
        fields = text.split("\t")
        if not text.strip():
            continue
        if len(fields) < 2 or fields[1] not in number:
            raise InputError(
                f"{root / _ANNOTATIONS} line {line} is {text!r}, but expected a file name, a tab and a class "
                "of train; unpack Tiny-ImageNet again."
            )
        examples.append((root / "val" / "images" / fields[0], number[fields[1]]))
    if not examples:
        raise InputError(f"{root / _ANNOTATIONS} is empty, but expected one line an image; unpack it again.")
    return sorted(examples)


def _decode(paths: list[Path], image_size: int) -> np.ndarray:
    # Threads, not processes: Pillow decodes outside the interpreter's lock.
    all_gray = True

    def track(decoded: tuple[np.ndarray, bool]) -> np.ndarray:
        nonlocal all_gray
        all_gray &= decoded[1]
        return decoded[0]

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        decoded = pool.map(lambda path: _read(path, image_size), paths)
        try:
            images = stack(map(track, decoded), [str(path) for path in paths])
        except InputError:
            pool.shutdown(cancel_futures=True)  # else the error waits until every other image is decoded
            raise
    return np.ascontiguousarray(images[..., :1]) if all_gray else images


def _read(path: Path, image_size: int) -> tuple[np.ndarray, bool]:
    """The image as RGB, and whether it is stored as 8-bit gray."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            # Transparency in a palette makes Pillow warn on the way to RGB; by RGBA it does not.
            image = image.convert("RGBA") if mode == "P" and "transparency" in image.info else image
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise InputError(
            f"{path} cannot be decoded ({error}), but expected an image; replace or remove the file."
        ) from error
    if mode.startswith(("I", "F")):
        raise InputError(
            f"{path} has pixels of mode {mode}, but expected 8 bits a channel; convert it to 8-bit PNG first."
        )
    return resize(pixels, image_size), mode == "L"
