"""Seconds from the command to the first step of training, beside a plain PyTorch script.

    python scripts/bench_start.py --cases=quickstart_w16 --json=start.json

| case | |
|---|---|
| `quickstart_wWIDTH` | `configs/quickstart.py`: one ResNet-18 of this width on 8×8 digits |
| `sweep_wWIDTH` | `configs/shadow_sweep.py:smoke`: 16 of them side by side |

A round starts every form once, each a process of its own, from the start of the interpreter. Ours is
`python -m mu_jax.main` with chunks of one step, until the step's line stands in `metrics.jsonl`; PyTorch's is a script
of one model (`benchmarks/torch_start.py`), until the step's loss is on the host. What was read from disk before is in
the machine's memory for all of them.

Ours: `without a cache`; `cold`, the cache on and empty; `warm`, after another run of the same command. PyTorch's:
eager; with `--torch=all` also `torch.compile`, cold and warm (its own cache). `ratio` is eager PyTorch's seconds over
ours, warm: above 1 ours is sooner. Apart from the rounds, one run of `cold` and of `warm` keeps an account of itself
(`benchmarks/start_watch.py`), which the second table shows: parts add up to the whole; tracing, lowering and compiling
(or reading a compiled program) are those of all programs; the rest is files, other Python and the step.
"""

import json
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.measured_on import device_line
from benchmarks.rows import write_rows
from benchmarks.start_breakdown import breakdown
from benchmarks.start_case import BEGAN, FIRST_STEP, StartCase
from benchmarks.start_names import parse_cases
from benchmarks.start_process import Start, environment, until_first_step
from benchmarks.start_table import case_lines, summary
from benchmarks.worker_process import WorkerDied

WITHOUT, COLD, WARM = "without a cache", "cold", "warm"
EAGER, COMPILED_COLD, COMPILED_WARM = "PyTorch eager", "PyTorch compiled, cold", "PyTorch compiled, warm"
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    rows = []
    for case in parse_cases(shell.CASES.value):
        say(f"{case.name}:")
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_measure_case(case, pathlib.Path(folder)))
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _measure_case(case: StartCase, folder: pathlib.Path) -> dict[str, Any]:
    """The case's row."""
    commands = _Commands(case, folder)
    torch, missing = _torch_forms(commands)
    # The account of the cold run fills the cache of the warm ones.
    accounts = {form: commands.account(form) for form in (COLD, WARM)}
    facts = {"JAX": accounts[WARM][1]}
    starts: dict[str, list[Start]] = {form: [] for form in (WITHOUT, COLD, WARM, *torch)}
    for turn in range(shell.ROUNDS.value):
        for form, done in starts.items():
            done.append(commands.start(form))
        say(f"round {turn + 1} of {shell.ROUNDS.value}")
    if torch:
        version = starts[EAGER][0].said.split()[-1]
        facts["PyTorch"] = {"versions": {"torch": version}}
    forms = {
        form: {
            "seconds": round(statistics.median(one.seconds for one in done), 3),
            "rounds": [round(one.seconds, 3) for one in done],
            "others_share": round(max(one.others_share for one in done), 3),
        }
        for form, done in starts.items()
    }
    parts = {form: account[0] for form, account in accounts.items()}
    print(f"\n{case.name}\n{case_lines(forms, parts)}", flush=True)
    if missing:
        print(f"PyTorch: {missing}", flush=True)
    ours, theirs = forms[WARM]["seconds"], forms[EAGER]["seconds"] if torch else None
    return {
        "case": case.name,
        "ours": ours,
        "torch": theirs,
        "ratio": theirs and round(theirs / ours, 3),
        "unit": "s",
        "device": device_line(facts),
        "details": {
            "forms": forms,
            "breakdown": parts,
            "cache": commands.cache_facts(),
            "torch_missing": missing,
            "environment": machine.environment(_ENVIRONMENT),
        },
    }


def _torch_forms(commands: "_Commands") -> tuple[tuple[str, ...], str | None]:
    """PyTorch's forms, or none and why; what is compiled has been so once."""
    if shell.TORCH.value == "none":
        return (), "left out"
    try:
        commands.start(EAGER)
    except WorkerDied as death:
        if "No module named 'torch'" not in str(death):
            raise
        return (), "not installed"
    if shell.TORCH.value == "eager":
        return (EAGER,), None
    commands.start(COMPILED_WARM)
    return (EAGER, COMPILED_COLD, COMPILED_WARM), None


class _Commands:
    """The forms of a case as commands, with what they keep in a folder."""

    def __init__(self, case: StartCase, folder: pathlib.Path) -> None:
        self._case, self._folder, self._count = case, folder, 0

    def start(self, form: str) -> Start:
        """One start; what is cold finds an empty folder."""
        if form in (WITHOUT, COLD, WARM):
            return self._start_ours(form, ["-m", "mu_jax.main"], {})
        execution = "eager" if form == EAGER else "compiled"
        command = [shell.TORCH_PYTHON.value, "-m", "benchmarks.torch_start", str(self._case.width), execution]
        cache = {
            "TORCHINDUCTOR_CACHE_DIR": str(
                self._new("torch") if form == COMPILED_COLD else self._kept("torch")
            )
        }
        return until_first_step(form, command, environment(cache), lambda said: FIRST_STEP in said)

    def account(self, form: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """(where the seconds of one start went, what it ran on); a cold one fills the cache of the warm ones."""
        file = self._folder / f"account_{form}.json"
        watch = ["-m", "benchmarks.start_watch", str(file)]
        start = self._start_ours(form, watch, {BEGAN: repr(time.time())}, keep=True)
        found = json.loads(file.read_text())
        return breakdown(found, start.ended), found

    def cache_facts(self) -> dict[str, int]:
        """How many programs the cache of the warm runs has, and how many bytes."""
        sizes = [path.stat().st_size for path in self._kept("cache").rglob("*-cache")]
        return {"programs": len(sizes), "bytes": sum(sizes)}

    def _start_ours(self, form: str, program: list[str], more: dict[str, str], keep: bool = False) -> Start:
        workdir = self._new("run")
        cache = self._new("cache") if form == COLD and not keep else self._kept("cache")
        changes = {"XDG_CACHE_HOME": str(cache), **more}
        if form == WITHOUT:
            changes["JAX_ENABLE_COMPILATION_CACHE"] = "0"
        command = [sys.executable, *program, *self._case.arguments, f"--workdir={workdir}"]
        metrics = workdir / "metrics.jsonl"

        def stepped(said: str) -> bool:
            return metrics.exists() and metrics.read_bytes().endswith(b"\n")

        return until_first_step(form, command, environment(changes), stepped)

    def _kept(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}_kept"

    def _new(self, name: str) -> pathlib.Path:
        self._count += 1
        return self._folder / f"{name}_{self._count}"


if __name__ == "__main__":
    flags.set_default(shell.ROUNDS, 5)
    shell.run(main)
