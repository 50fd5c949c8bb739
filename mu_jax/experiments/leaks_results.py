"""From what the models of the experiment on leaks say to what results.json says of them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mu_jax.attacks.leaks import construct_features
from mu_jax.attacks.pair_attack import classical_features
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import data_facts, parameter_count
from mu_jax.experiments.leaks_attacks import (
    Attack,
    Fit,
    Questions,
    ask,
    attack_all,
    confidences,
    curves,
    figures_of,
)
from mu_jax.experiments.leaks_defenses import Defense
from mu_jax.experiments.leaks_models import Answers, LeaksModels
from mu_jax.experiments.leaks_setting import Arm, LeaksSetting, Side, Target
from mu_jax.experiments.leaks_versions import Scenario

QUESTION = "Does deleting an example give away that it was there, to somebody who can query the model before and after?"


@dataclasses.dataclass(frozen=True, eq=False)
class _Case:
    """One scenario of one arm under one defence, on both sides."""

    arm: Arm
    defense: Defense
    scenario: Scenario
    shadow: Questions
    target: Questions
    attacks: list[Attack]

    @property
    def facts(self) -> dict[str, Any]:
        """What names it in every table."""
        return {
            "arm": self.arm.name,
            "target": self.arm.target.name,
            "method": self.arm.method,
            "shares_start": self.arm.shares_start,
            "defense": defense_of(self.arm.target, self.defense),
            "scenario": self.scenario.kind,
            "size": self.scenario.size,
        }


def defense_of(target: Target, released: Defense) -> str:
    """Of training and of release together."""
    names = [one.name for one in (target.defense, released) if one.name != "none"]
    return " + ".join(names) or "none"


def results_of(
    setting: LeaksSetting,
    models: LeaksModels,
    answers: Callable[[Arm, Side], Answers],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Everything that results.json says."""
    config = setting.config
    cases, tables, figures = [], {"leaks": [], "transfer": [], "defenses": [], "roc": []}, {}
    for arm in setting.arms:
        say(f"attacking {arm.name}")
        said = {name: answers(arm, side) for name, side in setting.sides.items()}
        figures[arm.name] = _arm_figures(setting, arm, said["target"])
        for case in _cases(setting, arm, said):
            tables["leaks"] += [
                case.facts
                | {"feature": one.feature, "classifier": one.classifier, "chosen": place == 0}
                | {"selection_auc": one.selection_auc, **one.figures}
                for place, one in enumerate(case.attacks)
            ]
            tables["roc"] += [
                case.facts | curve
                for curve in curves(case.attacks[0], case.target)
                if case.scenario is _headline(setting.sides["target"])
            ]
            if case.scenario.kind == _headline(setting.sides["target"]).kind:
                cases.append(case)
        if "other" in said:
            tables["transfer"].append(_from_other_data(setting, cases, arm, said))
    tables["defenses"] = [_defense_row(setting, case, figures) for case in cases]
    tables["transfer"] += list(_transfers(setting, cases))
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": data_facts(setting)
        | {
            "class_names": list(setting.dataset.class_names),
            "tabular": setting.dataset.is_tabular,
            "side": len(setting.sides["target"].labels),
            "training_examples": config.leaks.training_examples,
            "other_source": config.leaks.other_source,
        },
        "study": {
            "originals": config.leaks.originals,
            "unlearned": config.leaks.unlearned,
            "targets": [_target_facts(target) for target in setting.targets],
            "interval_level": config.evaluation.interval_level,
            "fpr": list(config.evaluation.fpr),
            "models": sum(models.models.values()),
            "seconds": dict(models.seconds),
            "trained_samples": dict(models.trained_samples),
            "compile_seconds": dict(models.trainers.compile_seconds),
        },
        "models": figures,
        "tables": tables,
        "environment": environment(),
    }


def _headline(side: Side) -> Scenario:
    """The scenario that curves and defences are shown of: the first one."""
    return side.plan.scenarios[0]


def _cases(setting: LeaksSetting, arm: Arm, said: dict[str, Answers]) -> Iterator[_Case]:
    config = setting.config
    shadow_plan, target_plan = (setting.sides[name].plan for name in ("shadow", "target"))
    for learned, scenario in zip(shadow_plan.scenarios, target_plan.scenarios, strict=True):
        if not all(_made(one, said[name]) for name, one in (("shadow", learned), ("target", scenario))):
            continue
        for defense in _released(setting, arm):
            shadow = ask(learned, said["shadow"], defense.release)
            target = ask(scenario, said["target"], defense.release)
            attacks = attack_all(shadow, target, config.leaks, config.evaluation, config.seed)
            yield _Case(arm, defense, scenario, shadow, target, attacks)


def _released(setting: LeaksSetting, arm: Arm) -> tuple[Defense, ...]:
    """What is done to an arm's posteriors; one defence at a time where those of training are among them."""
    plain = tuple(one for one in setting.released if one.name == "none")
    return plain if plain and arm.target.defense.release is None else setting.released


def _made(scenario: Scenario, answers: Answers) -> bool:
    """Whether an arm has any version of a scenario: unlearning methods learn nothing in a deleted one's place."""
    return any(pair.after in answers.lessons for pair in scenario.pairs)


