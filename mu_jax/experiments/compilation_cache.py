"""Compiled programs, kept from run to run in a private folder: `~/.cache/mu_jax/jax`, or under $XDG_CACHE_HOME.

JAX has a compilation cache; what it leaves to its user is done here.

- It trusts what lies in the folder, which is machine code: the folder is this user's, and nobody else may write to it.
- It writes files in place, so that a second process may read half of one: each process at work has a folder of its own
  (`0`, `1`, … whichever is free), and what was being written when a process was killed is removed by the next.
- Its key does not know the machine: a folder a kind of CPU, number of cores and of XLA's threads (`machine_name`).
  XLA compiles for the CPU's features, and shares operations out by the cores.
- Its own bound on the size rereads the whole folder at each write, and breaks where a kill fell between two files: here
  the least recently used files go, once, at a run's start.

`JAX_COMPILATION_CACHE_DIR=DIR` puts the cache elsewhere, by JAX's own rules, and `JAX_ENABLE_COMPILATION_CACHE=0` turns
it off.
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import pathlib
import platform
import stat
from collections.abc import Callable, Mapping

import jax

from mu_jax.training.cpu_threads import pool_threads, usable_cores

MAX_BYTES = 2**30
"""Of all folders of a user together."""
MIN_COMPILE_SECONDS = 0.0
"""Quicker programs are not kept. There are hundreds of the quickest, and reading one is faster than compiling it."""

_CPU_FACTS = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),  # ARM
)
_OPEN = b"open"
# A kill leaves at most the file half written that was being written; several threads may have been at it.
_LAST_SECONDS = 1.0


def use_compilation_cache(say: Callable[[str], None], environment: Mapping[str, str] = os.environ) -> None:
    """Let JAX keep what it compiles; before its first program.

    Does nothing where `environment` or `jax.config` says already what JAX is to do. A folder that cannot be used, or
    that others could write to, is told to `say` in one sentence, and the process goes on without.
    """
    decided = "JAX_COMPILATION_CACHE_DIR" in environment or jax.config.jax_compilation_cache_dir
    if decided or not jax.config.jax_enable_compilation_cache:
        return
    try:
        root = cache_root(environment)
        folder = _open_folder(root, machine_name())
        prune(root, MAX_BYTES)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        say(
            f"Compiled programs are not kept ({error}); correct it, or name a folder by JAX_COMPILATION_CACHE_DIR."
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in environment:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def cache_root(environment: Mapping[str, str]) -> pathlib.Path:
    """Where this user's compiled programs lie, of all machines."""
    given = pathlib.Path(environment.get("XDG_CACHE_HOME", ""))
    # The XDG specification wants a relative path ignored.
    base = given if given.is_absolute() else pathlib.Path.home() / ".cache"
    return base / "mu_jax" / "jax"


def machine_name(cpuinfo: str | None = None) -> str:
    """A name that differs where a program compiled for the CPU could fail or be another one.

    `cpuinfo` is the text of Linux's /proc/cpuinfo, of which the first processor counts; None reads it.
    """
    if cpuinfo is None:
        path = pathlib.Path("/proc/cpuinfo")
        cpuinfo = path.read_text(errors="replace") if path.exists() else platform.processor()
    lines = (line.partition(":") for line in cpuinfo.strip().partition("\n\n")[0].splitlines())
    facts = {name.strip(): " ".join(sorted(value.split())) for name, _, value in lines}
    kept = [f"{name}={facts[name]}" for name in _CPU_FACTS if name in facts] or [cpuinfo]
    text = "\n".join([platform.system(), *kept, f"cores={usable_cores()}", f"threads={pool_threads()}"])
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def prune(root: pathlib.Path, max_bytes: int) -> None:
    """Remove the least recently used files under `root` until no more than `max_bytes` are left."""
    files = []
    for path in root.rglob("*"):
        # Another process may be pruning too.
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode) and path.name != ".lock":
                # Linux notes a read at most once a day where it mounts with `relatime`: exact enough.
                files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    size = sum(bytes_ for _, bytes_, _ in files)
    for _, bytes_, path in sorted(files):
        if size <= max_bytes:
            return
        path.unlink(missing_ok=True)
        size -= bytes_


def _open_folder(root: pathlib.Path, machine: str) -> pathlib.Path:
    """The first folder of the machine that no other process uses, this process's from now on; OSError without one."""
    root.parent.mkdir(parents=True, exist_ok=True)
    _make_private(root)
    _make_private(root / machine)
    number = 0
    while True:
        folder = root / machine / str(number)
        _make_private(folder)
        # Never closed: the lock is held until the process ends, however it ends.
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            number += 1
            continue
        if os.read(lock, len(_OPEN)) == _OPEN:
            _remove_half_written(folder)
        os.pwrite(lock, _OPEN, 0)
        atexit.register(os.ftruncate, lock, 0)
        return folder


def _make_private(folder: pathlib.Path) -> None:
    """Make the folder, or check that it is this user's and nobody else may write to it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user, who could make this process run anything")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others may write to {folder}, which `chmod 700` makes private")
    # What is there may be read-only, and JAX would say so once a program.
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to")


def _remove_half_written(folder: pathlib.Path) -> None:
    """After a kill: the files of the last second before it."""
    written = {
        path: path.stat().st_mtime for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }
    for path, when in written.items():
        if when >= max(written.values()) - _LAST_SECONDS:
            path.unlink()
