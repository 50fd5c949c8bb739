"""A command in a process of its own, until its first step."""

import dataclasses
import os
import pathlib
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks import machine
from benchmarks.worker_process import WorkerDied
from mu_jax.config import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.002
_LONGEST_SECONDS = 900.0
_SECONDS_TO_END = 30.0
_LAST_LINES = 8


@dataclasses.dataclass(frozen=True)
class Start:
    """How one command started."""

    seconds: float
    """to its first step"""
    ended: float
    """when that was, in seconds since the epoch"""
    others_share: float
    """of the cores, used by other programs until the command had ended"""
    said: str
    """on stdout"""


def until_first_step(
    name: str, command: Sequence[str], environment: Mapping[str, str], stepped: Callable[[str], bool]
) -> Start:
    """Start a command, wait until `stepped` (of its stdout), and interrupt it as Ctrl-C does.

    WorkerDied, with its last words, where it ends before, or has not come so far in a quarter of an hour.
    """
    with tempfile.TemporaryFile() as errors, tempfile.NamedTemporaryFile() as output:
        said = pathlib.Path(output.name)
        busy, own = machine.busy_cpu_seconds(), _childrens_cpu_seconds()
        # A program in the background may ignore SIGINT, and its children inherit that.
        inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
        began = time.perf_counter()
        try:
            process = subprocess.Popen(command, cwd=ROOT, env=dict(environment), stdout=output, stderr=errors)
        except OSError as error:
            raise InputError(
                f"The interpreter of {name} is {command[0]!r}, which does not start ({error.strerror}); expected the "
                "path of a Python, correct it."
            ) from None
        finally:
            signal.signal(signal.SIGINT, inherited)
        try:
            while not stepped(said.read_text()):
                # What it said and wrote before it ended counts.
                if process.poll() is not None and not stepped(said.read_text()):
                    raise WorkerDied(_last_words(name, process.returncode, errors))
                if time.perf_counter() - began > _LONGEST_SECONDS:
                    raise WorkerDied(f"{name} made no step in {_LONGEST_SECONDS:.0f} s.")
                time.sleep(_POLL_SECONDS)
            seconds, ended = time.perf_counter() - began, time.time()
        finally:
            _end(process)
        others = machine.busy_cpu_seconds() - busy - (_childrens_cpu_seconds() - own)
        share = max(0.0, others / ((time.perf_counter() - began) * machine.usable_cores()))
        return Start(seconds, ended, share, said.read_text())


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's, with the modules of the benchmarks, and without what says where programs are kept."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "JAX_ENABLE_COMPILATION", "JAX_PERSISTENT"))
    }
    search = [str(ROOT / "scripts"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(search)} | dict(changes)


def _end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _childrens_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_words(name: str, code: int, errors: "tempfile._TemporaryFileWrapper") -> str:
    errors.seek(0)
    said = errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
    words = "\n".join(["its last lines were:", *said]) if said else "it said nothing."
    return f"{name} ended with exit code {code} before its first step; {words}"
