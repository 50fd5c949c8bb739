"""Every comparison with PyTorch, in one command and on one page.

    python scripts/benchmark.py --data=npz:cifar10.npz --torch-python=PATH/OF/PYTHON/WITH/PYTORCH

runs the `bench_*` scripts as processes of their own, one after another, and writes `benchmark.html`, `benchmark.json`
and `benchmark.png` into `--workdir`. `--cases` picks rows by name (`scripts/benchmarks/suite.py` has them). The last
lines that it prints are one a row: ours, PyTorch's, and ours ÷ PyTorch, above 1 where ours is the faster, with the
target and whether it is met.

`--rounds`, `--seconds`, `--torch`, `--torch-python` and `--data` are handed to the scripts that know them; without them
each has its own. What is measured stays in the folder: the same command again measures what is missing, what has
failed, and what was measured by other flags, versions or on another device, but not what only the code would change,
for which there is `--again`. A script that fails costs its own row, which then says why; the exit code is 1 in the end.

`--smoke` has the smallest sizes that run, PyTorch's eager forms alone, one round, and programs compiled without XLA's
dearest passes and kept in the folder: a test of all scripts in a few minutes, whose figures say nothing about speed.
"""

import os
import pathlib
import sys
from typing import Any

from absl import flags

from benchmarks import shell
from benchmarks.rows import write_rows
from benchmarks.suite import chosen_rows
from benchmarks.suite_page import write_page
from benchmarks.suite_reading import Reading, as_row, read
from benchmarks.suite_run import Outcome, Settings, measure_rows
from benchmarks.suite_table import lines, remarks, verdict
from mu_jax.config import DataConfig, InputError
from mu_jax.data import load_dataset

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The folder of rows, logs and the page; by default runs/benchmark, or runs/benchmark_smoke.",
)
_DATA = flags.DEFINE_string(
    "data", None, "Images of 32×32×3: npz:FILE or another data.source; by default synthetic ones."
)
_SMOKE = flags.DEFINE_bool("smoke", False, "The smallest sizes that run.")
_AGAIN = flags.DEFINE_bool("again", False, "Measure also what is in the folder already.")
_QUICK_XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_SHAPE, _LEAST = (32, 32, 3), 2048


def main() -> None:
    """Measures the rows, writes the page, prints a line a row."""
    rows = chosen_rows(shell.CASES.value)
    if _DATA.value is not None:
        _check_data(_DATA.value)
    folder = pathlib.Path(_WORKDIR.value or f"runs/benchmark{'_smoke' if _SMOKE.value else ''}")
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        folder,
        smoke=_SMOKE.value,
        rounds=_given("rounds"),
        seconds=_given("seconds"),
        torch=_given("torch"),
        torch_python=_given("torch-python"),
        data=_DATA.value,
        environment=_quick_variables(folder) if _SMOKE.value else {},
    )

    def write(outcomes: list[Outcome]) -> list[Reading]:
        readings = [read(outcome) for outcome in outcomes]
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), [as_row(reading) for reading in readings])
        write_page(folder, readings, _command(), _SMOKE.value)
        return readings

    readings = write(measure_rows(rows, settings, again=_AGAIN.value, say=say, changed=write))
    say(f"{folder / 'benchmark.html'}")
    print("\n".join([verdict(readings), *remarks(readings)]))
    print(f"\n{lines(readings)}", flush=True)
    if any(reading.failure for reading in readings):
        sys.exit(1)


def say(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


def _given(name: str) -> Any:
    """A shared flag's value, or None where the command does not have it."""
    return flags.FLAGS[name].value if flags.FLAGS[name].present else None


def _quick_variables(folder: pathlib.Path) -> dict[str, str]:
    """JAX compiles fast, if badly, and each program of several scripts but once; PyTorch's threads do not spin.

    Where other programs hold a core, threads that spin make tiny operations a hundred times slower.
    """
    return {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_QUICK_XLA}".strip(),
        "JAX_COMPILATION_CACHE_DIR": str((folder / "compiled").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _command() -> dict[str, str]:
    """The flags that were given, for the page."""
    names = ("cases", "rounds", "seconds", "torch", "torch-python", "data", "smoke")
    given = {name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].present}
    return {name: str(value) for name, value in given.items()} or {"flags": "none"}


def _check_data(source: str) -> None:
    """InputError unless every script could read the source: otherwise half of the rows would fail, one by one."""
    dataset = load_dataset(DataConfig(source=source), 0)
    got, number = "×".join(map(str, dataset.image_shape)), len(dataset.y_train)
    if dataset.image_shape != _SHAPE or number < _LEAST:
        raise InputError(
            f"--data is {source!r}, with {number} training images of {got}, but expected at least {_LEAST} of "
            f"{'×'.join(map(str, _SHAPE))}; give another source, or leave it out for synthetic images."
        )


if __name__ == "__main__":
    shell.run(main)
