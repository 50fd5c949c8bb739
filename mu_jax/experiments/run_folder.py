"""A run folder: config, metrics, checkpoints and results of one experiment, safe to kill and to start again."""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import jax

from mu_jax.config import InputError, first_difference
from mu_jax.data.files import write_json
from mu_jax.experiments import devices
from mu_jax.experiments.named_code import code_inputs
from mu_jax.training.checkpoints import Checkpoints

_LEFTOVERS = (
    ".config.json.*",
    ".plan.json.*",
    ".results.json.*",
    ".logits.npz.*",
    ".splits.npz.*",
    ".metrics.jsonl.*",
    ".report.html.*",
    ".images.sha256.npy.*",
    ".sharding.npz.*",
    ".neighbours.*",
    "answers/.*",
    "neighbours/.*",
    "certificates/.request_*",
)
# Longer than the first process takes to read data and compile.
_WAIT_SECONDS = 1800.0
_POLL_SECONDS = 0.2
_CLOCK_SECONDS = 2.0
# Where a process has failed: time for the others, which may still be importing or compiling, to come and see why.
_SECONDS_TO_SEE_WHY = 60.0
_PACKAGES = ("mu-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")


Comparable = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From a config to what of it a folder must share with the run that continues it."""


def _whole(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config


def finished_results(
    workdir: pathlib.Path, config: Mapping[str, Any], comparable: Comparable = _whole
) -> dict[str, Any] | None:
    """The results of a finished run of this config, or None where there is work to do.

    A folder made by another config is an InputError that names the first key that differs; `comparable` leaves out
    what may grow from run to run. Nothing is written.
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
    difference = first_difference(comparable(saved["config"]), comparable(config))
    if difference:
        raise InputError(
            f"{workdir} holds a run of another config: {difference}; choose another --workdir, or set it back."
        )
    return read_results(workdir)


def read_results(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What results.json of a run holds, or None where there is none: the run is not finished."""
    results = read_json(workdir / "results.json")
    if results is None:
        return None
    with reading_results(workdir):
        if not isinstance(results, dict) or not isinstance(results.get("experiment", ""), str):
            raise TypeError("it is of no experiment")
        for key in {"data", "model", "models", "tables", "checkpoint"} & results.keys():
            if not isinstance(results[key], dict):
                raise TypeError(f"{key} is {results[key]!r}")
    return results


@contextlib.contextmanager
def reading_results(workdir: pathlib.Path) -> Iterator[None]:
    """Where what the block reads is not in results.json, or of another type, that is an InputError."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{workdir / 'results.json'} is damaged ({reason}); remove it, and the command that made the run writes it "
            "again."
        ) from error


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds, or None where there is no such file; InputError where it cannot be read."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); choose another --workdir.") from None


