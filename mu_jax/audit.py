"""The command line of an audit: `python -m mu_jax.audit --signals=FILE.npz --workdir=DIR`, or `mu-jax-audit`.

Membership attacks on what models of any framework said of the same examples, or on the models of a pool that a sweep
left: `--signals=runs/shadow_sweep`. README shows how to fill the file from PyTorch.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging

from mu_jax.config import ATTACKS, AttackConfig, InputError

_DEFAULT = AttackConfig()
_SIGNALS = flags.DEFINE_string("signals", None, "An .npz file, or the folder of a finished pool.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of this audit.")
_ATTACKS = flags.DEFINE_list("attacks", list(_DEFAULT.names), f"Some of {', '.join(ATTACKS)}.")
_MODES = flags.DEFINE_list("modes", list(_DEFAULT.modes), "LiRA's and RMIA's: online, offline.")
_VARIANCES = flags.DEFINE_list("variances", list(_DEFAULT.variances), "LiRA's: per_example, global.")
_PROBABILITY = flags.DEFINE_string(
    "probability", _DEFAULT.probability, "Those that RMIA compares: softmax or taylor_softmax (of logits)."
)
_GAMMA = flags.DEFINE_float("gamma", _DEFAULT.gamma, "RMIA's γ.")
_OFFLINE_A = flags.DEFINE_float(
    "offline_a", _DEFAULT.offline_a, "RMIA's a, offline; −1 searches it by attacks on the references."
)
_VOTE = flags.DEFINE_string("vote", _DEFAULT.vote, "RMIA's, over query augmentations: majority or mean.")
_POPULATION = flags.DEFINE_integer(
    "population", _DEFAULT.population, "RMIA's: how many of a target's non-members it compares with; 0: all."
)
_TARGETS = flags.DEFINE_integer(
    "targets", _DEFAULT.targets, "Of a pool: attack the first so many models; 0: all."
)
_FPR = flags.DEFINE_list("fpr", [str(rate) for rate in _DEFAULT.fpr], "False-positive rates to report at.")
_SAMPLES = flags.DEFINE_integer(
    "bootstrap_samples", _DEFAULT.bootstrap_samples, "Resamples behind every interval."
)
_LEVEL = flags.DEFINE_float("interval_level", _DEFAULT.interval_level, "Coverage of the intervals.")
_GALLERY = flags.DEFINE_integer(
    "gallery_images", _DEFAULT.gallery_images, "Most and least exposed examples to show."
)
_SEED = flags.DEFINE_integer("seed", 0, "Draws resamples, and RMIA's population.")

_BAD_INPUT, _INTERRUPTED = 2, 130


def _fail(message: object, code: int) -> NoReturn:
    print(f"mu-jax audit: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """absl's parser, with its complaints in one sentence."""
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        text = " ".join(str(error).split())
        _fail(f"{text if text.endswith(('.', '?')) else text + '.'} See --help.", _BAD_INPUT)
    if len(rest) > 1:
        _fail(f"{rest[1]!r} is not a flag; settings are given as --NAME=VALUE.", _BAD_INPUT)
    return rest


def _settings() -> AttackConfig:
    try:
        fpr = tuple(map(float, _FPR.value))
    except ValueError:
        raise InputError(
            f"--fpr is {','.join(_FPR.value)!r}, but expected rates such as 0.001,0.01."
        ) from None
    try:
        return AttackConfig(
            names=tuple(_ATTACKS.value),
            modes=tuple(_MODES.value),
            variances=tuple(_VARIANCES.value),
            probability=_PROBABILITY.value,
            gamma=_GAMMA.value,
            offline_a=_OFFLINE_A.value,
            vote=_VOTE.value,
            population=_POPULATION.value,
            targets=_TARGETS.value,
            fpr=fpr,
            bootstrap_samples=_SAMPLES.value,
            interval_level=_LEVEL.value,
            gallery_images=_GALLERY.value,
        )
    except InputError as error:
        # The dataclass names its keys as config files do.
        text = (
            str(error)
            .replace("--config.attack.", "--")
            .replace("attack.", "--")
            .replace("--names", "--attacks")
        )
        raise InputError(text) from None


def _main(argv: Sequence[str]) -> None:
    del argv
    if not _SIGNALS.value or not _WORKDIR.value:
        missing = "--workdir" if _SIGNALS.value else "--signals"
        _fail(f"{missing} is missing; for example: --signals=signals.npz --workdir=runs/audit.", _BAD_INPUT)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        settings = _settings()
        # JAX and the rest take seconds to import: not before the settings are known to be good.
        from mu_jax.experiments import audit, registry

        config = audit.Audit(signals=_SIGNALS.value, seed=_SEED.value, attack=settings)
        results, done_before = audit.run(config, workdir, say=lambda text: print(text, flush=True))
        registry.print_results(results, workdir, done_before)
    except InputError as error:
        _fail(error, _BAD_INPUT)
    except OSError as error:
        _fail(f"{error}; nothing that was saved before is lost.", _BAD_INPUT)
    except KeyboardInterrupt:
        _fail("Interrupted; the same command starts again.", _INTERRUPTED)


def run() -> None:
    """The console script's entry."""
    app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
    run()
