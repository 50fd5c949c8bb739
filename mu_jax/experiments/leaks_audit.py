"""Attack posteriors from before and after a deletion that any framework produced, and report what was found."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from mu_jax.attacks.leaks import construct_features, exact_ties
from mu_jax.attacks.pair_attack import classical_features, fit_pair_attack
from mu_jax.config import InputError, to_dict
from mu_jax.config.leaks_audit import LeaksAudit
from mu_jax.data.files import atomic_write, write_json
from mu_jax.evaluation.degradation import MEMBER_ABOVE, evaluate_pair_attack
from mu_jax.evaluation.report.leaks_audit_page import PairScores, write_leaks_audit_report
from mu_jax.evaluation.roc import auc
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.leaks_audit_files import AuditPairs, fingerprint, read_pairs
from mu_jax.experiments.run_folder import RunFolder, finished_results, read_config

QUESTION = (
    "Can somebody who asks the model before and after a deletion tell which examples were deleted, and does the second "
    "answer help?"
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Attack:
    """What one classifier says of the target by one feature."""

    feature: str
    classifier: str
    selection_auc: float
    """On shadow pairs that it had not learned on."""
    confidence: Float64[np.ndarray, "M"]
    classical: Float64[np.ndarray, "M"]

    @property
    def name(self) -> str:
        return f"{self.feature}_{self.classifier}"


def run(
    config: LeaksAudit, workdir: pathlib.Path, say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, Any], bool]:
    """Do the audit in `workdir`: (what results.json holds, whether it was done before)."""
    paths = {name: pathlib.Path(getattr(config, name)) for name in ("before", "after")}
    inputs = {name: fingerprint(path, name) for name, path in paths.items()}
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        for name, was in read_config(workdir)["inputs"].items():
            if was != inputs[name]:
                raise InputError(
                    f"{workdir} holds an audit of what {paths[name]} was before it changed; choose another --workdir."
                )
        return done, True
    shadow, target = read_pairs(paths["before"], paths["after"])
    say(f"{len(shadow.before):,} shadow pairs, {len(target.before):,} target pairs")
    with RunFolder(workdir, to_dict(config), inputs=inputs, overrides={}) as folder:
        attacks = _attack_all(shadow, target, config, say)
        results = _results(config, shadow, target, attacks)
        _write_scores(folder.path / "scores.npz", attacks, target)
        write_leaks_audit_report(folder.path, results, to_dict(config), _curves(attacks, target))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def _attack_all(
    shadow: AuditPairs, target: AuditPairs, config: LeaksAudit, say: Callable[[str], None]
) -> list[_Attack]:
    """Every feature by every classifier, the one first that does best on shadow pairs alone."""
    halves = _halves(shadow, config.seed)
    features = {
        kind: tuple(construct_features(pairs.before, pairs.after, kind) for pairs in (shadow, target))
        for kind in config.features
    }
    found = []
    for classifier in config.classifiers:
        say(f"attacking with {classifier}")

        def confidence(
            learned: np.ndarray, truth: np.ndarray, asked: np.ndarray, classifier: str = classifier
        ) -> np.ndarray:
            return fit_pair_attack(learned, truth, classifier, config.seed).confidence(asked)

        former = confidence(
            classical_features(shadow.before), shadow.deleted, classical_features(target.before)
        )
        for kind, (mine, asked) in features.items():
            areas = [
                auc(confidence(mine[half], shadow.deleted[half], mine[~half]), shadow.deleted[~half])
                for half in (halves, ~halves)
            ]
            scores = confidence(mine, shadow.deleted, asked)
            found.append(_Attack(kind, classifier, float(np.mean(areas)), scores, former))
    return sorted(found, key=lambda one: -one.selection_auc)


def _halves(shadow: AuditPairs, seed: int) -> Bool[np.ndarray, "N"]:
    """Half of the shadow's originals; half of the pairs of each kind where half of the originals lack a kind."""
    rng = np.random.default_rng(seed)
    originals = rng.permutation(np.unique(shadow.model))
    first = np.isin(shadow.model, originals[: len(originals) // 2])
    if shadow.models_given and all(
        min(np.sum(shadow.deleted[half]), np.sum(~shadow.deleted[half])) >= 2 for half in (first, ~first)
    ):
        return first
    first = np.zeros(len(shadow.deleted), bool)
    for kind in (shadow.deleted, ~shadow.deleted):
        rows = rng.permutation(np.flatnonzero(kind))
        first[rows[: len(rows) // 2]] = True
    return first


def _results(
    config: LeaksAudit, shadow: AuditPairs, target: AuditPairs, attacks: list[_Attack]
) -> dict[str, Any]:
    ties = {
        name: exact_ties(pairs.before, pairs.after)
        for name, pairs in (("shadow", shadow), ("target", target))
    }
    rows = [
        {
            "feature": one.feature,
            "classifier": one.classifier,
            "chosen": place == 0,
            "selection_auc": one.selection_auc,
            "pairs": len(one.confidence),
            "ties": _ties(ties["target"], target.deleted),
            "called_deleted": float(np.mean(one.confidence > MEMBER_ABOVE)),
            **_figures(one, target, config),
        }
        for place, one in enumerate(attacks)
    ]
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": {
            "name": pathlib.Path(config.before).name,
            "source": config.before,
            "after": config.after,
            "classes": int(shadow.before.shape[1]),
            **_facts("shadow", shadow),
            **_facts("target", target),
            "shadow_ties": _ties(ties["shadow"], shadow.deleted),
        },
        "models": {},
        "study": {
            "fpr": list(config.evaluation.fpr),
            "interval_level": config.evaluation.interval_level,
            "bootstrap_samples": config.evaluation.bootstrap_samples,
        },
        "tables": {"leaks": rows},
        "environment": environment(),
    }


def _facts(side: str, pairs: AuditPairs) -> dict[str, int | None]:
    """How many pairs, deleted examples (None: not said) and originals (None: not said) a side has."""
    return {
        f"{side}_pairs": len(pairs.before),
        f"{side}_deleted": None if pairs.deleted is None else int(pairs.deleted.sum()),
        f"{side}_models": len(np.unique(pairs.model)) if pairs.models_given else None,
    }


def _ties(ties: Bool[np.ndarray, "N"], deleted: Bool[np.ndarray, "N"] | None) -> dict[str, float]:
    """The share of pairs whose two posteriors are equal to the bit: of all, and by kind where it is known."""
    found = {"all": float(ties.mean())}
    if deleted is not None:
        found |= {"deleted": float(ties[deleted].mean()), "never": float(ties[~deleted].mean())}
    return found


def _figures(attack: _Attack, target: AuditPairs, config: LeaksAudit) -> Mapping[str, Any]:
    if target.deleted is None:
        return {}
    return evaluate_pair_attack(
        attack.confidence,
        attack.classical,
        target.deleted,
        target.model,
        fpr=config.evaluation.fpr,
        level=config.evaluation.interval_level,
        samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
    )


def _write_scores(path: pathlib.Path, attacks: list[_Attack], target: AuditPairs) -> None:
    """Of each target pair the confidence that it was deleted: `FEATURE_CLASSIFIER`, `classical_CLASSIFIER`; ties."""
    arrays = {one.name: one.confidence for one in attacks}
    arrays |= {f"classical_{one.classifier}": one.classical for one in attacks}
    if target.deleted is not None:
        arrays["deleted"] = target.deleted
    with atomic_write(path) as file:
        np.savez(file, model=target.model, tie=exact_ties(target.before, target.after), **arrays)


def _curves(attacks: list[_Attack], target: AuditPairs) -> PairScores | None:
    """What the ROC figure shows: the best attack of each classifier, and the classical one of the first."""
    if target.deleted is None:
        return None
    best: dict[str, _Attack] = {}
    for one in attacks:
        best.setdefault(one.classifier, one)
    return PairScores(
        deleted=target.deleted,
        pair={(one.feature, one.classifier): one.confidence for one in best.values()},
        classical=attacks[0].classical,
    )
