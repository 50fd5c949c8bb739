"""The log of deletion requests: on disk before any retraining begins, and never rewritten.

One JSON line a request, and one more when it is carried out. A line carries the SHA-256 of the line before and itself,
so that a changed, lost or moved line is found instead of deleting other examples than were asked for. (Lines missing
from the end are not: nothing after them tells.)
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """One request to delete examples."""

    id: int
    """counted from 1, in the order of arrival"""
    indices: np.ndarray
    """int64[n], positions, sorted, without repeats"""
    when: datetime.datetime
    before: dict[int, str | None] = dataclasses.field(default_factory=dict)
    """of each shard that holds any: the hash of its weights as they were"""


@dataclasses.dataclass(frozen=True)
class RequestLog:
    """The requests in a file; every call reads it anew, so several processes may hold one.

    What a call logged is on disk for good once it returns. A kill leaves the whole line or none: a piece of one is not
    read, and goes when the next line is written. A call that fails, on a full disk for example, leaves none. Any other
    damage is an InputError. Needs a file system that can lock files.
    """

    path: Path

    def append(
        self,
        indices: Int[np.ndarray, "n"],
        when: datetime.datetime,
        before: Mapping[int, str | None] | None = None,
    ) -> int:
        """Log a request for the deletion of some positions, and return its number once it is on disk.

        `before` holds hashes of weights that will be gone when the request is certified, by shard. Repeats count once,
        and positions of earlier requests may be among them. InputError for no positions, negative ones, and a time
        without a time zone.
        """
        array = np.asarray(indices)
        if array.ndim != 1 or array.dtype.kind not in "iu" or array.size == 0 or array.min() < 0:
            raise InputError(
                f"indices has dtype {array.dtype} and shape {array.shape}, but expected at least one position, an "
                "integer of at least 0; for a mask of bool pass np.flatnonzero of it."
            )
        if when.tzinfo is None:
            raise InputError(
                f"when is {when}, but expected a time with its zone; use datetime.now(datetime.UTC)."
            )
        with self._appending() as (log, write):
            number = len(log.requests) + 1
            positions = np.unique(array).tolist()
            body = {"request": number, "when": when.isoformat(), "indices": positions}
            if before:
                body["before"] = {str(shard): digest for shard, digest in before.items()}
            write(body)
        return number

    def mark_done(self, id: int, certificate_sha256: str) -> None:
        """Log that a request was carried out, and the hash of the certificate that says so.

        InputError for a request that is not there or done already, and for what is no SHA-256 in hexadecimal.
        """
        if not re.fullmatch("[0-9a-f]{64}", certificate_sha256):
            raise InputError(
                f"certificate_sha256 is {certificate_sha256!r}, but expected 64 hexadecimal digits in lower case; pass "
                "hashlib.sha256(certificate).hexdigest()."
            )
        with self._appending() as (log, write):
            if not 1 <= id <= len(log.requests) or id in log.certificates:
                state = "done already" if id in log.certificates else "not in the log"
                pending = [request.id for request in log.requests if request.id not in log.certificates]
                raise InputError(
                    f"Request {id} is {state} in {self.path}, but expected one of those pending, {pending}; mark each "
                    "request once."
                )
            write({"done": int(id), "certificate_sha256": certificate_sha256})

    def pending(self) -> list[Request]:
        """The requests not carried out yet, oldest first: what to finish on the next start."""
        log = self._read()
        return [request for request in log.requests if request.id not in log.certificates]

    def requests(self) -> list[Request]:
        """All of them, oldest first."""
        return self._read().requests

    def certificates(self) -> dict[int, str]:
        """SHA-256 of the certificate of every request that was carried out."""
        return self._read().certificates

    def deleted(self) -> Int64[np.ndarray, "n"]:
        """Every position ever requested, pending or done, sorted: what no training may see again."""
        parts = [request.indices for request in self._read().requests]
        return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))

    def _read(self) -> "_Log":
        try:
            return _parse(self.path, self.path.read_bytes())
        except FileNotFoundError:
            return _parse(self.path, b"")
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}), but expected a log of deletion requests; make it "
                "readable."
            ) from error

    @contextlib.contextmanager
    def _appending(self) -> Iterator[tuple["_Log", Any]]:
        """What is logged, and a function that adds a line to it; no other process writes in between."""
        try:
            with open(self.path, "a+b", buffering=0) as file:
                # A single write may be whole, but numbering and repairing need that nobody else is half-way.
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                log = _parse(self.path, file.readall())
                yield log, lambda body: self._write(file, log, body)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written ({error.strerror}), so the request is not logged; free some space or "
                "make the file writable, and ask again."
            ) from error

    def _write(self, file: Any, log: "_Log", body: dict[str, Any]) -> None:
        text = _canonical(body)
        digest = _chained(log.digest, text)
        line = _canonical(body | {"sha256": digest}).encode() + b"\n"
        try:
            file.truncate(log.end)  # the piece of a line that a crash left
            if file.write(line) != len(line):
                raise OSError(0, "the line was written in part only")
            os.fsync(file.fileno())
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # a new file's name, too, must reach the disk
            finally:
                os.close(folder)
        except BaseException:
            # Whoever asked is told that it failed; it should not be carried out all the same.
            with contextlib.suppress(OSError):
                file.truncate(log.end)
            raise


@dataclasses.dataclass(frozen=True)
class _Log:
    requests: list[Request]
    certificates: dict[int, str]
    """of the requests that are done"""
    digest: str
    """of the last line"""
    end: int
    """bytes up to the end of the last whole line"""


def _parse(path: Path, content: bytes) -> _Log:
    """What a log says; InputError where one of its whole lines is not as it was written."""
    end = content.rfind(b"\n") + 1
    requests: list[Request] = []
    certificates: dict[int, str] = {}
    digest = ""
    for number, line in enumerate(content[:end].split(b"\n")[:-1], 1):
        try:
            body = json.loads(line)
            found = body.pop("sha256")
            digest = _chained(digest, _canonical(body))
            if found != digest:
                raise ValueError("its hash differs")
            if "request" in body:
                when = datetime.datetime.fromisoformat(body["when"])
                before = {int(shard): digest for shard, digest in body.get("before", {}).items()}
                indices = np.array(body["indices"], np.int64)
                requests.append(Request(body["request"], indices, when, before))
            else:
                certificates[body["done"]] = body["certificate_sha256"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise InputError(
                f"{path} is damaged in line {number}, or a line before it is missing, but expected the lines that "
                "RequestLog wrote; restore the file from a backup, because a deletion that was asked for may be lost."
            ) from None
    return _Log(requests, certificates, digest, end)


def _chained(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