def read_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What config.json of a run holds, or None where there is none."""
    saved = read_json(workdir / "config.json")
    if saved is not None and not (
        isinstance(saved, dict)
        and all(isinstance(saved.get(key), dict) for key in ("config", "inputs", "versions"))
    ):
        raise InputError(f"{workdir / 'config.json'} is not of a run of mu_jax; choose another --workdir.")
    return saved


class RunFolder:
    """An open run folder, locked against a second run; use it in a `with` block.

    Several processes of one run share it: the first one writes `config.json`, the others wait until it is theirs.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        config: Mapping[str, Any],
        *,
        inputs: Mapping[str, str],
        overrides: Mapping[str, Any],
        comparable: Comparable = _whole,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """`inputs` are fingerprints of what was read, and the lowering and backend: a resumed run must have the same.

        `overrides` (what flags changed) are recorded and never compared. Where `comparable` lets two configs differ,
        the new one takes the old one's place, and the results that stood there are removed.
        """
        self.path = pathlib.Path(workdir).absolute()
        self._config, self._inputs = dict(config), {**inputs, **code_inputs(config)}
        self._overrides, self._comparable = dict(overrides), comparable
        self._process, self._processes = process, processes
        # Less what the clocks of two hosts may differ by.
        self._began = devices.joined_at() - _CLOCK_SECONDS
        self.changed_versions: tuple[str, ...] = ()
        """Packages whose version is not the one that began this run: its bits may differ from an undisturbed run's."""

    def __enter__(self) -> "RunFolder":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # A lock a process: each keeps out a second one of its own number.
            name = ".lock" if self._process == 0 else f".lock.process_{self._process}"
            self._lock = open(self.path / name, "w")  # held open for the whole run
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
                f"--workdir {self.path} cannot be locked ({error.strerror}); choose one whose file system can."
            ) from None
        try:
            self._open() if self._process == 0 else self._join()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None and self._processes > 1:
            # Other processes, which wait for this one's work, are told.
            reason = " ".join(str(error).split()) or kind.__name__
            self._failure(self._process).write_text(f"{reason}\n")
            # JAX ends the others as soon as the first process, their coordinator, is gone.
            if self._process == 0 and isinstance(error, Exception):
                self._wait_until_all_have_failed()
        self._lock.close()

    def _wait_until_all_have_failed(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_SEE_WHY
        while len(list(self._failures())) < self._processes and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _failures(self) -> Iterator[tuple[int, str]]:
        """The processes of this start that have failed, and why."""
        for path in self.path.glob(".failed.process_*"):
            with contextlib.suppress(OSError):  # another start may be removing it
                reason = path.read_text().strip()
                if reason and path.stat().st_mtime >= self._began:  # empty: being written
                    yield int(path.name.rpartition("_")[2]), reason

    def _failure(self, process: int) -> pathlib.Path:
        return self.path / f".failed.process_{process}"

    def _open(self) -> None:
        for pattern in (
            *_LEFTOVERS,
            ".failed.process_*",
        ):  # of writes that a kill cut short, and of former failures
            for path in self.path.glob(pattern):
                path.unlink()
        saved = read_config(self.path)
        if saved is not None:
            self._compare(saved)
            if saved["config"] == self._config:
                return
            # Gone before the new config stands there: a kill in between leaves an unfinished run, not a false result.
            (self.path / "results.json").unlink(missing_ok=True)
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

    def _join(self) -> None:
        """Wait for the first process, which may refuse the folder or still be growing it."""
        self.wait_for(
            lambda: (saved := read_config(self.path)) is not None and saved["config"] == self._config,
            "config.json from the first process",
        )
        self._compare(read_config(self.path))

    def _compare(self, saved: Mapping[str, Any]) -> None:
        difference = first_difference(self._comparable(saved["config"]), self._comparable(self._config))
        if not difference:
            difference = first_difference(saved["inputs"], self._inputs)
        if difference:
            raise InputError(
                f"{self.path} holds a run of another config: {difference}; choose another --workdir, or set it back."
            )
        now = versions()
        self.changed_versions = tuple(name for name in now if saved["versions"].get(name) != now[name])

    def wait_for(
        self,
        condition: Callable[[], bool],
        what: str,
        seconds: float | None = _WAIT_SECONDS,
        poll: float = _POLL_SECONDS,
    ) -> None:
        """Return when `condition()` holds, asking again and again; InputError after `seconds` (None: never).

        Processes meet in files alone: a barrier of the devices would time out while another one still trains.
        """
        began = time.monotonic()
        while not condition():
            for process, reason in self._failures():
                if process != self._process:
                    raise InputError(f"Process {process} of this run has failed: {reason}")
            if seconds is not None and time.monotonic() - began > seconds:
                raise InputError(
                    f"Process {self._process} waited {seconds:.0f} seconds in {self.path} for {what}; start all "
                    "processes with the same command, on a folder that they share."
                )
            time.sleep(poll)

    def say_changed_versions(self, say: Callable[[str], None]) -> None:
        """One line where packages are not those that began this run."""
        if self.changed_versions:
            say(
                f"begun under other versions of {', '.join(self.changed_versions)}: the result may differ in bits from "
                "that of an undisturbed run"
            )

    def forget_config(self) -> None:
        """Leave a folder without work in it as if it had not been begun: for settings found to be impossible."""
        (self.path / "config.json").unlink(missing_ok=True)

    def checkpoints(self, model: str) -> Checkpoints:
        """Where a model's checkpoints live."""
        return Checkpoints(self.path / "checkpoints" / model)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl, and of other processes' files; a last line cut short by a kill is not one."""
        others = sorted(self.path.glob("metrics.process_*.jsonl"))
        return [line for path in (self.path / "metrics.jsonl", *others) for line in _lines(path)]

    def cut_metrics(self, model: str, step: int) -> list[dict[str, Any]]:
        """Drop a model's lines beyond `step`, the checkpoint that its training resumes from; the lines left of it."""
        kept = self.keep_metrics(lambda line: line["model"] != model or line["step"] <= step)
        return [line for line in kept if line["model"] == model]

    def keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Drop this process's lines that are not to be kept; those that are."""
        try:
            kept = [line for line in _lines(self._metrics_file) if keep(line)]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self._metrics_file} is damaged ({type(error).__name__}: {error}); remove its bad line, or choose "
                "another --workdir."
            ) from None
        partial = self._metrics_file.with_name(f".{self._metrics_file.name}.partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(partial, self._metrics_file)
        return kept

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line, in one write."""
        with open(self._metrics_file, "a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    @property
    def _metrics_file(self) -> pathlib.Path:
        # Not one file for all: appending is atomic on few network file systems.
        name = f"metrics.process_{self._process}.jsonl" if self._process else "metrics.jsonl"
        return self.path / name


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        for number, line in enumerate(lines, 1):
            if not isinstance(line, dict):
                raise ValueError(f"line {number} is {line!r}")
        return lines
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{path} is damaged ({error}); remove its bad line, or choose another --workdir."
        ) from None


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
