"""Reading `.npy` and `.npz` files that anybody may have made: arrays of numbers and text, whole, or one line of reason.

NumPy's own reader raises a dozen types of errors for damaged files, believes a header that promises more memory than
there is, gives bytes for what is no array, and needs to be told that objects, which could run code, are unwanted. All
readers of this package go through this one.
"""

import contextlib
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.files import UNREADABLE

_ARCHIVE = b"PK"
# Numbers and text; not "O" (objects), nor "V" (records), "m" and "M" (times), which no reader takes.
_KINDS = "biufcSU"
_VERSIONS = ((1, 0), (2, 0), (3, 0))
_GIB = 2**30


class UnreadableError(ValueError):
    """What keeps a file from being read, in one line without the file's name."""


class ObjectArrayError(UnreadableError):
    """The file holds Python objects."""


class Archive:
    """The arrays of an open `.npz` file by name, read when they are asked for."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        self._taken = 0
        """bytes of the arrays read so far"""

    @property
    def files(self) -> list[str]:
        """The names of all arrays."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> np.ndarray:
        """The array, in this machine's byte order. UnreadableError, or a type in UNREADABLE, where it is damaged."""
        if name not in self._entries:
            raise UnreadableError(f"there is no array {name!r} in it")
        entry = self._entries[name]
        with self._archive.open(entry) as file:
            promised = _promised(file, name, entry.file_size)
        self._taken += promised
        _check_memory(self._taken, name)
        with self._archive.open(entry) as file:
            return _read(file, name)


@contextlib.contextmanager
def open_archive(path: str | os.PathLike) -> Iterator[Archive]:
    """The `.npz` file `path`. Every failure, also of reading in the block, is UnreadableError or FileNotFoundError."""
    with _one_line(), open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise UnreadableError("it is one array, but expected an .npz archive of several")
        if not zipfile.is_zipfile(file):
            raise UnreadableError("it is not a whole .npz archive")
        with zipfile.ZipFile(file) as archive:
            yield Archive(archive)


def read_array(path: str | os.PathLike) -> np.ndarray:
    """The array of a `.npy` file, in this machine's byte order; UnreadableError or FileNotFoundError."""
    name = "the array"
    with _one_line(), open(path, "rb") as file:
        magic = file.read(len(np.lib.format.MAGIC_PREFIX))
        if magic.startswith(_ARCHIVE):
            raise UnreadableError("it is an .npz archive, not one .npy array")
        if magic != np.lib.format.MAGIC_PREFIX:
            raise UnreadableError("it holds no NumPy array" if magic else "it is empty")
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        _check_memory(_promised(file, name, size), name)
        file.seek(0)
        return _read(file, name)


def read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of the array that an open `.npy` file begins with; ValueError for another file."""
    try:
        # Of a file from Python 2, which is sound, NumPy says that it took longer.
        with warnings.catch_warnings(action="ignore"):
            version = np.lib.format.read_magic(file)
            if version not in _VERSIONS:
                raise ValueError(f"its version is {version}")
            if version == (1, 0):
                return np.lib.format.read_array_header_1_0(file)
            return np.lib.format.read_array_header_2_0(file)
    except (OSError, zipfile.BadZipFile):
        raise
    except Exception as error:  # a header is parsed as Python, whose tokenizer has errors of its own
        raise ValueError(f"its header cannot be read: {_reason(error)}") from None


def _promised(file: BinaryIO | Any, name: str, size: int) -> int:
    """The bytes of the array whose header stands in an open file of `size` bytes, which must be as many as follow."""
    shape, _, dtype = read_npy_header(file)
    if dtype.hasobject:
        raise ObjectArrayError(f"{name} is an array of Python objects, and reading those could run code")
    if dtype.kind not in _KINDS:
        raise UnreadableError(f"{name} has dtype {dtype}, which is neither numbers nor text")
    if any(length < 0 for length in shape):
        raise UnreadableError(f"{name} has shape {shape}")
    promised, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if promised != there or (dtype.itemsize == 0 and math.prod(shape)):
        raise UnreadableError(
            f"{name} has {there:,} bytes, but its header promises {promised:,}, {dtype} {list(shape)}"
        )
    return promised


def _read(file: BinaryIO | Any, name: str) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"):
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype.kind in "fc" and array.dtype.itemsize > (8 if array.dtype.kind == "f" else 16):
        # Of more digits than any reader uses, and than JAX takes.
        with np.errstate(over="ignore"):
            array = array.astype(np.float64 if array.dtype.kind == "f" else np.complex128)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_memory(wanted: int, name: str) -> None:
    there = memory_bytes()
    if wanted > there:
        raise UnreadableError(
            f"with {name} it takes {wanted / _GIB:,.1f} GiB, and this machine has {there / _GIB:,.1f}"
        )


def memory_bytes() -> int:
    """Bytes of this machine's memory: more than any array can have, and less than a header can promise."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, UnreadableError, InputError):
        raise
    except UNREADABLE as error:
        raise UnreadableError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
