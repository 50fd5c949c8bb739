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

from mu_jax.config import InputError

UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error),
    # A damaged header of an array is parsed as Python source, and fails as such.
    *(SyntaxError, tokenize.TokenError, NotImplementedError, RuntimeError, MemoryError, OverflowError),
)
"""What NumPy raises, all told, for an `.npy` or `.npz` file that is missing or damaged."""


def user_path(text: str | os.PathLike) -> pathlib.Path:
    """The path that a user wrote, `~` and `~NAME` being homes; InputError for one that no file can have."""
    try:
        path = pathlib.Path(text).expanduser()
    except RuntimeError:
        raise InputError(
            f"The path {os.fspath(text)!r} starts with the home of a user that there is not; write it in full, or with "
            "~/ for your own."
        ) from None
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever reads it says what it should have been
    except (OSError, ValueError) as error:  # too long, a ring of links; a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The path {os.fspath(text)!r} is none ({reason}); correct it.") from None
    return path


def read_text_lines(path: pathlib.Path, fix: str) -> list[str]:
    """The lines of a text in UTF-8; InputError, with the advice `fix`, where it cannot be read as such."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"{error.reason} at byte {error.start}"
        raise InputError(f"{path} cannot be read ({reason}), but expected text in UTF-8; {fix}.") from None


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
