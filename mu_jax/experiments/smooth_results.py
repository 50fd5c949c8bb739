"""From what the models of the study say to what results.json says of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mu_jax.adversarial.stored import StoredAdversarialSet
from mu_jax.attacks.loss import loss_scores
from mu_jax.evaluation.comparison import Behaviour, gap_to_retrain
from mu_jax.evaluation.roc import auc
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import data_facts, model_facts, neighbours_facts, split_sizes
from mu_jax.experiments.smooth_answers import SmoothAnswer
from mu_jax.experiments.smooth_attacks import Attacked
from mu_jax.experiments.smooth_setting import ROLES, Kind, Member, SmoothSetting
from mu_jax.smoothness.lipschitz import lipschitz_bound
from mu_jax.smoothness.tracking import tracked_names

QUESTION = (
    "What does clipping the norms of a network's layers do to its accuracy, to its robustness, to how far adversarial "
    "examples carry over between two such models, and to unlearning by AMUN?"
)


@dataclasses.dataclass(frozen=True)
class Studied:
    """All that the study found."""

    setting: SmoothSetting
    answers: Mapping[Member, SmoothAnswer]
    attacked: Mapping[Kind, Attacked]
    neighbours: Mapping[Member, StoredAdversarialSet]
    """by original"""
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class _Judged:
    accuracy: dict[str, float]
    loss_auc: float

    learned: bool
    """whether it is right more than twice as often as chance on what every model was trained on"""

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour(
            self.accuracy["forget"], self.accuracy["retain"], self.accuracy["test"], self.loss_auc
        )


def results_of(studied: Studied) -> dict[str, Any]:
    """Everything that results.json says."""
    setting = studied.setting
    config = setting.config
    kinds = [kind for norm in config.smoothness.norms for kind in setting.kinds(norm)]
    judged = {
        member: _judge(setting, answer.logits)
        for member, answer in studied.answers.items()
        if answer.diverged_step < 0
    }
    runs = [_run_row(studied, judged, member) for member in studied.answers]
    parameters = setting.networks[config.smoothness.norms[0]][0]
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": data_facts(setting) | split_sizes(setting.splits) | {"nonmembers": len(setting.nonmembers)},
        "model": model_facts(setting, _parameters(parameters)),
        "study": {
            "norms": list(config.smoothness.norms),
            "clips": list(config.smoothness.clips),
            "models": config.smoothness.models,
            "compile_seconds": studied.compile_seconds,
            "robust": f"{config.robust.norm}, ε {config.robust.epsilon:g}, {config.robust.images} test images",
            "transfer": f"{config.transfer.norm}, ε {config.transfer.epsilon:g}, {config.transfer.images} test images",
        },
        "models": {
            f"{role}@{kind.name}": found
            for kind in kinds
            for role in ROLES
            if (found := _summary(runs, role, kind)) is not None
        },
        "neighbours": [
            {"model": member.name} | neighbours_facts(stored) for member, stored in studied.neighbours.items()
        ],
        "tables": {
            "kinds": [_kind_row(studied, runs, judged, kind) for kind in kinds],
            "runs": runs,
            "transfer": [
                {"kind": kind.name, **row}
                for kind, found in studied.attacked.items()
                for row in found.transfer
            ],
            "layers": _layer_rows(studied, kinds),
        },
        "environment": environment(),
    }


def histories_of(studied: Studied) -> dict[str, Any]:
    """Of each kind's first original: tracked norms over training, float[R,T], their names, and the step of each row."""
    setting, found = studied.setting, {}
    for member, answer in studied.answers.items():
        if member.role != "original" or member.number:
            continue
        norm = member.kind.norm
        reached = answer.history.any(axis=1)
        found[member.kind.name] = {
            "norm": norm,
            "clip": member.kind.clip,
            "names": tracked_names(setting.networks[norm][0].layers(), setting.clipping(norm)),
            "steps": (setting.record_every * np.arange(len(reached)))[reached],
            "norms": answer.history[reached],
        }
    return found


def _judge(setting: SmoothSetting, logits: np.ndarray) -> _Judged:
    labels, splits = setting.dataset.labels, setting.splits
    correct = logits.argmax(axis=1) == labels
    scores = np.asarray(loss_scores(logits, labels), np.float64)
    compared = np.concatenate([scores[splits.forget], scores[setting.nonmembers]])
    rows = {"retain": splits.retain, "forget": splits.forget, "test": splits.test}
    accuracy = {part: float(correct[index].mean()) for part, index in rows.items()}
    return _Judged(
        accuracy,
        float(auc(compared, np.arange(len(compared)) < len(splits.forget))),
        accuracy["retain"] > 2 / setting.dataset.num_classes,
    )


