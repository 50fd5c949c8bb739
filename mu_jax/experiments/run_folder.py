"""A run folder: config, metrics, checkpoints and results of one experiment, safe to kill and to start again."""

import fcntl
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from mu_jax.config import InputError, first_difference
from mu_jax.experiments.files import write_json
from mu_jax.training.checkpoints import Checkpoints

_PACKAGES = ("mu-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")


def finished_results(workdir: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of a finished run of this config, or None where there is work to do.

    A folder made by another config is an InputError that names the first key that differs. Nothing is written.
    """
    if not workdir.exists():
        return None
    if not workdir.is_dir():
        raise InputError(f"--workdir is {workdir}, a file, but expected a folder; choose another one.")
    saved = _read_json(workdir / "config.json")
    if saved is None:
        if any(path.name != ".lock" for path in workdir.iterdir()):
            raise InputError(
                f"--workdir {workdir} is not empty and holds no config.json; choose a new or empty folder."
            )
        return None
    difference = first_difference(saved["config"], config)
    if difference:
        raise InputError(
            f"{workdir} holds a run of another config: {difference}; choose another --workdir, or set it back."
        )
    return _read_json(workdir / "results.json")


def _read_json(path: pathlib.Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); choose another --workdir.") from None


class RunFolder:
    """An open run folder, locked against a second run; use it in a `with` block."""

    def __init__(
        self,
        workdir: pathlib.Path,
        config: Mapping[str, Any],
        *,
        inputs: Mapping[str, str],
        overrides: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> None:
        """`inputs` are fingerprints of what was read from outside: a resumed run must read the same.

        `overrides` (what flags changed) and `extra` are recorded and never compared.
        """
        self.path = pathlib.Path(workdir).absolute()
        self._config, self._inputs = dict(config), dict(inputs)
        self._record = {"overrides": dict(overrides), **extra}

    def __enter__(self) -> "RunFolder":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")  # held open for the whole run
        except OSError as error:
            raise InputError(
                f"--workdir {self.path} cannot be written ({error.strerror}); choose a folder you may write to."
            ) from None
        try:
            # Of the process, so that a kill releases it.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(
                f"Another run is at work in {self.path}; wait for it, or choose another --workdir."
            ) from None
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _open(self) -> None:
        saved = _read_json(self.path / "config.json")
        if saved is None:
            write_json(
                self.path / "config.json",
                {
                    "config": self._config,
                    "inputs": self._inputs,
                    **self._record,
                    "versions": versions(),
                    "git": git_revision(),
                    "devices": [f"{device.platform}: {device.device_kind}" for device in jax.local_devices()],
                },
            )
            return
        difference = first_difference(saved["config"], self._config)
        if not difference:
            difference = first_difference(saved["inputs"], self._inputs, prefix="the content of ")
        if difference:
            raise InputError(
                f"{self.path} holds a run of another config: {difference}; choose another --workdir, or set it back."
            )

    def checkpoints(self, model: str) -> Checkpoints:
        """Where a model's checkpoints live."""
        return Checkpoints(self.path / "checkpoints" / model)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a last line cut short by a kill is not one."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]

    def cut_metrics(self, model: str, step: int) -> list[dict[str, Any]]:
        """Drop a model's lines beyond `step`, the checkpoint that its training resumes from; the lines left of it."""
        kept = [line for line in self.metrics() if line["model"] != model or line["step"] <= step]
        path = self.path / "metrics.jsonl"
        partial = path.with_name(".metrics.jsonl.partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(partial, path)
        return [line for line in kept if line["model"] == model]

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line, in one write."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Of Python and of the packages that may change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_revision() -> str:
    """Of the checkout this package runs from, with `-dirty` where it was changed; `unknown` outside one."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"
