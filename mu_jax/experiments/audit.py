"""Attack signals that any framework produced, or those of a finished pool, and report what the attacks found."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mu_jax.attacks.taylor_softmax import taylor_softmax
from mu_jax.config import AttackConfig, DataConfig, InputError, to_dict
from mu_jax.data import Dataset, load_dataset
from mu_jax.data.files import atomic_write, write_json
from mu_jax.evaluation.report import write_audit_report
from mu_jax.evaluation.report.attack_data import AttackReportData
from mu_jax.experiments.attack_targets import PoolTargets, SeparateTargets, Targets
from mu_jax.experiments.audit_signals import read_audit_signals
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.membership_attacks import Outcome, attack_all, report_of, score_arrays
from mu_jax.experiments.run_folder import RunFolder, finished_results, read_config
from mu_jax.experiments.signal_pool import Pool, read_pool, signals_folder

QUESTION = "Can an attacker who has models like these tell which examples a model was trained on?"


@dataclasses.dataclass(frozen=True)
class Audit:
    """What is attacked, and how."""

    signals: str
    """An `.npz` file (see `audit_signals.read_audit_signals`), or the folder of a finished pool."""
    seed: int = 0
    """Draws the resamples behind the intervals, and RMIA's population where it is not all."""
    attack: AttackConfig = dataclasses.field(default_factory=AttackConfig)
    experiment: str = "audit"


@dataclasses.dataclass(frozen=True, eq=False)
class _Subject:
    """Targets and references, and what is known of the examples."""

    targets: Targets
    facts: dict[str, Any]
    examples: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] = ()
    images: np.ndarray | None = None


def run(
    config: Audit, workdir: pathlib.Path, say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, Any], bool]:
    """Do the audit in `workdir`: (what results.json holds, whether it was done before)."""
    if not config.attack.names:
        raise InputError("There is no attack to do, but expected at least one; name some with --attacks.")
    path = pathlib.Path(config.signals)
    fingerprint = _fingerprint(path)
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        before = read_config(workdir)["inputs"]["signals"]
        if before != fingerprint:
            raise InputError(
                f"{workdir} holds an audit of what {path} was before it changed; choose another --workdir."
            )
        return done, True
    subject = _of_pool(path, config.attack) if path.is_dir() else _of_file(path, config.attack)
    say(
        f"{subject.facts['targets']:,} targets, {subject.facts['shadows']:,} references, "
        f"{subject.facts['examples']:,} examples"
    )
    with RunFolder(workdir, to_dict(config), inputs={"signals": fingerprint}, overrides={}) as folder:
        try:
            outcome = attack_all(subject.targets, config.attack, config.seed, say)
        except InputError:
            folder.forget_config()  # the same folder may be tried with other settings
            raise
        report = report_of(
            outcome,
            subject.targets,
            examples=subject.examples,
            labels=subject.labels,
            class_names=subject.class_names,
            images=subject.images,
        )
        results = _results(config, subject, outcome, report)
        write_scores(folder.path / "scores.npz", outcome, subject.targets, subject.examples)
        write_audit_report(folder.path, report, results)
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def write_scores(path: pathlib.Path, outcome: Outcome, targets: Targets, examples: np.ndarray) -> None:
    """Each attack's scores float64[T,N] by name, `is_member` bool[T,N], and `examples` int[N], their positions."""
    with atomic_write(path) as file:
        np.savez(file, is_member=targets.is_member, examples=examples, **score_arrays(outcome))


def exposed_rows(report: AttackReportData, number: int) -> list[dict[str, Any]]:
    """The most exposed examples, `tables.exposed` of results.json."""
    known = np.flatnonzero(np.isfinite(report.exposure))
    order = known[np.argsort(-report.exposure[known], kind="stable")][:number]
    return [
        {
            "example": int(report.examples[i]),
            "label": None if report.labels is None else int(report.labels[i]),
            "exposure": float(report.exposure[i]),
        }
        for i in order
    ]


def _results(config: Audit, subject: _Subject, outcome: Outcome, report: AttackReportData) -> dict[str, Any]:
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": subject.facts,
        "models": {},
        "attack": to_dict(config.attack) | {"offline_a": outcome.offline_a},
        "tables": {
            "attacks": outcome.rows,
            "exposed": exposed_rows(report, config.attack.gallery_images),
        },
        "environment": environment(),
    }


