"""The command line of an audit: `python -m mu_jax.audit --signals=FILE.npz --workdir=DIR`, or `mu-jax-audit`.

Membership attacks on what models of any framework said of the same examples, or on the models of a pool that a sweep
left: `--signals=runs/shadow_sweep`. With `--before=FILE --after=FILE --attacks=leaks` it is a deletion that is audited:
what models said of the same examples before and after it. README shows how to fill the files from PyTorch.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging

from mu_jax.config import ATTACKS, AttackConfig, EvaluationConfig, InputError
from mu_jax.config.errors import one_line
from mu_jax.config.leaks import CLASSIFIERS, FEATURES
from mu_jax.config.leaks_audit import LeaksAudit

_DEFAULT = AttackConfig()
_SIGNALS = flags.DEFINE_string("signals", None, "An .npz file, or the folder of a finished pool.")
_BEFORE = flags.DEFINE_string(
    "before", None, "An .npz file of posteriors before a deletion, and of who was deleted."
)
_AFTER = flags.DEFINE_string(
    "after", None, "An .npz file of posteriors of the same examples after the deletion."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of this audit.")
_ATTACKS = flags.DEFINE_list("attacks", list(_DEFAULT.names), f"Some of {', '.join(ATTACKS)}; or leaks.")
_FEATURES = flags.DEFINE_list(
    "features", list(FEATURES), "Of leaks: how pairs of posteriors become features."
)
_CLASSIFIERS = flags.DEFINE_list(
    "classifiers", list(CLASSIFIERS), "Of leaks: what learns on the shadow pairs."
)
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

_LEAKS = "leaks"
_OF_LEAKS = ("before", "after", "features", "classifiers")
_OF_SIGNALS = (
    *("signals", "modes", "variances", "probability", "gamma", "offline_a", "vote", "population", "targets"),
    "gallery_images",
)


def _warn(message: object) -> None:
    print(f"mu-jax audit: {message}", file=sys.stderr, flush=True)


def _fail(message: object, code: int) -> NoReturn:
    print(f"mu-jax audit: {one_line(message)}", file=sys.stderr, flush=True)
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


def _rates() -> tuple[float, ...]:
    try:
        return tuple(map(float, _FPR.value))
    except ValueError:
        raise InputError(
            f"--fpr is {','.join(_FPR.value)!r}, but expected rates such as 0.001,0.01."
        ) from None


def _settings() -> AttackConfig:
    fpr = _rates()
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
        raise _as_flags(error, "attack") from None


def _leaks_settings() -> LeaksAudit:
    fpr = _rates()
    try:
        return LeaksAudit(
            before=_BEFORE.value,
            after=_AFTER.value,
            seed=_SEED.value,
            features=tuple(_FEATURES.value),
            classifiers=tuple(_CLASSIFIERS.value),
            evaluation=EvaluationConfig(
                fpr=fpr, bootstrap_samples=_SAMPLES.value, interval_level=_LEVEL.value
            ),
        )
    except InputError as error:
        raise _as_flags(error, "evaluation", "audit") from None


def _as_flags(error: InputError, *sections: str) -> InputError:
    """The dataclasses name their keys as config files do."""
    text = str(error)
    for section in sections:
        text = text.replace(f"--config.{section}.", "--").replace(f"{section}.", "--")
    return InputError(text.replace("--names", "--attacks"))


def _asks_for_leaks() -> bool:
    """Whether it is a deletion that is audited; ends the program where flags of both kinds are mixed."""
    given = [name for name in (*_OF_LEAKS, *_OF_SIGNALS) if flags.FLAGS[name].present]
    if not (_BEFORE.value or _AFTER.value or _LEAKS in _ATTACKS.value):
        alien = [name for name in given if name in _OF_LEAKS]
        if alien:
            _fail(
                f"--{alien[0]} is of --attacks=leaks; add --before and --after, or leave it out.",
                _BAD_INPUT,
            )
        return False
    for name in ("before", "after"):
        if not flags.FLAGS[name].value:
            _fail(
                f"--{name} is missing; for example: --before=before.npz --after=after.npz --attacks=leaks "
                "--workdir=runs/leaks_audit.",
                _BAD_INPUT,
            )
    if flags.FLAGS["attacks"].present and _ATTACKS.value != [_LEAKS]:
        _fail(
            f"--attacks is {','.join(_ATTACKS.value)!r}, but expected 'leaks' with --before and --after; audit "
            "--signals in a run of its own.",
            _BAD_INPUT,
        )
    alien = [name for name in given if name in _OF_SIGNALS]
    if alien:
        _fail(f"--{alien[0]} is not read with --attacks=leaks; leave it out.", _BAD_INPUT)
    return True


def _main(argv: Sequence[str]) -> None:
    del argv
    leaks = _asks_for_leaks()
    if not (leaks or _SIGNALS.value) or not _WORKDIR.value:
        missing = "--workdir" if leaks or _SIGNALS.value else "--signals"
        _fail(f"{missing} is missing; for example: --signals=signals.npz --workdir=runs/audit.", _BAD_INPUT)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        settings = _leaks_settings() if leaks else _settings()
        # JAX and the rest take seconds to import: not before the settings are known to be good.
        from mu_jax.experiments import audit, leaks_audit, registry
        from mu_jax.experiments.compilation_cache import use_compilation_cache

        use_compilation_cache(_warn)

        def say(text: str) -> None:
            print(text, flush=True)

        if isinstance(settings, LeaksAudit):
            results, done_before = leaks_audit.run(settings, workdir, say)
        else:
            config = audit.Audit(signals=_SIGNALS.value, seed=_SEED.value, attack=settings)
            results, done_before = audit.run(config, workdir, say)
        registry.print_results(results, workdir, done_before)
    except InputError as error:
        _fail(error, _BAD_INPUT)
    except OSError as error:
        _fail(f"{error}; nothing that was saved before is lost.", _BAD_INPUT)
    except MemoryError:
        _fail("The audit needs more memory than there is; give fewer models or examples.", _BAD_INPUT)
    except KeyboardInterrupt:
        _fail("Interrupted; the same command starts again.", _INTERRUPTED)


def run() -> None:
    """The console script's entry."""
    app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
    run()
