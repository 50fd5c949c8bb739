"""The flags that every benchmark takes, and how it ends: bad input and dead workers in one sentence."""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from benchmarks.worker_process import WorkerDied
from mu_jax.config import InputError

CASES = flags.DEFINE_list(
    "cases", [], "Which cases, by name, or `all`; by default those of the project's table."
)
JSON = flags.DEFINE_string("json", None, "Write the rows to this file too.")
TORCH = flags.DEFINE_string("torch", "all", "PyTorch's variants: `all`, `eager` (the ratio's own) or `none`.")
TORCH_PYTHON = flags.DEFINE_string(
    "torch-python", sys.executable, "The interpreter whose PyTorch is measured; by default this one."
)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Interleaved rounds; figures are medians.")
SECONDS = flags.DEFINE_float("seconds", 1.0, "About how long one round of one variant lasts.")

_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130


def one_of(flag: str, got: str, choices: Sequence[str]) -> None:
    """InputError unless `got` is one of the choices."""
    if got not in choices:
        raise InputError(
            f"--{flag} is {got!r}, but expected {', '.join(choices[:-1])} or {choices[-1]}; change it."
        )


def check_shared_flags() -> None:
    """InputError where a shared flag's value makes no sense."""
    one_of("torch", TORCH.value, ("all", "eager", "none"))
    if not 1 <= ROUNDS.value <= 1000:
        raise InputError(f"--rounds is {ROUNDS.value}, but expected 1 to 1000; change it.")
    if not 0.01 <= SECONDS.value <= 600:
        raise InputError(f"--seconds is {SECONDS.value}, but expected 0.01 to 600; change it.")
    if JSON.value is not None and not (JSON.value and pathlib.Path(JSON.value).resolve().parent.is_dir()):
        raise InputError(
            f"--json is {JSON.value!r}, but expected a file in a folder that exists; make the folder first."
        )


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs `main`; exits with 2 after bad input, 1 after a worker's death."""
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def _guarded(main: Callable[[], None]) -> None:
    try:
        check_shared_flags()
        main()
    except InputError as error:
        _fail(error, _BAD_INPUT)
    except WorkerDied as error:
        _fail(error, _FAILED)
    except KeyboardInterrupt:
        _fail("Interrupted; --json has the cases that were done.", _INTERRUPTED)
    except OSError as error:
        _fail(f"{error}; --json has the cases that were done.", _FAILED)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        text = " ".join(str(error).split())
        _fail(f"{text if text.endswith(('.', '?')) else text + '.'} See --help.", _BAD_INPUT)
    if len(rest) > 1:
        _fail(f"{rest[1]!r} is no flag, but expected --NAME=VALUE; see --help.", _BAD_INPUT)
    return rest


def _fail(message: object, code: int) -> NoReturn:
    print(f"{pathlib.Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
