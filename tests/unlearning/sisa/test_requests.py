"""The request log: what was asked for is never lost, never altered, and never carried out unasked."""

import datetime
import json
import os
import subprocess
import sys

import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.unlearning.sisa import requests
from mu_jax.unlearning.sisa.requests import RequestLog

NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
CERTIFICATE = "ab" * 32


@pytest.fixture
def unchecked():
    """Runs without the annotations' checks, as users have them: there only the function's own words refuse input."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def log(tmp_path):
    return RequestLog(tmp_path / "requests.jsonl")


def filled(log):
    """Three requests, the second of them done."""
    log.append(np.array([5, 3, 5]), NOON)
    log.append(np.array([8]), NOON + datetime.timedelta(hours=1))
    log.mark_done(2, CERTIFICATE)
    log.append(np.array([3, 9]), NOON)
    return log.path.read_bytes()


def state(log):
    return [(r.id, r.indices.tolist(), r.when) for r in log.pending()], log.deleted().tolist()


def test_an_empty_log_is_no_file(log):
    assert log.pending() == [] and log.deleted().tolist() == [] and log.deleted().dtype == np.int64
    assert not log.path.exists()


def test_by_hand(log):
    assert [log.append(np.array([5, 3, 5]), NOON), log.append(np.array([8]), NOON)] == [1, 2]
    assert state(log) == ([(1, [3, 5], NOON), (2, [8], NOON)], [3, 5, 8])
    log.mark_done(1, CERTIFICATE)
    assert state(log) == ([(2, [8], NOON)], [3, 5, 8])  # done is not undone: 3 and 5 stay deleted
    assert log.append(np.array([2, 3]), NOON) == 3
    assert state(RequestLog(log.path)) == ([(2, [8], NOON), (3, [2, 3], NOON)], [2, 3, 5, 8])
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line.get("request") for line in lines] == [1, 2, None, 3]
    assert lines[2]["done"] == 1 and lines[2]["certificate_sha256"] == CERTIFICATE
    assert lines[0]["when"] == "2024-05-01T12:00:00+00:00"


def test_nothing_written_is_ever_written_again(log):
    before = b""
    for step in range(4):
        log.append(np.array([step]), NOON)
        content = log.path.read_bytes()
        assert content.startswith(before) and len(content) > len(before)
        before = content


def test_a_last_line_cut_anywhere_is_ignored_and_repaired(log):
    content = filled(log)
    whole = content[: content[:-1].rfind(b"\n") + 1]
    log.path.write_bytes(whole)
    expected = state(log)
    for length in range(len(whole) + 1, len(content)):
        log.path.write_bytes(content[:length])
        assert state(log) == expected
        assert log.append(np.array([3, 9]), NOON) == 3  # the number was never given away
        assert log.path.read_bytes() == content
    log.path.write_bytes(whole + b"\0" * 50)  # as some file systems leave it
    log.mark_done(1, CERTIFICATE)
    assert log.path.read_bytes().startswith(whole) and b"\0" not in log.path.read_bytes()
    assert log.pending() == []


def test_every_other_damage_is_found(log):
    content = filled(log)
    lines = content.splitlines(keepends=True)
    last_newline = len(content) - 1
    damaged = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(last_newline)]
    damaged += [b"".join(lines[:i] + lines[i + 1 :]) for i in range(3)]  # lost
    damaged += [
        b"".join([lines[1], lines[0], *lines[2:]]),
        b"\n" + content,
        content + b"\n",
        content + lines[0],
    ]
    damaged += [content + b"null\n", content + b'{"sha256":1}\n', content + b"[" * 5000 + b"\n"]
    for text in damaged:
        log.path.write_bytes(text)
        for act in (log.pending, log.deleted, lambda: log.append(np.array([1]), NOON)):
            with pytest.raises(InputError, match=r"requests\.jsonl is damaged in line \d"):
                act()
        assert log.path.read_bytes() == text


def test_the_damaged_line_is_named(log):
    lines = filled(log).splitlines(keepends=True)
    log.path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"2", b"1", 1), lines[3]]))
    with pytest.raises(InputError, match="damaged in line 3"):
        log.pending()


def test_a_line_and_its_folder_reach_the_disk_before_the_call_returns(log, monkeypatch):
    done = []
    monkeypatch.setattr(
        requests.os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}"))
    )
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("names of open files are known on Linux only")
    log.append(np.array([1]), NOON)
    assert done == [str(log.path), str(log.path.parent)]


def test_a_full_disk_leaves_nothing_behind(log, monkeypatch):
    content = filled(log)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(requests.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        log.append(np.array([1]), NOON)
    assert log.path.read_bytes() == content


# In programs of their own: a fork of this one, with JAX's threads, may never come back.
APPEND_MANY = """
import datetime, pathlib, sys
import numpy as np
from mu_jax.unlearning.sisa.requests import RequestLog
process = int(sys.argv[2])
for i in range(15):
    indices = np.array([process * 1000 + i] * 3 + list(range(5000, 6500)))
    RequestLog(pathlib.Path(sys.argv[1])).append(indices, datetime.datetime.now(datetime.UTC))
"""


def test_two_processes_never_interleave(log):
    writers = [subprocess.Popen([sys.executable, "-c", APPEND_MANY, str(log.path), str(p)]) for p in range(3)]
    while any(writer.poll() is None for writer in writers):
        log.pending()  # reads what is whole, also in the middle of it
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    pending = log.pending()
    assert [request.id for request in pending] == list(range(1, 46))
    first = [int(request.indices[0]) for request in pending]
    assert sorted(first) == sorted(p * 1000 + i for p in range(3) for i in range(15))
    assert all(request.indices.size == 1501 for request in pending)


def test_bad_input(log, unchecked):
    content = filled(log)
    for bad in (np.array([], int), np.array([-1]), np.array([1.0]), np.array([[1]]), np.ones(3, bool)):
        with pytest.raises(InputError, match="expected at least one position"):
            log.append(bad, NOON)
    with pytest.raises(InputError, match="a time with its zone"):
        log.append(np.array([1]), datetime.datetime(2024, 5, 1))
    for bad in (0, 4):
        with pytest.raises(InputError, match=rf"Request {bad} is not in the log .* \[1, 3\]"):
            log.mark_done(bad, CERTIFICATE)
    with pytest.raises(InputError, match="Request 2 is done already"):
        log.mark_done(2, CERTIFICATE)
    for bad in ("", "AB" * 32, "ab" * 31, CERTIFICATE + "\n"):
        with pytest.raises(InputError, match="64 hexadecimal digits"):
            log.mark_done(1, bad)
    assert log.path.read_bytes() == content


def test_files_that_cannot_be_read_or_written(tmp_path):
    log = RequestLog(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        log.pending()
    with pytest.raises(InputError, match="so the request is not logged"):
        log.append(np.array([1]), NOON)
    with pytest.raises(InputError, match="so the request is not logged"):
        RequestLog(tmp_path / "absent" / "requests.jsonl").append(np.array([1]), NOON)
