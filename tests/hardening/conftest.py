"""Valid files damaged in every way: whoever reads them says so in one sentence, or has read them."""

import errno
import io
import json
import math
import os
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mu_jax.config import InputError

_DTYPES = (
    "?", "i1", "u1", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", "c8", ">i4", ">f4", ">u8", "U3", "S3", "O",
    "M8[s]", "i4,f4", "V4",
)  # fmt: skip
_SHAPES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    np.ravel,
    np.transpose,
    np.asfortranarray,
    lambda a: a[None],
    lambda a: a[..., None],
    lambda a: a[:0],
    lambda a: a[:1],
    lambda a: a[..., :0],
    lambda a: a[..., :1],
    lambda a: a.reshape(-1)[:1].reshape(()),
    lambda a: np.concatenate([a, a]),
    lambda a: np.concatenate([a, a], axis=-1),
)
_NUMBERS = (
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    1,
    2,
    255,
    2**31,
    -(2**63),
    2**63 - 1,
    2**64 - 1,
    1e30,
    -1e300,
)
_PROMISES = ((2**62,), (10**9, 10**9), (2**40,), (-1,), (-2, -3), (0, 2**62), (2**31, 2, 2), (True,))
_JSON = (
    *(None, True, -1, 0, 3, 2**70, 1.5, -0.0, 1e400, "", "x", "\n\x1b[31m", "é\ud800"),
    *([], {}, [1], [[]], {"a": 1}, {"": None}, [None], "9" * 5000),
)
_OTHER_FILES = (
    b"",
    b"\0",
    b"\n",
    b"PK\x05\x06" + bytes(18),  # an archive of nothing
    b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.",  # a pickle
    b"\x93NUMPY",
    b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
    b"\x93NUMPY\x02\x00\x00\x00\x01\x00" + b"(" * 65536,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"NaN",
    b"\xff\xfe\x00",
    b"\x89PNG\r\n\x1a\n",
    b"\x1f\x8b\x08\x00",
)


_TRACEBACK = re.compile(r'File ".+", line \d+')