def _run_row(studied: Studied, judged: Mapping[Member, _Judged], member: Member) -> dict[str, Any]:
    setting, answer = studied.setting, studied.answers[member]
    layers = setting.networks[member.kind.norm][0].layers()
    row: dict[str, Any] = {
        "role": member.role,
        "kind": member.kind.name,
        "number": member.number,
        "seconds": answer.seconds,
        "trained_samples": answer.trained_samples,
        "diverged_step": None if answer.diverged_step < 0 else answer.diverged_step,
    }
    if member not in judged:
        return row
    composed = np.where(np.isnan(answer.composed), answer.norms, answer.composed)
    norms = dict(zip([layer.name for layer in layers], composed.tolist(), strict=True))
    mine, reference = judged[member], judged.get(Member("retrain", member.kind, member.number))
    if member.role == "retrain":
        # The next one of its kind: two retrainings, which is the noise floor.
        after = (member.number + 1) % setting.config.smoothness.models
        reference = judged.get(Member("retrain", member.kind, after))
    if reference is not None and not reference.learned:
        reference = None
    labels, test = setting.dataset.labels, setting.splits.test
    return row | {
        "learned": mine.learned,
        **mine.accuracy,
        "test_before_clipping": float((answer.logits_before[test].argmax(axis=1) == labels[test]).mean()),
        "loss_auc": mine.loss_auc,
        "gap": None if reference is None else gap_to_retrain(mine.behaviour, reference.behaviour).gap,
        "largest_norm": float(answer.norms.max()),
        "largest_norm_before_clipping": float(answer.norms_before.max()),
        "largest_composed": float(composed.max()),
        "lipschitz_bound": lipschitz_bound(layers, norms, halve_shortcut=setting.config.model.halve_shortcut),
        "moved": answer.moved,
        "divided": answer.divided,
    }


def _summary(runs: Sequence[Mapping[str, Any]], role: str, kind: Kind) -> dict[str, Any] | None:
    mine = [row for row in runs if row["role"] == role and row["kind"] == kind.name]
    sound = [row for row in mine if row["diverged_step"] is None]
    if not mine:
        return None
    found: dict[str, Any] = {"n": len(sound), "diverged": len(mine) - len(sound)}
    if not sound:
        return found | {"accuracy": {}, "attacks": {}, "gap_to_retrain": None}
    gap, gap_sd = _spread([row["gap"] for row in sound])
    return found | {
        "accuracy": {part: _spread([row[part] for row in sound])[0] for part in ("retain", "forget", "test")},
        "attacks": {"loss_threshold": {"auc": _spread([row["loss_auc"] for row in sound])[0]}},
        "gap_to_retrain": gap,
        "gap_sd": gap_sd,
        "seconds": float(np.mean([row["seconds"] for row in sound])),
        "trained_samples": int(np.mean([row["trained_samples"] for row in sound])),
    }


def _kind_row(
    studied: Studied, runs: Sequence[Mapping[str, Any]], judged: Mapping[Member, _Judged], kind: Kind
) -> dict[str, Any]:
    """One line of the study: means over the kind's models that learned anything, each with its standard deviation."""

    def of(role: str, key: str) -> list[float | None]:
        mine = [row for row in runs if row["role"] == role and row["kind"] == kind.name]
        return [row.get(key) for row in mine if row.get("learned")]

    attacked = studied.attacked[kind]
    # The attacks were made on those that did not diverge.
    numbers = [one.number for one in judged if one.role == "original" and one.kind == kind]
    learned = {
        one.number for one in judged if one.role == "original" and one.kind == kind and judged[one].learned
    }

    def of_learned(values: Sequence[float]) -> list[float]:
        return [value for number, value in zip(numbers, values, strict=False) if number in learned]

    pairs = [row for row in attacked.transfer if {row["source"], row["target"]} <= learned]
    distances = [
        float(stored.distance[stored.epsilon > 0].mean())
        for member, stored in studied.neighbours.items()
        if member.kind == kind and member.number in learned and (stored.epsilon > 0).any()
    ]
    figures = {
        "test": of("original", "test"),
        "train": of("original", "retain"),
        "lipschitz_bound": of("original", "lipschitz_bound"),
        "largest_norm": of("original", "largest_norm"),
        "largest_composed": of("original", "largest_composed"),
        "robust_accuracy": of_learned(attacked.robust_accuracy),
        "success": of_learned(attacked.success),
        "transfer": [row["misclassified"] for row in pairs],
        "same_label": [row["same_label"] for row in pairs],
        "distance": distances,
        "gap_amun": of("amun", "gap"),
        "gap_original": of("original", "gap"),
        "gap_retrain_again": of("retrain", "gap"),
    }
    row: dict[str, Any] = {"kind": kind.name, "norm": kind.norm, "clip": kind.clip}
    for name, values in figures.items():
        row[name], row[f"{name}_sd"] = _spread(values)
    diverged = [member for member in studied.answers if member.kind == kind and member not in judged]
    return row | {
        "models": studied.setting.config.smoothness.models,
        "diverged": len(diverged),
        "stuck": sum(not found.learned for member, found in judged.items() if member.kind == kind),
        "stuck_originals": len(numbers) - len(learned),
    }


def _layer_rows(studied: Studied, kinds: Sequence[Kind]) -> list[dict[str, Any]]:
    """The measured norm of every layer of each kind's first original."""
    rows = []
    for kind in kinds:
        answer = studied.answers[Member("original", kind, 0)]
        layers = studied.setting.networks[kind.norm][0].layers()
        for i, layer in enumerate(layers):
            composed = float(answer.composed[i])
            rows.append(
                {
                    "kind": kind.name,
                    "layer": layer.name,
                    "norm": float(answer.norms[i]),
                    "before_last_clipping": float(answer.norms_before[i]),
                    "composed": None if np.isnan(composed) else composed,
                }
            )
    return rows


def _spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


def _parameters(model: Any) -> int:
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
