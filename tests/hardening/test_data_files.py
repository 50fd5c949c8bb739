"""Files of data, damaged in every way: read, or refused in one sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from mu_jax.config import DataConfig
from mu_jax.data import load_dataset
from mu_jax.data.array_files import open_archive, read_array
from mu_jax.data.membership import read_membership
from mu_jax.data.splits import Splits, read_indices
from mu_jax.experiments.sisa_images import check_images
from mu_jax.experiments.sisa_setting import _read_probabilities
from mu_jax.unlearning.sisa.sharding import Sharding, uniform_sharding

RNG = np.random.default_rng(0)
MANY = pytest.param(2_000, marks=pytest.mark.slow)
DIGESTS = RNG.integers(0, 256, (12, 32), dtype=np.uint8)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def picture(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    shape = (5, 4) if mode == "L" else (5, 4, 3)
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def table(folder, source):
    return load_dataset(DataConfig(source=f"{source}{folder}"), 0)


def saved(thing, tmp_path) -> bytes:
    thing.save(tmp_path / "saved.npz")
    return (tmp_path / "saved.npz").read_bytes()


IMAGES = {
    "d.npz": npz(
        x_train=RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        y_train=np.array([0, 1, 2, 0, 1, 2]),
        x_test=RNG.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
        y_test=np.array([[0], [1], [2]]),
        class_names=np.array(["cat", "dog", "é"]),
    )
}
ROWS = {
    "d.npz": npz(
        x_train=RNG.normal(size=(6, 3)),
        y_train=np.arange(6) % 2,
        x_test=RNG.normal(size=(2, 3)),
        y_test=np.arange(2),
    )
}
CSV = b'\xef\xbb\xbfage, label ,"town, or city"\n' + b"".join(
    f'{n}.5, {"ab"[n % 2]}, "x{n % 3}"\n\n'.encode() for n in range(8)
)
CIFAR10 = {
    name: bytes([n % 10]) + RNG.bytes(3072)
    for n, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"])
} | {"batches.meta.txt": b"\n".join(b"%d" % n for n in range(10))}
CIFAR100 = {"train.bin": bytes([1, 99]) + RNG.bytes(3072), "test.bin": bytes([0, 3]) + RNG.bytes(3072)}
FOLDER = {
    "train/cat/a.png": picture("RGB", "png"),
    "train/cat/b.jpg": picture("RGB", "jpeg"),
    "train/dog/c.gif": picture("L", "gif"),
    "train/dog/e.tiff": picture("RGB", "tiff"),
    "test/dog/d.bmp": picture("RGB", "bmp"),
}
TINY = {
    "train/n1/images/a.png": picture("L", "png"),
    "train/n2/images/b.png": picture("L", "png"),
    "val/images/v.png": picture("L", "png"),
    "val/val_annotations.txt": "v.png\tn2\t0\t0\té\n".encode(),
}
MEMBER = np.array([[True, False, True, False], [False, True, False, True]])
SPLITS = Splits(*(np.arange(first, first + 3) for first in (0, 3, 6, 9)))


@pytest.mark.parametrize("examples", [40, MANY])
@pytest.mark.parametrize(
    ("files", "read"),
    [
        pytest.param(IMAGES, lambda f: table(f / "d.npz", "npz:"), id="npz images"),
        pytest.param(ROWS, lambda f: table(f / "d.npz", "npz:"), id="npz table"),
        pytest.param({"d.csv": CSV}, lambda f: table(f / "d.csv", "csv:"), id="csv"),
        pytest.param(CIFAR10, lambda f: table(f, "cifar:"), id="cifar-10"),
        pytest.param(CIFAR100, lambda f: table(f, "cifar:"), id="cifar-100"),
        pytest.param(FOLDER, lambda f: table(f, "folder:"), id="image folder"),
        pytest.param(TINY, lambda f: table(f, "folder:"), id="tiny-imagenet"),
        pytest.param(
            {"i.npy": npy(np.array([1, 4, 7]))}, lambda f: read_indices(f / "i.npy", 9), id="forget.indices"
        ),
        pytest.param({"m.npy": npy(MEMBER)}, lambda f: read_membership(f / "m.npy", 2, 4), id="memberships"),
        pytest.param(
            {"p.npy": npy(np.linspace(0, 1, 5))},
            lambda f: _read_probabilities(f / "p.npy", 5),
            id="sisa.probabilities",
        ),
        pytest.param(
            {"images.sha256.npy": npy(DIGESTS)},
            lambda f: (
                not (f / "images.sha256.npy").exists() or check_images(f, DIGESTS, np.arange(8)) or True
            ),
            id="hashes of images",
        ),
    ],
)
def test_data(reads_or_refuses, files, read, examples):
    reads_or_refuses(files, read, examples)


@pytest.mark.parametrize("examples", [40, MANY])
@pytest.mark.parametrize("kind", [Splits, Sharding])
def test_what_the_package_saved(reads_or_refuses, tmp_path, kind, examples):
    whole = saved(SPLITS if kind is Splits else uniform_sharding(np.arange(20), 2, 3, 0), tmp_path)
    reads_or_refuses({"s.npz": whole}, lambda f: kind.load(f / "s.npz"), examples)


@pytest.mark.parametrize("dtype", [">i8", ">f4", np.longdouble, "<f2"])
def test_arrays_come_in_this_machines_byte_order_and_in_types_that_jax_takes(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=np.asfortranarray(array))
    with open_archive(tmp_path / "a.npz") as archive:
        for found in (read_array(tmp_path / "a.npy"), archive["a"]):
            assert found.dtype.isnative and found.dtype.itemsize <= 8
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_what_promises_more_than_the_machines_memory_is_not_even_begun(
    tmp_path, one_sentence, monkeypatch, name
):
    """A sparse file of a terabyte takes no room on the disk, and a deflated one little."""
    from mu_jax.data import array_files

    (np.save if name == "a.npy" else np.savez_compressed)(tmp_path / name, np.zeros(100_000, np.uint8))
    monkeypatch.setattr(array_files, "memory_bytes", lambda: 99_999)
    with pytest.raises(array_files.UnreadableError, match="and this machine has"):
        if name == "a.npy":
            read_array(tmp_path / name)
        else:
            with open_archive(tmp_path / name) as archive:
                archive[archive.files[0]]


@pytest.mark.parametrize(
    "source",
    [
        "synthetic:8,8,1,10,1000000000,1000000000",
        "synthetic:" + "9" * 5000 + ",1,1,1,1,1",
        "synthetic:0,8,8,1,1,1",
        "npz:~nobody_of_this_name/a.npz",
        "npz:a\0b.npz",
        "npz:" + "x" * 5000,
        "csv:" + "x" * 5000,
        "cifar:" + "x" * 5000,
        "folder:a\nb\x1b[31m",
        "\x1b[2J",
        ":",
        "",
    ],
)
def test_odd_sources(one_sentence, source):
    assert one_sentence(lambda: load_dataset(DataConfig(source=source), 0)) is None
