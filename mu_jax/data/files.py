"""Writing files whole or not at all, and what reading a damaged one may raise."""

import contextlib
import json
import os
import pathlib
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error),
    # A damaged header of an array is parsed as Python source, and fails as such.
    *(SyntaxError, tokenize.TokenError, NotImplementedError, RuntimeError, MemoryError, OverflowError),
)
"""What NumPy raises, all told, for an `.npy` or `.npz` file that is missing or damaged."""


@contextlib.contextmanager
def atomic_write(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends, and leaves no trace when it raises."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's files are private; results are as readable as any other file of the run.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: pathlib.Path, value: Any) -> None:
    """Strict JSON: NaN and infinity are errors here, not surprises for the reader."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())
