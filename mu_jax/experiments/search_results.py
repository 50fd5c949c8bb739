"""From what all candidates of a search say to results.json: figures, gaps, and the best setting of each method."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.adversarial.stored import StoredAdversarialSet
from mu_jax.evaluation.comparison import Behaviour, Gap, gap_to_retrain
from mu_jax.evaluation.intervals import proportion_interval
from mu_jax.evaluation.membership import evaluate_scores
from mu_jax.evaluation.roc import auc
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import data_facts, model_facts, neighbours_facts, parameter_count, split_sizes
from mu_jax.experiments.search_answers import GroupAnswer
from mu_jax.experiments.search_grid import KNOBS, Candidate
from mu_jax.experiments.search_setting import SearchSetting
from mu_jax.experiments.setting import Trained
from mu_jax.unlearning.methods import METHODS

QUESTION = (
    "With which of its settings does each unlearning method come nearest to retraining, on a forget set that is not "
    "the one to be scored?"
)
REFERENCES = ("original", "retrain", "retrain_again")


@dataclasses.dataclass(frozen=True)
class Searched:
    """All that a search found."""

    setting: SearchSetting
    references: Mapping[str, tuple[Trained, np.ndarray, np.ndarray]]
    """of `REFERENCES`: the model, its loss float32[N] and its hits bool[N]"""
    answers: Mapping[str, GroupAnswer]
    neighbours: Mapping[str, StoredAdversarialSet]
    """by kind"""
    programs: int
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class _Judged:
    loss: np.ndarray
    correct: np.ndarray
    accuracy: dict[str, float]
    loss_auc: float

    @property
    def behaviour(self) -> Behaviour:
        """The loss attack stands in for RMIA: a search has no pool of references."""
        return Behaviour(
            self.accuracy["forget"], self.accuracy["retain"], self.accuracy["test"], self.loss_auc
        )


def results_of(searched: Searched) -> dict[str, Any]:
    """Everything that results.json says."""
    setting = searched.setting
    config, splits = setting.config, setting.splits
    judged = {name: _judge(setting, loss, hits) for name, (_, loss, hits) in searched.references.items()}
    retrain = judged["retrain"].behaviour
    models = {
        name: _model(
            setting,
            judged[name],
            gap_to_retrain(judged[name].behaviour, retrain),
            trained.seconds,
            trained.trained_samples,
        )
        | {"compile_seconds": trained.compile_seconds}
        for name, (trained, _, _) in searched.references.items()
    }
    rows, best = [], {}
    places = {
        name: (answer, place)
        for answer in searched.answers.values()
        for place, name in enumerate(answer.names)
    }
    for method, candidates in setting.grid.items():
        tried = {}
        for candidate in candidates:
            answer, place = places[candidate.name]
            found = gap = None
            if answer.diverged_step[place] < 0:
                found = _judge(setting, answer.loss[place], answer.correct[place])
                gap = gap_to_retrain(found.behaviour, retrain)
            tried[candidate] = (found, gap)
            rows.append(_row(candidate, found, gap, answer, place))
        sound = [candidate for candidate, (found, _) in tried.items() if found is not None]
        chosen = min(sound, key=lambda one: tried[one][1].gap, default=None)
        best[method] = _best(setting, candidates, chosen) | {"diverged": len(candidates) - len(sound)}
        if chosen is not None:
            answer, place = places[chosen.name]
            seconds, samples = float(answer.seconds[place]), int(answer.trained_samples[place])
            models[method] = _model(setting, *tried[chosen], seconds, samples)
            best[method]["gap"] = tried[chosen][1].gap
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": data_facts(setting) | split_sizes(splits) | {"to_be_scored": len(setting.scored.forget)},
        "model": model_facts(setting, parameter_count(searched.references["original"][0].variables))
        | {"convolution_side_by_side": setting.group_lowering},
        "search": {
            "settings": len(rows),
            "groups": len(searched.answers),
            "programs": searched.programs,
            "seconds": float(sum(answer.seconds.sum() for answer in searched.answers.values())),
            "compile_seconds": searched.compile_seconds,
            "auc": "loss attack, forget against test",
            "shared_settings": _shared(setting.grid),
            "other_kind": bool(config.forget.indices or config.forget.classes),
        },
        "models": models,
        "best": best,
        "neighbours": [
            {"kind": kind} | neighbours_facts(stored) for kind, stored in searched.neighbours.items()
        ],
        "tables": {"search": rows},
        "environment": environment(),
    }


def _judge(setting: SearchSetting, loss: np.ndarray, correct: np.ndarray) -> _Judged:
    splits = setting.splits
    parts = {"retain": splits.retain, "forget": splits.forget, "test": splits.test}
    accuracy = {part: float(correct[rows].mean()) for part, rows in parts.items()}
    return _Judged(loss, correct, accuracy, auc(*_scores(setting, loss)))


def _scores(setting: SearchSetting, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    forget, test = setting.splits.forget, setting.splits.test
    scores = -loss[np.concatenate([forget, test])].astype(np.float64)
    return scores, np.arange(len(scores)) < len(forget)


def _model(
    setting: SearchSetting, judged: _Judged, gap: Gap, seconds: float, trained_samples: int
) -> dict[str, Any]:
    evaluation, splits = setting.config.evaluation, setting.splits
    parts = {"retain": splits.retain, "forget": splits.forget, "test": splits.test}
    level = evaluation.interval_level
    return {
        "accuracy": judged.accuracy,
        "accuracy_interval": {
            part: list(proportion_interval(int(judged.correct[rows].sum()), len(rows), level=level))
            for part, rows in parts.items()
        },
        "attacks": {
            "loss_threshold": evaluate_scores(
                *_scores(setting, judged.loss),
                fpr=evaluation.fpr,
                level=level,
                samples=evaluation.bootstrap_samples,
                seed=setting.config.seed,
            )
        },
        "gap_to_retrain": gap.gap,
        "gap_parts": dict(gap.parts),
        "seconds": seconds,
        "trained_samples": trained_samples,
    }


def _setting(candidate: Candidate) -> dict[str, Any]:
    knob = KNOBS.get(candidate.method)
    return {
        "setting": candidate.name,
        "learning_rate": candidate.learning_rate,
        "step_epochs": candidate.step_epochs,
        "epochs": candidate.epochs,
        "knob": None if knob is None else knob.short,
        "knob_value": candidate.knob,
    }


def _row(
    candidate: Candidate, judged: _Judged | None, gap: Gap | None, answer: GroupAnswer, place: int
) -> dict[str, Any]:
    accuracy = {} if judged is None else judged.accuracy
    step = int(answer.diverged_step[place])
    return {
        "method": candidate.method,
        **_setting(candidate),
        **{part: accuracy.get(part) for part in ("retain", "forget", "test")},
        "loss_auc": None if judged is None else judged.loss_auc,
        "gap": None if gap is None else gap.gap,
        "diverged_step": None if step < 0 else step,
        "seconds": float(answer.seconds[place]),
        "trained_samples": int(answer.trained_samples[place]),
    }


def _best(
    setting: SearchSetting, candidates: Sequence[Candidate], chosen: Candidate | None
) -> dict[str, Any]:
    if chosen is None:
        return {"setting": None, "tried": len(candidates), "gap": None, "overrides": []}
    return {
        **_setting(chosen),
        "tried": len(candidates),
        "at_edge": [
            word
            for word, field in (("learning rate", "learning_rate"), ("epochs", "epochs"), ("knob", "knob"))
            if _at_edge(getattr(chosen, field), [getattr(one, field) for one in candidates])
        ],
        "overrides": chosen.overrides(setting.config.methods),
    }


def _at_edge(value: float | None, tried: Sequence[float | None]) -> bool:
    """Whether a value is the least or the greatest of three or more."""
    if value is None or len(set(tried)) < 3:
        return False
    return math.isclose(value, min(tried)) or math.isclose(value, max(tried))


def _shared(grid: Mapping[str, Any]) -> dict[str, list[str]]:
    """Groups of settings that more than one method of the search reads."""
    readers: dict[str, list[str]] = {}
    for method in grid:
        readers.setdefault(METHODS[method].settings, []).append(method)
    return {where: methods for where, methods in readers.items() if len(methods) > 1}
