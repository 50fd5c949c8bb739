"""The command line: `python -m mu_jax.main --config=configs/NAME.py[:VARIANT] --workdir=DIR`, or `mu-jax`.

Any setting of the config file can be overridden: `--config.train.epochs=5`. Started several times over with
`--distributed`, or with `--coordinator=HOST:PORT --processes=P --process=I`, the processes share one run's work.
"""

import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from mu_jax.config import InputError, from_config_dict
from mu_jax.config.errors import one_line
from mu_jax.config.shipped import find_config, shipped_configs

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file, with its variant after a colon: configs/quickstart.py:smoke",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of this run; the same command on it resumes.")

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "This is one of several processes, started by Slurm, Kubernetes, MPI or on a TPU pod.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "This is one of several processes: HOST:PORT on which the first of them listens."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: how many there are.")
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: which one this is, from 0.")

_QUOTES = "'\""
_SECONDS_TO_SAY_WHY = 5.0
_TOO_LARGE = (
    "The settings need more memory than there is; lower batch_size, model.width, data.train_examples or the number of "
    "models at a time, and the same command goes on."
)
_FAILED, _BAD_INPUT, _DIVERGED, _INTERRUPTED = 1, 2, 3, 130


def _warn(message: object) -> None:
    print(f"mu-jax: {message}", file=sys.stderr, flush=True)


def _fail(message: object, code: int) -> NoReturn:
    print(f"mu-jax: {one_line(message)}", file=sys.stderr, flush=True)
    if flags.FLAGS.is_parsed() and (_DISTRIBUTED.value or _COORDINATOR.value):
        # On its way out JAX would wait minutes for the other processes, which may be waiting for this one's work; and
        # it ends them, none too kindly, as soon as the first one is gone. Those that have seen why in the folder get
        # the time to say so.
        sys.stdout.flush()
        time.sleep(_SECONDS_TO_SAY_WHY)
        os._exit(code)
    sys.exit(code)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """absl's parser, with every complaint of its own and of the config file's as one sentence."""
    argv = list(argv)
    for place, start, path, variant in _config_flags(argv):
        found = find_config(path)
        # ml_collections would only say later that there is no config, and not in one sentence.
        if found is None:
            listed = ", ".join(shipped_configs())
            _fail(
                f"The config file {path!r} does not exist; give a path such as configs/quickstart.py, or the name of "
                f"one that comes with mu_jax ({listed}).",
                _BAD_INPUT,
            )
        argv[place] = start + found + variant
    try:
        rest = flags.FLAGS(argv)
    # ml_collections reports an unknown key, and a value of the wrong type, by Python's own error types; a config file
    # may raise anything.
    except Exception as error:
        _fail(_sentence(error, argv), _BAD_INPUT)
    if len(rest) > 1:
        _fail(f"{rest[1]!r} is not a flag; settings are given as --config.KEY=VALUE.", _BAD_INPUT)
    return rest


def _config_flags(argv: Sequence[str]) -> Iterator[tuple[int, str, str, str]]:
    """Each `--config`: the place of the argument with its value, what stands before that, its file, its variant."""
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            place, start = (i, name + equals) if equals else (i + 1, "")
            if place < len(argv):
                path, colon, variant = (value if equals else argv[place]).partition(":")
                yield place, start, path, colon + variant


def _sentence(error: BaseException, argv: Sequence[str]) -> str:
    raw = str(error).strip()
    typo = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', raw)
    if typo:
        return f"{typo[2]!r} is not a setting; did you mean {typo[1]!r}?"
    given = {
        argument.partition("=")[0].rpartition(".")[2] for argument in argv if argument.startswith("--config.")
    }
    if raw.strip(_QUOTES) in given:
        return f"{raw.strip(_QUOTES)!r} is not a setting; the config file and mu_jax/config/ list them all."
    if isinstance(error, flags.Error) and "Traceback" not in raw:
        text = " ".join(raw.split())
        return f"{text if text.endswith(('.', '?')) else text + '.'} See --help."
    # An error raised inside the config file may come with its traceback as text; the last line says what is wrong.
    _, own, said = raw.rpartition(f"{InputError.__module__}.InputError: ")
    if own:  # all on one line, as its own error is
        return said
    return f"The config file failed: {raw.splitlines()[-1] if raw else type(error).__name__}"


def _main(argv: Sequence[str]) -> None:
    del argv
    if _CONFIG.value is None or not _WORKDIR.value:
        missing = "--config" if _CONFIG.value is None else "--workdir"
        _fail(
            f"{missing} is missing; for example: --config=configs/quickstart.py --workdir=runs/quickstart.",
            _BAD_INPUT,
        )
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # JAX tells of every backend it did not find
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        values = _CONFIG.value
        config = from_config_dict(values.to_dict() if hasattr(values, "to_dict") else dict(values))
        _check_processes()
        # JAX and the rest take seconds to import: not before the settings are known to be good.
        from mu_jax.experiments import registry
        from mu_jax.experiments.compilation_cache import use_compilation_cache

        use_compilation_cache(_warn)

        if _DISTRIBUTED.value or _COORDINATOR.value:
            registry.join_processes(config, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        registry.launch(config, workdir, config_flags.get_override_values(flags.FLAGS["config"]))
    except InputError as error:
        _fail(error, _BAD_INPUT)
    except OSError as error:  # a full disk, a folder that may not be written, a name too long
        _fail(f"{error}; nothing that was saved before is lost.", _BAD_INPUT)
    except MemoryError:
        _fail(_TOO_LARGE, _BAD_INPUT)
    except KeyboardInterrupt:
        _fail("Interrupted. The same command goes on from the last checkpoint.", _INTERRUPTED)
    except RuntimeError as error:
        from mu_jax.training.loop import DivergenceError

        if isinstance(error, DivergenceError):
            _fail(error, _DIVERGED)
        if "RESOURCE_EXHAUSTED" in str(error):
            _fail(_TOO_LARGE, _BAD_INPUT)
        if "second computation" not in str(error):
            raise
        _fail(error, _FAILED)


def _check_processes() -> None:
    given = (_PROCESSES.value, _PROCESS.value)
    if _COORDINATOR.value is None:
        if given != (None, None):
            raise InputError(
                "--processes or --process is given without --coordinator=HOST:PORT; give all three."
            )
        return
    if not re.fullmatch(r"[^:]+:\d+|\[.+\]:\d+", _COORDINATOR.value):
        raise InputError(
            f"--coordinator is {_COORDINATOR.value!r}, but expected HOST:PORT, such as 10.0.0.1:1234; change it."
        )
    if None in given or not 0 <= _PROCESS.value < _PROCESSES.value:
        raise InputError(
            f"--processes is {_PROCESSES.value} and --process {_PROCESS.value}, but --coordinator needs both, with "
            "0 ≤ process < processes; change them."
        )


def run() -> None:
    """The console script's entry."""
    app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
    run()
