"""Checkpoints: the one place that knows Orbax. Arrays only, each write whole or absent."""

import contextlib
import gc
import logging
import pathlib
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from mu_jax.config import InputError

PyTree = Any

_NAME = re.compile(r"step_(\d{9})")


class Checkpoints:
    """The checkpoints of one model, in a folder of their own; only the newest is kept."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = pathlib.Path(directory).absolute()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None where there is none."""
        if not self.directory.is_dir():
            return None
        names = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return max((int(name[1]) for name in names if name), default=None)

    def save(self, step: int, state: PyTree) -> None:
        """Write `state` as the newest checkpoint. A kill at any moment leaves the previous one or this one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        partial, final = self.directory / "partial", self._path(step)
        for leftover in self.directory.glob("partial*"):
            shutil.rmtree(leftover)
        # Host arrays, so that a checkpoint can be read on other devices than those that wrote it. A renamed folder
        # is complete: Orbax alone would leave its folders under a temporary name of its own for a moment longer.
        with _no_interrupt():
            try:
                with _of_this_process():
                    ocp.save(partial, jax.tree.map(np.asarray, _as_dict(state)))
                # A sweep that was killed before it noted a model writes its checkpoint again.
                shutil.rmtree(final, ignore_errors=True)
                partial.rename(final)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                raise InputError(
                    f"The checkpoint {final} cannot be written ({_reason(error)}); free some space and start again."
                ) from error
        self.keep_only(step)

    def keep_only(self, step: int) -> None:
        """Remove the other checkpoints, and what a kill left of writing or removing one. For the one that trains."""
        for path in self.directory.iterdir():
            older = path != self._path(step) and _NAME.fullmatch(path.name)
            if older or path.name.startswith("partial"):
                shutil.rmtree(path)

    def restore(self, step: int, like: PyTree) -> PyTree:
        """The state saved at `step`, with the structure, shapes and dtypes of `like`."""
        leaves, structure = jax.tree.flatten(like)
        wanted = _as_dict(jax.tree.unflatten(structure, [np.empty(a.shape, a.dtype) for a in leaves]))
        reason = None
        with _without_complaints():
            try:
                with _of_this_process():
                    saved = ocp.load(self._path(step), wanted)
                reason = _difference(saved, wanted)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                reason = _reason(error)
            if reason:
                gc.collect()  # its tasks, which lie in rings of references
        if reason:
            raise InputError(
                f"The checkpoint {self._path(step)} cannot be read ({reason}); delete this folder to train "
                "from the start."
            )
        return jax.tree.unflatten(structure, [jax.numpy.asarray(a) for a in jax.tree.leaves(saved)])

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f"step_{step:09d}"


def _of_this_process() -> contextlib.AbstractContextManager:
    """Orbax's setting by which a process reads and writes alone, where it would wait for all others."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    me = jax.process_index()
    return ocp.Context(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
    )


def _difference(saved: dict[str, Any], wanted: dict[str, np.ndarray]) -> str | None:
    """The first array that is not of the shape and type that was wanted, which Orbax does not mind; or None."""
    for name, array in wanted.items():
        found = saved[name]
        if np.shape(found) != array.shape or found.dtype != array.dtype:
            return f"{name} is {found.dtype}{list(np.shape(found))}, but expected {array.dtype}{list(array.shape)}"
    return None


@contextlib.contextmanager
def _without_complaints() -> Iterator[None]:
    """Silence for what Orbax's other tasks say of the failure of one, as it happens and once they are collected."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    disabled, hook = [logger.disabled for logger in loggers], sys.unraisablehook
    try:
        for logger in loggers:
            logger.disabled = True
        sys.unraisablehook = lambda _: None
        yield
    finally:
        for logger, was in zip(loggers, disabled, strict=True):
            logger.disabled = was
        sys.unraisablehook = hook


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends: Orbax's threads would go on, and complain, after an exit in between."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = []
    previous = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def _as_dict(tree: PyTree) -> dict[str, Any]:
    """Leaves by their path, in the order of the leaves: independent of the classes that made the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        f"{i:04d}{jax.tree_util.keystr(path)}".replace("/", "_"): leaf
        for i, (path, leaf) in enumerate(leaves)
    }
