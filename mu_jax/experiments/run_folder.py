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

_LEFTOVERS = (
    ".config.json.*",
    ".results.json.*",
    ".logits.npz.*",
    ".splits.npz.*",
    ".metrics.jsonl.*",
    ".report.html.*",
)
_PACKAGES = ("mu-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")


def finished_results(workdir: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of a finished run of this config, or None where there is work to do.

    A folder made by another config is an InputError that names the first key that differs. Nothing is written.
    """
    try:
        if not workdir.exists():
            return None
        if not workdir.is_dir():
            raise InputError(f"--workdir is {workdir}, a file, but expected a folder; choose another one.")
        # A run killed at its very start leaves hidden files of its own and no config.json.
        strangers = [path for path in workdir.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"--workdir {workdir} cannot be read ({error.strerror}); choose another folder."
        ) from None
    saved = read_config(workdir)
    if saved is None:
        if strangers:
            raise InputError(
                f"--workdir {workdir} is not empty and holds no config.json; choose a new or empty folder."
            )
        return None
    difference = first_difference(saved["config"], config)
    if difference:
        raise InputError(
            f"{workdir} holds a run of another config: {difference}; choose another --workdir, or set it back."
        )
    return read_json(workdir / "results.json")


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds, or None where there is no such file; InputError where it cannot be read."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); choose another --workdir.") from None


def read_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What config.json of a run holds, or None where there is none."""
    saved = read_json(workdir / "config.json")
    if saved is not None and not (
        isinstance(saved, dict) and {"config", "inputs", "versions"} <= saved.keys()
    ):
        raise InputError(f"{workdir / 'config.json'} is not of a run of mu_jax; choose another --workdir.")
    return saved


class RunFolder:
    """An open run folder, locked against a second run; use it in a `with` block."""

    def __init__(
        self,
        workdir: pathlib.Path,
        config: Mapping[str, Any],
        *,
        inputs: Mapping[str, str],
        overrides: Mapping[str, Any],
    ) -> None:
        """`inputs` are fingerprints of what was read, and the lowering and backend: a resumed run must have the same.

        `overrides` (what flags changed) are recorded and never compared.
        """
        self.path = pathlib.Path(workdir).absolute()
        self._config, self._inputs = dict(config), dict(inputs)
        self._overrides = dict(overrides)
        self.changed_versions: tuple[str, ...] = ()
        """Packages whose version is not the one that began this run: its bits may differ from an undisturbed run's."""

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
        except BlockingIOError:
            self._lock.close()
            raise InputError(
                f"Another run is at work in {self.path}; wait for it, or choose another --workdir."
            ) from None
        except OSError as error:
            self._lock.close()
            raise InputError(
                f"--workdir {self.path} cannot be locked ({error.strerror}); choose a folder on a local disk."
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
        for pattern in _LEFTOVERS:  # of writes that a kill cut short
            for path in self.path.glob(pattern):
                path.unlink()
        saved = read_config(self.path)
        if saved is None:
            write_json(
                self.path / "config.json",
                {
                    "config": self._config,
                    "inputs": self._inputs,
                    "overrides": self._overrides,
                    "versions": versions(),
                    "git": git_revision(),
                    "devices": [f"{device.platform}: {device.device_kind}" for device in jax.local_devices()],
                },
            )
            return
        difference = first_difference(saved["config"], self._config)
        if not difference:
            difference = first_difference(saved["inputs"], self._inputs)
        if difference:
            raise InputError(
                f"{self.path} holds a run of another config: {difference}; choose another --workdir, or set it back."
            )
        now = versions()
        self.changed_versions = tuple(name for name in now if saved["versions"].get(name) != now[name])

    def checkpoints(self, model: str) -> Checkpoints:
        """Where a model's checkpoints live."""
        return Checkpoints(self.path / "checkpoints" / model)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a last line cut short by a kill is not one."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        except ValueError as error:
            raise InputError(
                f"{path} is damaged ({error}); remove its bad line, or choose another --workdir."
            ) from None

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
    here = pathlib.Path(__file__)
    # A package installed inside somebody's checkout is not a part of it.
    tracked = ["git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name]
    command = ["git", "-C", str(here.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        subprocess.run(tracked, capture_output=True, timeout=10, check=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"