def _transfers(setting: LeaksSetting, cases: list[_Case]) -> Iterator[dict[str, Any]]:
    """Each arm's chosen attack on the pairs of each other kind of model that is deleted from in the same way."""
    for learned in cases:
        for asked in cases:
            if learned.arm.target is asked.arm.target or (
                (learned.arm.method, learned.arm.shares_start, learned.defense.name)
                != (asked.arm.method, asked.arm.shares_start, asked.defense.name)
            ):
                continue
            yield _transfer(setting, learned.attacks[0], learned.shadow, asked) | {
                "shadow_arm": learned.arm.name,
                "shadow_data": setting.dataset.name,
            }


def _from_other_data(
    setting: LeaksSetting, cases: list[_Case], arm: Arm, said: dict[str, Answers]
) -> dict[str, Any]:
    case = next(case for case in cases if case.arm is arm)
    other = setting.sides["other"]
    shadow = ask(_headline(other), said["other"], case.defense.release)
    return _transfer(setting, case.attacks[0], shadow, case) | {
        "shadow_arm": arm.name,
        "shadow_data": other.dataset.name,
    }


def _transfer(setting: LeaksSetting, attack: Attack, shadow: Questions, asked: _Case) -> dict[str, Any]:
    kind, classifier, seed = attack.feature, attack.classifier, setting.config.seed
    learned = construct_features(shadow.before, shadow.after, kind)
    features = construct_features(asked.target.before, asked.target.after, kind)
    old, now = classical_features(shadow.before), classical_features(asked.target.before)
    confidence, classical = confidences(
        [Fit(classifier, learned, shadow.member, features), Fit(classifier, old, shadow.member, now)], seed
    )
    return (
        asked.facts
        | {"feature": kind, "classifier": classifier}
        | figures_of(confidence, classical, asked.target, setting.config.evaluation, seed)
    )


def _defense_row(setting: LeaksSetting, case: _Case, figures: dict[str, Any]) -> dict[str, Any]:
    """What a defence costs and what it buys."""
    best, mine = case.attacks[0].figures, figures[case.arm.name]
    quality = mine["released"][case.defense.name]
    return case.facts | {
        "feature": case.attacks[0].feature,
        "classifier": case.attacks[0].classifier,
        **quality,
        **mine["privacy"],
        **{key: best[key] for key in ("auc", "classical_auc", "deg_rate", "interval")},
    }


def _arm_figures(setting: LeaksSetting, arm: Arm, answers: Answers) -> dict[str, Any]:
    """Accuracies of an arm's target models, and what its releases are worth."""
    side = setting.sides["target"]
    labels, never = side.labels, side.roles.never
    shares: dict[str, list[float]] = {"original_train": [], "original_test": []}
    shares |= {"retain": [], "forget": [], "test": []}
    released: dict[str, list[tuple[float, float]]] = {one.name: [] for one in setting.released}
    diverged = 0
    for version in side.plan.versions:
        if version.name not in answers.lessons:
            continue
        if not answers.sound(version.name):
            diverged += 1
            continue

        def right(rows: np.ndarray, name: str = version.name) -> float:
            return float((answers.posteriors(name, rows).argmax(axis=1) == labels[rows]).mean())

        if version.is_original:
            shares["original_train"].append(right(version.rows))
            shares["original_test"].append(right(never))
            said = answers.posteriors(version.name, never)
            for defense in setting.released:
                released[defense.name].append(_quality(defense.release(said), labels[never]))
        else:
            shares["retain"].append(right(version.rows))
            shares["forget"].append(right(version.deleted))
            shares["test"].append(right(never))
    mean = {key: float(np.mean(values)) for key, values in shares.items() if values}
    return {
        "accuracy": {key: mean[key] for key in ("retain", "forget", "test") if key in mean}
        | {"train": mean.get("original_train")},
        "original": {
            "accuracy": {"train": mean.get("original_train"), "test": mean.get("original_test")},
            "overfitting": mean["original_train"] - mean["original_test"]
            if "original_train" in mean
            else None,
        },
        "accuracy_sd": {
            key: float(np.std(values, ddof=1)) for key, values in shares.items() if len(values) > 1
        },
        "released": {
            name: {
                "test_accuracy": float(np.mean(values, axis=0)[0]),
                "brier": float(np.mean(values, axis=0)[1]),
            }
            for name, values in released.items()
            if values
        },
        "privacy": arm.target.defense.facts(arm.target.config.train, _rows(setting, arm)),
        "diverged": diverged,
    }


def _rows(setting: LeaksSetting, arm: Arm) -> int:
    """That one training of an original has: of an example's privacy under SISA its shard's training alone decides."""
    leaks = setting.config.leaks
    return leaks.training_examples // (leaks.sisa_shards if arm.method == "sisa" else 1)


def _quality(posteriors: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(accuracy, Brier score): what a user of the released posteriors still has."""
    one_hot = np.eye(posteriors.shape[1])[labels]
    return (
        float((posteriors.argmax(axis=1) == labels).mean()),
        float(((posteriors - one_hot) ** 2).sum(axis=1).mean()),
    )


def _target_facts(target: Target) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": target.name, "architecture": target.architecture}
    if not target.is_network:
        return facts
    shapes = jax.eval_shape(target.model.init, jax.random.key(0))
    return facts | {
        "width": target.config.model.width,
        "epochs": target.config.train.epochs,
        "parameters": parameter_count(shapes),
        "compute_dtype": target.config.model.compute_dtype,
        "convolution": target.lowering,
        "mapping": target.mapping,
    }
