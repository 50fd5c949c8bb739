"""What results.json and the terminal say of a model before and after a deletion."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.adversarial.stored import StoredAdversarialSet, variables_sha256
from mu_jax.data.files import user_path
from mu_jax.evaluation.intervals import proportion_interval
from mu_jax.evaluation.report.saved_page import accuracy_line, before_and_after
from mu_jax.experiments.comparison_results import attack, environment
from mu_jax.experiments.facts import data_facts, model_facts, neighbours_facts, parameter_count, split_sizes
from mu_jax.experiments.setting import Trained
from mu_jax.experiments.sweep_table import Summary
from mu_jax.experiments.unlearn_saved_setting import SavedSetting

QUESTION = (
    "What does an unlearning method change of a saved model: its accuracy on what is kept, on what is forgotten and on "
    "unseen images, and what an attack on the loss can tell of the forgotten ones?"
)
NO_RETRAIN = (
    "No model was retrained without the forgotten examples, so there is no gap to it, and nothing here says how far "
    "the figures ought to move; unlearning_methods compares with retraining."
)
_NAMED = 10
_WHY = {
    "not_flipped": "did not flip within the largest ε",
    "flipped_back": "flipped back as they are stored",
    "not_covered": "the ready set says nothing of",
}


@dataclasses.dataclass(frozen=True)
class Unlearned:
    """The model that the method made, and what came before its training."""

    trained: Trained
    neighbours: StoredAdversarialSet | None
    preparation_seconds: float
    read_samples: int
    """examples that a method without training asked the original about"""


def evaluate_saved(
    setting: SavedSetting, unlearned: Unlearned, logits: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Everything that results.json says; `logits` are of `original` and of the method's model."""
    config, splits = setting.config, setting.splits
    parts = {"retain": splits.retain, "forget": splits.forget, "test": splits.test}
    if len(splits.validation):
        parts["validation"] = splits.validation
    parts |= _test_parts(setting)
    trained, stored = unlearned.trained, unlearned.neighbours
    known = None if setting.run is None else setting.run.augmentation
    models = {name: _figures(setting, parts, output) for name, output in logits.items()}
    models["original"] |= _costs_of_original(setting)
    models[config.method] |= {
        "seconds": trained.seconds,
        "preparation_seconds": unlearned.preparation_seconds,
        "compile_seconds": trained.compile_seconds,
        "trained_samples": trained.trained_samples,
        "read_samples": unlearned.read_samples,
    }
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "note": NO_RETRAIN,
        "checkpoint": {
            "path": str(user_path(config.checkpoint)),
            "model": config.checkpoint_model if setting.run is not None else None,
            "sha256": variables_sha256(setting.original),
            "augmentation": None if known is None else list(known),
        },
        "method": config.method,
        "data": data_facts(setting)
        | split_sizes(splits)
        | {
            "forget_classes": list(setting.task.forget_classes),
            "deleted_before": len(setting.deleted),
            "nonmembers": len(setting.nonmembers),
            "seed": setting.data_seed,
        },
        "model": model_facts(setting, parameter_count(setting.original)),
        "models": models,
        "neighbours": [] if stored is None else [_describe(setting, stored)],
        "tables": {},
        "environment": environment(),
    }


def _test_parts(setting: SavedSetting) -> dict[str, np.ndarray]:
    """Where whole classes are forgotten, the test images of those that stay, and the others: what may be lost, and what
    is meant to be."""
    gone, test = setting.task.forget_classes, setting.splits.test
    if not gone:
        return {}
    is_gone = np.isin(setting.dataset.labels[test], gone)
    parts = {"test_retain": test[~is_gone], "test_forget": test[is_gone]}
    return {part: rows for part, rows in parts.items() if len(rows)}


def _figures(setting: SavedSetting, parts: Mapping[str, np.ndarray], output: np.ndarray) -> dict[str, Any]:
    correct = output.argmax(axis=1) == setting.dataset.labels
    hits = {part: (int(correct[rows].sum()), len(rows)) for part, rows in parts.items()}
    level = setting.config.evaluation.interval_level
    return {
        "accuracy": {part: right / total for part, (right, total) in hits.items()},
        "accuracy_interval": {
            part: list(proportion_interval(right, total, level=level))
            for part, (right, total) in hits.items()
        },
        "attacks": attack(setting, output),
        "gap_to_retrain": None,
        "gap_parts": {},
    }


def _costs_of_original(setting: SavedSetting) -> dict[str, Any]:
    """What its own run says that it took; None where the checkpoint is a file."""
    known = {} if setting.run is None else setting.run.facts
    keys = ("seconds", "preparation_seconds", "compile_seconds", "trained_samples", "read_samples")
    return {key: known.get(key) for key in keys}


def _describe(setting: SavedSetting, stored: StoredAdversarialSet) -> dict[str, Any]:
    of_model = {"ready": setting.ready is not None, "model_sha256": stored.model_sha256}
    return of_model | neighbours_facts(stored) | left_out_of(stored, setting.splits.forget)


def left_out_of(stored: StoredAdversarialSet, forget: np.ndarray) -> dict[str, list[int]]:
    """The examples of `forget` without a neighbour, by the reason; `not_covered` are those a ready set says nothing of.

    What a set left out besides, being made for more examples than these, is no concern of this request.
    """
    known = {
        "not_flipped": np.intersect1d(stored.not_flipped, forget),
        "flipped_back": np.intersect1d(stored.flipped_back, forget),
    }
    covered = np.concatenate([stored.index, *known.values()])
    known["not_covered"] = np.setdiff1d(forget, covered)
    return {reason: rows.tolist() for reason, rows in known.items()}


def left_out_line(left_out: Mapping[str, Any]) -> str:
    """One line that counts and names the examples without an adversarial neighbour; empty where there are none.

    `left_out` is what `left_out_of` says, alone or among other facts of the set.
    """
    rows = {reason: left_out.get(reason, []) for reason in _WHY}
    every = sorted(row for some in rows.values() for row in some)
    if not every:
        return ""
    named = ", ".join(map(str, every[:_NAMED])) + (", …" if len(every) > _NAMED else "")
    why = ", ".join(f"{len(some):,} {_WHY[reason]}" for reason, some in rows.items() if some)
    return f"left out of the adversarial set: {named} ({why}; all are named in results.json)"


def saved_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """The model before and after, and what qualifies it; `workdir` is not named in the lines."""
    checkpoint = results["checkpoint"]
    source = " of ".join(filter(None, [checkpoint["model"], checkpoint["path"]]))
    title = f"{results['data']['name']}: {results['method']} forgets {results['data']['forget']} examples ({source})"
    lines = [left_out_line(neighbours) for neighbours in results["neighbours"]]
    if results["data"].get("forget_classes"):
        # The table's test images are of all classes.
        lines.append(accuracy_line(results))
    return title, before_and_after(results, compact=True), [*filter(None, lines), results["note"]]