@pytest.fixture(scope="session", name="fuzz")
def fuzz_fixture():
    """`fuzz(check, examples)` runs `check(data)` so often, on draws that are the same in every run."""

    def fuzz(check: Callable[[Any], None], examples: int) -> None:
        @settings(
            max_examples=examples,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        @given(st.data())
        def body(data):
            check(data)

        body()

    return fuzz


@pytest.fixture(scope="session", name="one_sentence")
def one_sentence_fixture():
    """`one_sentence(call)` is what `call()` gives, or None where it refuses in one sentence; all else is raised."""

    def one_sentence(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except InputError as error:
            text = str(error)
        assert 20 < len(text) <= 2_100
        # Not the word: Hypothesis draws the literals of all modules at hand, which the sentence then quotes.
        assert text.isprintable() and not _TRACEBACK.search(text), text
        return None

    return one_sentence


@pytest.fixture(scope="session", name="reads_or_refuses")
def reads_or_refuses_fixture(fuzz, one_sentence, tmp_path_factory):
    """`reads_or_refuses(files, read, examples)`: one of the files is damaged, and the folder given to `read`.

    The folder's files are afterwards what they were.
    """
    root = tmp_path_factory.mktemp("damaged")

    def reads_or_refuses(
        files: Mapping[str, bytes],
        read: Callable[[pathlib.Path], Any],
        examples: int,
        *,
        content: bool = True,
    ) -> None:
        folder = root / "files"

        def check(data) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            for name, whole in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(whole)
            _damage(data, folder, data.draw(st.sampled_from(sorted(files))), content)
            before = _listing(folder)
            one_sentence(lambda: read(folder))
            assert _listing(folder) == before

        shutil.rmtree(folder, ignore_errors=True)
        for name, whole in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(whole)
        assert read(folder) is not None  # else the test would not see whether anything is read
        fuzz(check, examples)

    return reads_or_refuses


@pytest.fixture(scope="session", name="damage_file")
def damage_file_fixture():
    """`damage_file(data, folder, names)` damages one of the files."""
    return lambda data, folder, names: _damage(data, folder, data.draw(st.sampled_from(sorted(names))), True)


@pytest.fixture(scope="session", name="files_below")
def files_below_fixture():
    """`files_below(folder)`: the bytes of all files, by their names in it."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(name="no_space_after")
def no_space_after_fixture(monkeypatch):
    """`no_space_after(n)`: n more files are written whole, and then the disk is full."""

    def no_space_after(count: int) -> None:
        left, fsync = [count], os.fsync

        def full(handle):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return fsync(handle)

        monkeypatch.setattr(os, "fsync", full)

    return no_space_after


def _listing(folder: pathlib.Path) -> dict[str, tuple[bool, bytes]]:
    return {
        str(path.relative_to(folder)): (path.is_dir(), b"" if path.is_dir() else path.read_bytes())
        for path in folder.rglob("*")
    }


def _damage(data, folder: pathlib.Path, name: str, content: bool) -> None:
    path = folder / name
    whole = path.read_bytes()
    kinds = {".npz": _archive_with_strange_array, ".npy": _strange_file, ".json": _strange_document}
    makers = [_cut, _flipped, _flipped, _spliced, _other]
    if content and path.suffix in kinds:
        makers += [kinds[path.suffix]] * 6
    maker = data.draw(st.sampled_from([*makers, None]))
    if maker is not None:
        path.write_bytes(maker(data, whole))
        return
    path.unlink()
    if data.draw(st.booleans()):
        path.mkdir()


def _cut(data, whole: bytes) -> bytes:
    return whole[: data.draw(st.integers(0, max(len(whole) - 1, 0)))]


def _flipped(data, whole: bytes) -> bytes:
    found = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(found) - 1, 0)))
        found[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
    return bytes(found)


def _spliced(data, whole: bytes) -> bytes:
    first, last = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    return whole[:first] + data.draw(st.binary(max_size=20)) + whole[last:]


def _other(data, whole: bytes) -> bytes:
    return data.draw(st.sampled_from(_OTHER_FILES))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


def _promising(data, array: np.ndarray) -> bytes:
    """A header that promises what does not follow."""
    buffer = io.BytesIO()
    shape = data.draw(st.sampled_from(_PROMISES))
    descr = data.draw(st.sampled_from((array.dtype.str, "<U0", "|V0", "|O", "<f4")))
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": data.draw(st.booleans()), "shape": shape}
    )
    return buffer.getvalue() + data.draw(st.binary(max_size=48))


def _strange(data, array: np.ndarray) -> bytes:
    kind = data.draw(st.sampled_from(("dtype", "shape", "values", "values", "promise", "no array")))
    with np.errstate(all="ignore"):
        if kind == "dtype":
            try:
                return _npy(array.astype(data.draw(st.sampled_from(_DTYPES))))
            except (ValueError, TypeError):
                return _npy(np.zeros(array.shape, "i4,f4"))
        if kind == "shape" and array.ndim:
            return _npy(data.draw(st.sampled_from(_SHAPES))(array))
        if kind == "values" and array.size and array.dtype.kind in "biuf":
            wide = array.astype(data.draw(st.sampled_from((array.dtype, np.float64, np.int64))))
            number = data.draw(st.sampled_from(_NUMBERS))
            place = data.draw(st.sampled_from((slice(None), 0, -1, wide.size // 2)))
            number = np.asarray(number).astype(wide.dtype)
            wide.reshape(-1)[place] = number
            return _npy(wide)
        if kind == "values" and array.size and array.dtype.kind == "U":
            raw = np.full(
                array.size * max(array.dtype.itemsize // 4, 1), data.draw(st.integers(0, 2**32 - 1)), "<u4"
            )
            return _npy(array)[: -raw.nbytes] + raw.tobytes()
        if kind == "promise":
            return _promising(data, array)
    return data.draw(st.sampled_from(_OTHER_FILES))


def _strange_file(data, whole: bytes) -> bytes:
    return _strange(data, np.load(io.BytesIO(whole)))


def _archive_with_strange_array(data, whole: bytes) -> bytes:
    with np.load(io.BytesIO(whole)) as archive:
        members = {name: _npy(archive[name]) for name in archive.files}
        chosen = data.draw(st.sampled_from(sorted(members)))
        what = data.draw(
            st.sampled_from(("strange", "strange", "strange", "missing", "new", "encrypted", "bare"))
        )
        if what == "strange":
            members[chosen] = _strange(data, archive[chosen])
    if what == "missing":
        del members[chosen]
    if what == "new":
        odd = st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
        )
        members[data.draw(odd)] = members[chosen]
    buffer = io.BytesIO()
    method = data.draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name if what == "bare" and name == chosen else f"{name}.npy", content)
    found = bytearray(buffer.getvalue())
    if what == "encrypted":
        # Says that it is encrypted, in its place and in the directory.
        for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            if (place := found.find(mark)) >= 0:
                found[place + flags] |= 1
    return bytes(found)


def _strange_document(data, whole: bytes) -> bytes:
    document = json.loads(whole)
    places = list(_places(document))
    holder, key = data.draw(st.sampled_from(places))
    what = data.draw(st.sampled_from(("value", "value", "value", "missing", "new")))
    if what == "value":
        holder[key] = data.draw(st.sampled_from(_JSON))
    elif what == "missing":
        del holder[key]
    elif isinstance(holder, dict):
        holder[data.draw(st.text(max_size=8))] = data.draw(st.sampled_from(_JSON))
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _places(value: Any):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield value, key
        yield from _places(below)
