"""From the logits of the compared models to what results.json and the report say of them."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.attacks.loss import balanced_indices, logistic_loss_attack, loss_scores
from mu_jax.attacks.signals import confidence
from mu_jax.config import to_dict
from mu_jax.evaluation.comparison import Behaviour, gap_to_retrain
from mu_jax.evaluation.intervals import proportion_interval
from mu_jax.evaluation.membership import evaluate_scores, evaluate_shuffle_splits
from mu_jax.evaluation.report import ReportData
from mu_jax.experiments.facts import data_facts, model_facts, parameter_count, split_sizes
from mu_jax.experiments.run_folder import git_revision, versions
from mu_jax.experiments.setting import Setting, Trained

QUESTION = (
    "After some training images are deleted, does fine-tuning on the rest hide that they were ever there as well "
    "as retraining would, and what does it cost in accuracy?"
)

# scikit-learn's shuffle splits hold out a tenth of each side, so each side needs ten.
_SMALLEST_LOGISTIC_ATTACK = 10


def evaluate(
    setting: Setting, trained: Mapping[str, Trained], logits: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Everything that results.json says."""
    config, dataset, splits = setting.config, setting.dataset, setting.splits
    settings, labels = config.evaluation, dataset.labels
    models: dict[str, dict[str, Any]] = {}
    behaviours: dict[str, Behaviour] = {}
    parts = {"retain": splits.retain, "forget": splits.forget, "test": splits.test}
    if len(splits.validation):
        parts["validation"] = splits.validation
    for name, output in logits.items():
        correct = output.argmax(axis=1) == labels
        hits = {part: (int(correct[rows].sum()), len(rows)) for part, rows in parts.items()}
        accuracy = {part: right / total for part, (right, total) in hits.items()}
        attacks = attack(setting, output)
        behaviours[name] = Behaviour(
            unlearn_accuracy=accuracy["forget"],
            retain_accuracy=accuracy["retain"],
            test_accuracy=accuracy["test"],
            forget_vs_test_auc=attacks["loss_threshold"]["auc"],
        )
        models[name] = {
            "accuracy": accuracy,
            "accuracy_interval": {
                part: list(proportion_interval(right, total, level=settings.interval_level))
                for part, (right, total) in hits.items()
            },
            "attacks": attacks,
            "seconds": trained[name].seconds,
            "compile_seconds": trained[name].compile_seconds,
            "trained_samples": trained[name].trained_samples,
        }
    for name, behaviour in behaviours.items():
        gap = gap_to_retrain(behaviour, behaviours["retrain"])
        models[name] |= {"gap_to_retrain": gap.gap, "gap_parts": dict(gap.parts)}
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": data_facts(setting) | split_sizes(splits) | {"nonmembers": len(setting.nonmembers)},
        "model": model_facts(setting, parameter_count(trained["original"].variables)),
        "models": models,
        "tables": {},
        "environment": environment(),
    }


def attack(setting: Setting, logits: np.ndarray) -> dict[str, Any]:
    """The loss attack, forgotten against never-seen images: by threshold, and as the challenge kit does it."""
    config, labels = setting.config, setting.dataset.labels
    scores = np.asarray(loss_scores(logits, labels), np.float64)
    members, nonmembers = scores[setting.splits.forget], scores[setting.nonmembers]
    how = {
        "level": config.evaluation.interval_level,
        "samples": config.evaluation.bootstrap_samples,
        "seed": config.seed,
    }
    is_member = np.arange(len(members) + len(nonmembers)) < len(members)
    attacks = {
        "loss_threshold": evaluate_scores(
            np.concatenate([members, nonmembers]), is_member, fpr=config.evaluation.fpr, **how
        )
    }
    if min(len(members), len(nonmembers)) >= _SMALLEST_LOGISTIC_ATTACK:
        mine, theirs = balanced_indices(len(members), len(nonmembers), config.seed)
        splits = config.evaluation.attack_splits
        predictions = logistic_loss_attack(
            -members[mine], -nonmembers[theirs], splits=splits, seed=config.seed
        )
        attacks["loss_logistic"] = evaluate_shuffle_splits(predictions, level=how["level"])
    return attacks


def report_data(
    setting: Setting,
    results: dict[str, Any],
    logits: Mapping[str, np.ndarray],
    curves: list[dict[str, Any]],
) -> ReportData:
    """What the page shows beyond results.json."""
    dataset, forget = setting.dataset, setting.splits.forget
    scores = {name: np.asarray(loss_scores(output, dataset.labels)) for name, output in logits.items()}
    draw = np.random.default_rng([setting.config.seed, 24])
    gallery = draw.choice(forget, min(setting.config.evaluation.gallery_images, len(forget)), replace=False)
    return ReportData(
        results=results,
        config=to_dict(setting.config),
        curves=curves,
        member_scores={name: score[forget] for name, score in scores.items()},
        nonmember_scores={name: score[setting.nonmembers] for name, score in scores.items()},
        # Forgotten images are training images. A page shows gray or colour: of other channels, the first one or three.
        gallery_images=dataset.x_train[gallery][..., : 3 if dataset.image_shape[-1] >= 3 else 1],
        gallery_labels=[dataset.class_names[label] for label in dataset.labels[gallery]],
        gallery_confidence={
            name: np.asarray(confidence(output[gallery], dataset.labels[gallery]))
            for name, output in logits.items()
        },
    )


def environment() -> dict[str, str]:
    """What the figures were measured on."""
    found = versions()
    device = jax.local_devices()[0]
    return {
        "jax": found["jax"],
        "python": found["python"],
        "device": f"{jax.local_device_count()} × {device.platform} ({device.device_kind})",
        "git": git_revision(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
