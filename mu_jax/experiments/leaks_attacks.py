"""The attack on the target's pairs by classifiers that learned on the shadow's, and what of it goes into tables."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from sklearn.utils.parallel import Parallel, delayed

from mu_jax.attacks.leaks import construct_features, exact_ties
from mu_jax.attacks.pair_attack import classical_features, fit_pair_attack
from mu_jax.config import EvaluationConfig, InputError
from mu_jax.config.leaks import LeaksConfig
from mu_jax.evaluation.degradation import evaluate_pair_attack
from mu_jax.evaluation.roc import auc, roc_curve
from mu_jax.experiments.leaks_defenses import Release
from mu_jax.experiments.leaks_models import Answers
from mu_jax.experiments.leaks_versions import Scenario

_WORTH_PROCESSES = 8
"""So many forests take longer than processes to start."""
_ROC_POINTS = 200
"""Of a curve in results.json at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """The pairs of one scenario on one side, with what both models release of each example."""

    before: Float64[np.ndarray, "P C"]
    after: Float64[np.ndarray, "P C"]
    member: Bool[np.ndarray, "P"]
    original: Int64[np.ndarray, "P"]
    left_out: int
    """pairs with a model that diverged, or was not made"""


@dataclasses.dataclass(frozen=True, eq=False)
class Attack:
    """A way to build features and to classify them, with what it found on the target."""

    feature: str
    classifier: str
    selection_auc: float | None
    """on shadow originals that its classifier had not learned on; None where there was nothing to choose between"""
    confidence: Float64[np.ndarray, "P"]
    classical: Float64[np.ndarray, "P"]
    figures: Mapping[str, Any]


def ask(scenario: Scenario, answers: Answers, release: Release) -> Questions:
    """What a side's models say in a scenario, as a defence releases it."""
    asked: dict[str, list[int]] = {}
    kept = []
    for pair in scenario.pairs:
        names = (pair.before, pair.after)
        if all(name in answers.lessons and answers.sound(name) for name in names):
            kept.append(pair)
    for place, pair in enumerate(kept):
        for side, name in enumerate((pair.before, pair.after)):
            asked.setdefault(name, []).append(2 * place + side)
    said = None
    for name, places in asked.items():
        rows = np.array([kept[place // 2].row for place in places])
        released = release(answers.posteriors(name, rows))
        if said is None:
            said = np.zeros((2 * len(kept), released.shape[-1]))
        said[places] = released
    if said is None:
        raise InputError(
            f"No pair of the scenario {scenario.name!r} is left, because models diverged; lower train.learning_rate."
        )
    return Questions(
        before=said[::2],
        after=said[1::2],
        member=np.array([pair.member for pair in kept]),
        original=np.array([pair.original for pair in kept], np.int64),
        left_out=len(scenario.pairs) - len(kept),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A classifier to fit, and whom to ask."""

    classifier: str
    learned: Float64[np.ndarray, "S F"]
    member: Bool[np.ndarray, "S"]
    asked: Float64[np.ndarray, "P F"]


def attack_all(
    shadow: Questions, target: Questions, config: LeaksConfig, evaluation: EvaluationConfig, seed: int
) -> list[Attack]:
    """Every feature construction with every classifier, the one first that does best on shadow pairs alone."""
    features = {kind: construct_features(shadow.before, shadow.after, kind) for kind in config.features}
    asked = {kind: construct_features(target.before, target.after, kind) for kind in config.features}
    combinations = [(kind, classifier) for classifier in config.classifiers for kind in config.features]
    halves = _halves(shadow) if len(combinations) > 1 else ()
    fits = [Fit(classifier, features[kind], shadow.member, asked[kind]) for kind, classifier in combinations]
    old, now = classical_features(shadow.before), classical_features(target.before)
    fits += [Fit(classifier, old, shadow.member, now) for classifier in config.classifiers]
    fits += [
        Fit(classifier, features[kind][half], shadow.member[half], features[kind][~half])
        for kind, classifier in combinations
        for half in halves
    ]
    confidence = iter(confidences(fits, seed))
    found = {one: next(confidence) for one in combinations}
    classical = {classifier: next(confidence) for classifier in config.classifiers}
    # The mean AUC over two halves of the shadow's originals, each judged by what learned on the other.
    chosen = {
        one: float(np.mean([auc(next(confidence), shadow.member[~half]) for half in halves]))
        if halves
        else None
        for one in combinations
    }
    attacks = [
        Attack(
            kind,
            classifier,
            chosen[kind, classifier],
            found[kind, classifier],
            classical[classifier],
            figures_of(found[kind, classifier], classical[classifier], target, evaluation, seed),
        )
        for kind, classifier in combinations
    ]
    return sorted(attacks, key=lambda one: -(one.selection_auc or 0.0))


def confidences(fits: Sequence[Fit], seed: int) -> list[Float64[np.ndarray, "P"]]:
    """Of each, that those asked are members."""
    # Forests go to processes, because building small trees holds the interpreter; the others would gain nothing.
    forests = [fit for fit in fits if fit.classifier == "random_forest"]
    workers = -1 if len(forests) >= _WORTH_PROCESSES else 1
    of_forests = iter(Parallel(n_jobs=workers)(delayed(_confidence)(fit, seed) for fit in forests))
    return [next(of_forests) if fit.classifier == "random_forest" else _confidence(fit, seed) for fit in fits]


def _confidence(fit: Fit, seed: int) -> np.ndarray:
    return fit_pair_attack(fit.learned, fit.member, fit.classifier, seed).confidence(fit.asked)


def figures_of(
    confidence: np.ndarray, classical: np.ndarray, target: Questions, evaluation: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """What results.json says of one attack."""
    ties = exact_ties(target.before, target.after)
    return {
        "pairs": len(target.member),
        "left_out": target.left_out,
        "ties": {
            "deleted": float(ties[target.member].mean()),
            "never": float(ties[~target.member].mean()),
        },
        **evaluate_pair_attack(
            confidence,
            classical,
            target.member,
            target.original,
            fpr=evaluation.fpr,
            level=evaluation.interval_level,
            samples=evaluation.bootstrap_samples,
            seed=seed,
        ),
    }


def curves(attack: Attack, target: Questions) -> Iterator[dict[str, Any]]:
    """The ROC of the attack on pairs and of the classical one, thinned out."""
    for name, scores in (("pair", attack.confidence), ("classical", attack.classical)):
        curve = roc_curve(scores, target.member)
        places = np.unique(np.linspace(0, len(curve.fpr) - 1, _ROC_POINTS).round().astype(int))
        yield {
            "attack": name,
            "fpr": curve.fpr[places].tolist(),
            "tpr": curve.tpr[places].tolist(),
        }


def _halves(shadow: Questions) -> tuple[np.ndarray, ...]:
    """Two halves of the shadow's originals, or of its pairs where there are too few; none where those are, too."""
    for first in (shadow.original % 2 == 0, np.arange(len(shadow.member)) // 2 % 2 == 0):
        if all(2 <= shadow.member[half].sum() <= half.sum() - 2 for half in (first, ~first)):
            return first, ~first
    return ()
