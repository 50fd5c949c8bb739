"""What models still know of forgotten examples: accuracies, the loss attack, the gap to retraining."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.api.classifier import Classifier
from mu_jax.attacks.loss import loss_scores
from mu_jax.config import InputError
from mu_jax.data.arrays import as_dataset, as_positions
from mu_jax.evaluation.comparison import Behaviour, gap_to_retrain
from mu_jax.evaluation.membership import evaluate_scores
from mu_jax.evaluation.report import comparison_table


@dataclasses.dataclass(frozen=True)
class Audit:
    """Figures of several models on the same forgotten examples; printed, a table."""

    models: Mapping[str, Mapping[str, Any]]
    """`results.json`'s `models`: by name `accuracy` (retain, forget, test), `attacks` (`loss_threshold`, with `auc` and
    its interval), with a model called `retrain` `gap_to_retrain` and `gap_parts`, `seconds`, `trained_samples`"""

    def __str__(self) -> str:
        header, rows = comparison_table({"models": self.models}, compact=True)
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in [header, *rows]
        ]
        return "\n".join(line.rstrip() for line in lines)


def audit(
    classifiers: Mapping[str, Classifier],
    forgotten: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """What each model still knows of the `forgotten` training positions, beside images that none of them has seen.

    Accuracy on what is retained, forgotten and unseen, and the loss attack that tells forgotten from unseen images: AUC
    ½ is a guess, and above or below it betrays them. With a model called `retrain`, the gap to it. The intervals are
    over the choice of images, not over trainings: audit several seeds. InputError where the models are not of the same
    images.
    """
    if not classifiers:
        raise InputError("classifiers is empty, but expected models by name; give at least one.")
    tasks = [classifier.task for classifier in classifiers.values()]
    if any(not np.array_equal(task.labels, tasks[0].labels) for task in tasks):
        raise InputError(
            "The classifiers were trained on different examples, but expected the same ones; audit them apart."
        )
    labels = tasks[0].labels
    rows = as_positions(forgotten, len(labels), "forgotten")
    test = as_dataset(test_images, test_labels, tasks[0].num_classes)
    # Who was retained: what any of the models still learns, and is not to be forgotten.
    retained = np.setdiff1d(functools.reduce(np.union1d, (task.retain for task in tasks)), rows)
    models, behaviours = {}, {}
    for name, classifier in classifiers.items():
        mine, theirs = (
            classifier.predict(np.asarray(classifier.task.images)),
            classifier.predict(test.x_train),
        )
        members, others = (
            np.asarray(loss_scores(logits, of), np.float64)
            for logits, of in ((mine[rows], labels[rows]), (theirs, test.y_train))
        )
        is_member = np.arange(len(members) + len(others)) < len(members)
        attack = evaluate_scores(np.concatenate([members, others]), is_member, level=level, seed=seed)
        right = mine.argmax(axis=1) == labels
        accuracy = {
            "retain": float(right[retained].mean()) if len(retained) else None,
            "forget": float(right[rows].mean()),
            "test": float(np.mean(theirs.argmax(axis=1) == test.y_train)),
        }
        models[name] = {
            "accuracy": accuracy,
            "attacks": {"loss_threshold": attack},
            "gap_to_retrain": None,
            "gap_parts": {},
            "seconds": classifier.seconds,
            "trained_samples": classifier.trained_samples,
        }
        behaviours[name] = Behaviour(
            accuracy["forget"], accuracy["retain"] or 0.0, accuracy["test"], attack["auc"]
        )
    if "retrain" in behaviours:
        for name, behaviour in behaviours.items():
            gap = gap_to_retrain(behaviour, behaviours["retrain"])
            models[name] |= {"gap_to_retrain": gap.gap, "gap_parts": dict(gap.parts)}
    return Audit(models)
