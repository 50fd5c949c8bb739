"""The orchestrator's handle of a worker process."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from mu_jax.config import InputError

_SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
_LAST_LINES = 8


class WorkerDied(RuntimeError):
    """A worker ended before it answered; the message has its last words."""


class Worker:
    """A process that answers one request at a time, and does nothing in between."""

    def __init__(self, name: str, python: str, module: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.idle_cpu_seconds = 0.0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the process
        inherited = os.environ.get("PYTHONPATH")
        search = [str(_SCRIPTS), str(_SCRIPTS.parent), *([inherited] if inherited else [])]
        try:
            self._process = subprocess.Popen(
                [python, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(search)} | dict(environment),
            )
        except OSError as error:
            raise InputError(
                f"The interpreter of the {name} worker is {python!r}, which does not start "
                f"({error.strerror}); expected the path of a Python, correct it."
            ) from None

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request; InputError where the request is to blame, WorkerDied without an answer."""
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise WorkerDied(self._last_words(do, line)) from None
        if "input_error" in answer:
            raise InputError(answer["input_error"])
        self.idle_cpu_seconds += answer.get("idle_cpu_seconds", 0.0)
        return answer

    def close(self) -> None:
        """Ends the process: it stops at the end of its input, or is killed when it does not."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def _last_words(self, request: str, line: str) -> str:
        if line:
            self._process.kill()
        code = self._process.wait()
        how = f"with exit code {code}"
        if code < 0:
            how = f"by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL and not line:
                how += " (a lack of memory is the usual cause)"
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        if line:
            return f"The {self.name} worker answered {line.strip()!r} to {request!r}, which is no JSON."
        words = "\n".join(["its last lines were:", *said]) if said else "it said nothing."
        return f"The {self.name} worker died {how} at the request {request!r}; {words}"