def _of_file(path: pathlib.Path, settings: AttackConfig) -> _Subject:
    signals = read_audit_signals(path, settings.probability)
    targets = SeparateTargets(
        signals.member_target,
        signals.target_phi,
        signals.target_probability,
        signals.shadow_phi,
        signals.shadow_probability,
        signals.member_shadow,
    )
    number, examples, queries = signals.target_phi.shape
    facts = {
        "name": path.name,
        "source": str(path),
        "targets": number,
        "shadows": targets.references,
        "examples": examples,
        "queries": queries,
    }
    return _Subject(targets, facts, np.arange(examples), signals.labels, images=signals.images)


def _of_pool(path: pathlib.Path, settings: AttackConfig) -> _Subject:
    pool = read_pool(path)
    targets, examples = pool_targets(pool, settings)
    dataset = _dataset_of(path, pool)
    facts = {
        "name": dataset.name if dataset else str(path),
        "source": str(path),
        "targets": len(targets.is_member),
        "shadows": targets.references,
        "examples": len(examples),
        "queries": pool.phi.shape[2],
    }
    return _Subject(
        targets,
        facts,
        examples,
        np.asarray(pool.labels[examples], np.int64),
        tuple(dataset.class_names) if dataset else (),
        dataset.images[examples] if dataset else None,
    )


def pool_targets(pool: Pool, settings: AttackConfig) -> tuple[PoolTargets, np.ndarray]:
    """The pool's sound models as targets, and the positions of its examples that were members of some, not of all."""
    usable = np.flatnonzero(pool.usable)
    examples = np.arange(0)
    while len(usable):
        member = np.asarray(pool.member[usable])
        examples = np.flatnonzero(member.any(axis=0) & ~member.all(axis=0))
        held = member[:, examples].sum(axis=1)
        # A file may give a model all examples or none: nothing tells its members from others.
        mixed = (held > 0) & (held < len(examples))
        if mixed.all():
            break
        usable = usable[mixed]
    if len(usable) < 2:
        raise InputError(
            f"The pool has {len(usable)} models that did not diverge and were trained on some of its examples and not "
            "on others, but expected at least 2; train it with more models."
        )
    whole = len(usable) == len(pool.member) and len(examples) == pool.member.shape[1]

    def rows(array: np.ndarray) -> np.ndarray:
        return array if whole else array[usable][:, examples]

    if settings.probability == "softmax" or "rmia" not in settings.names:
        probability = rows(pool.probability)
    elif pool.logits is None:
        raise InputError(
            "attack.probability is 'taylor_softmax', but the pool has no logits to take it of; sweep with "
            "--config.query.logits=True, or attack with 'softmax'."
        )
    else:
        labels = np.asarray(pool.labels)[examples]
        probability = np.empty((len(usable), len(examples), pool.phi.shape[2]), np.float32)
        for row, model in enumerate(usable):
            logits = np.asarray(pool.logits[model])[examples]
            probability[row] = taylor_softmax(logits, np.repeat(labels[:, None], logits.shape[1], axis=1))
    return PoolTargets(rows(pool.phi), probability, member[:, examples], settings.targets), examples


def _dataset_of(path: pathlib.Path, pool: Pool) -> Dataset | None:
    """The images behind a pool, where its run's config is beside it and they are still what they were."""
    try:
        saved = read_config(signals_folder(path).parent)
        if saved is None:
            return None
        data = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in saved["config"]["data"].items()
        }
        dataset = load_dataset(DataConfig(**data), saved["config"]["seed"])
        return dataset if dataset.fingerprint() == pool.produced_by["data"]["fingerprint"] else None
    # Images only illustrate: the data may have been moved since, or the folder be of another version.
    except (InputError, LookupError, TypeError, AttributeError, OSError, MemoryError):
        return None


def _fingerprint(path: pathlib.Path) -> str:
    """Of what is attacked: a pool's description, or the whole file."""
    source = signals_folder(path) / "pool.json" if path.is_dir() else path
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        expected = (
            "a finished pool's folder" if path.is_dir() else "an .npz file or the folder of a finished pool"
        )
        raise InputError(
            f"--signals is {str(path)!r}, but there is no {source.name if path.is_dir() else 'such file'}; expected "
            f"{expected}."
        ) from None
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror}); check its permissions.") from None
