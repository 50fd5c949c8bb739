"""Runs the scripts of the one benchmark as processes, one after another, and keeps each row as it is measured."""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import machine
from benchmarks.rows import write_rows
from benchmarks.suite import SCRIPTS, Row

_SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
_LONGEST_REASON = 400


@dataclasses.dataclass(frozen=True)
class Settings:
    """What of the command's flags the scripts are told; None leaves a flag to the script."""

    folder: pathlib.Path
    smoke: bool = False
    rounds: int | None = None
    seconds: float | None = None
    torch: str | None = None
    torch_python: str | None = None
    data: str | None = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Variables that the scripts' processes have besides."""
    scripts: pathlib.Path = _SCRIPTS


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a row: the script's own row, or one sentence why there is none."""

    row: Row
    measured: dict[str, Any] | None
    failure: str | None = None
    kept: bool = False
    """Whether it was measured by an earlier call."""


def flags_of(row: Row, settings: Settings) -> list[str]:
    """The flags that the row's script gets, but for `--cases`, `--json` and `--workdir`."""
    script, size = SCRIPTS[row.script], row.size(settings.smoke)
    flags = [*size.flags, *(script.smoke if settings.smoke else ())]
    for name, value in (
        ("rounds", settings.rounds),
        ("seconds", settings.seconds),
        ("torch", settings.torch),
        ("torch-python", settings.torch_python),
    ):
        if value is not None and name in script.shared:
            # A flag given twice counts as it stands last.
            flags.append(f"--{name}={value:g}" if isinstance(value, float) else f"--{name}={value}")
    if settings.data is not None and script.data is not None:
        flags.append(f"--{script.data}={settings.data}")
    return flags


def key_of(row: Row, settings: Settings) -> dict[str, Any]:
    """All that a row's figures depend on, but for the code: a kept row of another key is measured again."""
    return {
        "case": row.size(settings.smoke).case,
        "flags": flags_of(row, settings),
        "environment": dict(settings.environment),
        "device": f"{machine.cpu_name()}, {machine.usable_cores()} cores",
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
    }


def measure_rows(
    rows: Sequence[Row],
    settings: Settings,
    *,
    again: bool,
    say: Callable[[str], None],
    changed: Callable[[list[Outcome]], None] = lambda _: None,
) -> list[Outcome]:
    """The outcomes of all rows, in their order; what is not kept in the folder is measured now.

    Rows of one script and the same flags share its process. Where a script fails, the first of its rows that is
    missing has the failure, and the others are tried in a process of their own. `changed` is told the outcomes so far,
    each time that there are more.
    """
    outcomes = {} if again else {row.name: kept for row in rows if (kept := _kept(row, settings))}
    ordered = lambda: [outcomes[row.name] for row in rows if row.name in outcomes]  # noqa: E731
    for outcome in ordered():
        say(f"{outcome.row.name}: kept from before")
    pending = [row for row in rows if row.name not in outcomes]
    for _, group in itertools.groupby(pending, key=lambda row: (row.script, flags_of(row, settings))):
        left = list(group)
        while left:
            say(f"{', '.join(row.name for row in left)}: {left[0].script}")
            found, failure = _run(left, settings)
            for row in left:
                if row.name in found:
                    outcomes[row.name] = Outcome(row, found[row.name])
                    kept = {"key": key_of(row, settings), "row": found[row.name]}
                    write_rows(_path(row, settings), [kept])
            left = [row for row in left if row.name not in found]
            if left:
                outcomes[left[0].name] = Outcome(left[0], None, failure or f"{left[0].script} left it out.")
                say(f"{left[0].name}: not measured: {outcomes[left[0].name].failure}")
                left = left[1:]
            changed(ordered())
    return ordered()


def _path(row: Row, settings: Settings) -> pathlib.Path:
    return settings.folder / "rows" / f"{row.name}.json"


def _kept(row: Row, settings: Settings) -> Outcome | None:
    try:
        (stored,) = json.loads(_path(row, settings).read_text())
        same = stored["key"] == key_of(row, settings)
        return Outcome(row, stored["row"], kept=True) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run(rows: Sequence[Row], settings: Settings) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The rows that the script wrote, by name, and one sentence where it failed."""
    script, first = rows[0].script, rows[0]
    (settings.folder / "rows").mkdir(parents=True, exist_ok=True)
    logs = settings.folder / "logs"
    logs.mkdir(exist_ok=True)
    # Rows may share a case, which is then measured once.
    cases = list(dict.fromkeys(row.size(settings.smoke).case for row in rows))
    with tempfile.TemporaryDirectory() as temporary:
        file = pathlib.Path(temporary) / "rows.json"
        command = [
            sys.executable,
            str(settings.scripts / script),
            f"--cases={','.join(cases)}",
            f"--json={file}",
        ]
        command += flags_of(first, settings)
        if SCRIPTS[script].workdir:
            command.append(f"--workdir={(settings.folder / 'models').resolve()}")
        with open(logs / f"{first.name}.txt", "w") as out, open(logs / f"{first.name}.err", "w+") as errors:
            variables = os.environ | dict(settings.environment)
            done = subprocess.run(command, stdout=out, stderr=errors, env=variables, check=False)
            errors.seek(0)
            said = errors.read()
        try:
            written = json.loads(file.read_text())
        except (OSError, ValueError):
            written = []
    # A quick look's cases may be called otherwise than they were asked for (`amun_x0.05`): their order tells.
    by_case = dict(zip(cases, written, strict=False))
    names = {row.name: row.size(settings.smoke).case for row in rows}
    found = {name: by_case[case] for name, case in names.items() if case in by_case}
    return found, None if done.returncode == 0 else failure_of(script, done.returncode, said)


def failure_of(script: str, code: int, said: str) -> str:
    """Why a script ended with this code, of what it said on stderr: its own sentence, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = next((i for i, line in enumerate(lines) if line.startswith(f"{script}: ")), None)
    words = lines[-1:] if own is None else [lines[own].removeprefix(f"{script}: "), *lines[own + 1 :]]
    how = f"{script} was ended by {signal.Signals(-code).name}" if code < 0 else f"{script} ended with {code}"
    text = " ".join(" ".join(words).split())
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1] + "…"
    return f"{how}: {text}" if text else f"{how} and said nothing."
