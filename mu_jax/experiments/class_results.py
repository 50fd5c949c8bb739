"""From what the models of class unlearning say to what results.json says of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy.stats

from mu_jax.evaluation.comparison import Behaviour, gap_to_retrain
from mu_jax.experiments.class_answers import ClassAnswer
from mu_jax.experiments.class_judge import RETRAINED, Judged, judge_class
from mu_jax.experiments.class_setting import ClassSetting, Member
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import data_facts, model_facts

QUESTION = (
    "After a class was forgotten, can one tell the model from one that never saw the class, by what it says of that "
    "class's images about the classes that stay?"
)
PARTS = ("retain", "forget", "test", "test_forget")


def results_of(
    setting: ClassSetting,
    answer: Callable[[Member], ClassAnswer | None],
    compile_seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything that results.json says; `answer(member)` is what a model says, None where it was not made."""
    config = setting.config
    names = ["original", "retrain", *(row.name for row in setting.rows)]
    runs: list[dict[str, Any]] = []
    classes: list[dict[str, Any]] = []
    confusion: list[dict[str, Any]] = []
    judged: dict[int, dict[str, Judged]] = {}
    for label in setting.classes:
        answers = {
            name: {
                member.number: found
                for member in setting.members(name, -1 if name == "original" else label)
                if (found := answer(member)) is not None
            }
            for name in names
        }
        sound = {
            name: {number: one.logits for number, one in mine.items() if one.diverged_step < 0}
            for name, mine in answers.items()
        }
        judged[label] = judge_class(setting, label, sound)
        for name in names:
            runs += _run_rows(name, label, answers[name], judged[label].get(name))
        for name, found in judged[label].items():
            classes.append(_class_row(setting, name, label, found))
            confusion.append({"model": name, "class": label, "shares": found.confusion.tolist()})
    models = {name: _summary(name, judged, runs) for name in names}
    for name, rank in _ranks(models, [row.name for row in setting.rows]).items():
        models[name]["rank"] = rank
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": data_facts(setting)
        | {
            "class_names": list(setting.dataset.class_names),
            "train": len(setting.trained),
            "test": len(setting.splits.test),
        },
        "model": model_facts(setting, _parameters(setting)),
        "study": {
            "models": config.shadows.models,
            "classes": list(setting.classes),
            "nearest_neighbour": dict(vars(config.nearest_neighbour)),
            "ulira": dict(vars(config.ulira)),
            "interval_level": config.evaluation.interval_level,
            "compile_seconds": dict(compile_seconds),
        },
        "models": models,
        "tables": {"classes": classes, "confusion": confusion, "runs": runs},
        "environment": environment(),
    }


def _run_rows(
    name: str, label: int, answers: Mapping[int, ClassAnswer], judged: Judged | None
) -> list[dict[str, Any]]:
    rows = []
    for number, found in answers.items():
        row: dict[str, Any] = {
            "model": name,
            "class": label,
            "number": number,
            "diverged_step": None if found.diverged_step < 0 else found.diverged_step,
            "seconds": found.seconds + found.preparation_seconds,
            "trained_samples": found.trained_samples,
            "read_samples": found.read_samples,
        }
        if judged is not None and number in judged.numbers:
            place = judged.numbers.index(number)
            row |= {
                "accuracy": {part: float(judged.accuracy[part][place]) for part in PARTS},
                "loss_auc": float(judged.loss_auc[place]),
                "mia_nn_accuracy": float(judged.mia_nn.accuracy[place]),
                "mia_nn_leak": float(judged.mia_nn.leak[place]),
                "total_variation": float(judged.total_variation[place]),
            }
        rows.append(row)
    return rows


def _class_row(setting: ClassSetting, name: str, label: int, found: Judged) -> dict[str, Any]:
    class_names = setting.dataset.class_names
    return {
        "model": name,
        "class": label,
        "class_name": class_names[label],
        "nearest": found.nearest,
        "nearest_name": class_names[found.nearest],
        "models": len(found.numbers),
        "accuracy": {part: float(found.accuracy[part].mean()) for part in PARTS},
        "accuracy_sd": {part: _spread(found.accuracy[part])[1] for part in PARTS},
        "loss_auc": float(found.loss_auc.mean()),
        "mia_nn_accuracy": float(found.mia_nn.accuracy.mean()),
        "mia_nn_accuracy_sd": _spread(found.mia_nn.accuracy)[1],
        "mia_nn_retrain": float(found.mia_nn.retrain_accuracy.mean()),
        "mia_nn_retrain_sd": _spread(found.mia_nn.retrain_accuracy)[1],
        "mia_nn_leak": float(found.mia_nn.leak.mean()),
        "mia_nn_z": None if not np.isfinite(found.mia_nn.z).all() else float(found.mia_nn.z.mean()),
        **{f"ulira_{key}": value for key, value in found.ulira.items()},
        "total_variation": float(found.total_variation.mean()),
        "total_variation_sd": _spread(found.total_variation)[1],
        "kl": float(found.kl.mean()),
    }


def _summary(
    name: str, judged: Mapping[int, Mapping[str, Judged]], runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One row of the main table: means over classes of means over models."""
    mine = {label: found[name] for label, found in judged.items() if name in found}
    own = [row for row in runs if row["model"] == name]
    summary: dict[str, Any] = {
        "n": len(mine),
        "diverged": sum(row["diverged_step"] is not None for row in own),
        "seconds": _spread([row["seconds"] for row in own])[0],
        "trained_samples": _spread([row["trained_samples"] for row in own])[0],
    }
    if not mine:
        return summary | {"accuracy": {}, "attacks": {}, "gap_to_retrain": None}

    def over(values: Sequence[np.ndarray]) -> tuple[float | None, float | None]:
        """Mean and standard deviation, over classes where there are several, else over models."""
        return _spread([value.mean() for value in values] if len(values) > 1 else values[0])

    figures = {part: over([found.accuracy[part] for found in mine.values()]) for part in PARTS}
    leak, leak_sd = over([found.mia_nn.leak for found in mine.values()])
    z = [found.mia_nn.z.mean() for found in mine.values() if np.isfinite(found.mia_nn.z).all()]
    variation, variation_sd = over([found.total_variation for found in mine.values()])
    gaps = [
        _gap(found, judged[label]["retrain"]) for label, found in mine.items() if "retrain" in judged[label]
    ]
    ulira = [found.ulira for found in mine.values()]
    return summary | {
        "accuracy": {part: value for part, (value, _) in figures.items()},
        "accuracy_sd": {part: sd for part, (_, sd) in figures.items()},
        "attacks": {
            "mia_nn": {
                "accuracy": over([found.mia_nn.accuracy for found in mine.values()])[0],
                "retrain_accuracy": over([found.mia_nn.retrain_accuracy for found in mine.values()])[0],
                "leak": leak,
                "leak_sd": leak_sd,
                # Of the method rather than of one model: what models differ by among themselves averages out.
                "difference": None
                if name == RETRAINED
                else _spread(
                    [
                        abs(float(found.mia_nn.accuracy.mean() - found.mia_nn.retrain_accuracy.mean()))
                        for found in mine.values()
                    ]
                )[0],
                "z": float(np.mean(z)) if z else None,
            },
            "ulira": {
                "auc": _spread([one["auc"] for one in ulira])[0],
                "auc_distance": _spread([one["auc"] and abs(one["auc"] - 0.5) for one in ulira])[0],
                # Of one class alone; over several the table of classes has them.
                "interval": ulira[0]["interval"] if len(ulira) == 1 else None,
                "accuracy": _spread([one["accuracy"] for one in ulira])[0],
            },
            "loss_threshold": {"auc": over([found.loss_auc for found in mine.values()])[0]},
        },
        "total_variation": variation,
        "total_variation_sd": variation_sd,
        "kl": over([found.kl for found in mine.values()])[0],
        "gap_to_retrain": _spread([gap.gap for gap in gaps])[0],
        "gap_parts": {part: _spread([gap.parts[part] for gap in gaps])[0] for part in gaps[0].parts}
        if gaps
        else {},
    }


def _gap(found: Judged, retrain: Judged) -> Any:
    return gap_to_retrain(_behaviour(found), _behaviour(retrain))


def _behaviour(found: Judged) -> Behaviour:
    mean = {part: float(found.accuracy[part].mean()) for part in PARTS}
    return Behaviour(mean["forget"], mean["retain"], mean["test"], float(found.loss_auc.mean()))


def _ranks(models: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> dict[str, float | None]:
    """Of each method, the mean of its places by MIA-NN's leak, by U-LiRA and by total variation; ties share a place."""

    def figures(name: str) -> tuple[float | None, ...]:
        model = models[name]
        attacks = model["attacks"]
        return attacks["mia_nn"]["leak"], attacks["ulira"]["auc_distance"], model["total_variation"]

    # Models that diverged may leave too few for an attack.
    known = [name for name in methods if models[name]["n"] and None not in figures(name)]
    places = [scipy.stats.rankdata(column) for column in zip(*map(figures, known), strict=True)]
    mean = dict(zip(known, np.mean(places, axis=0).tolist(), strict=True)) if known else {}
    return {name: mean.get(name) for name in models}


def _spread(values: Sequence[float | int | None] | np.ndarray) -> tuple[float | None, float | None]:
    known = [float(value) for value in values if value is not None]
    if not known:
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


def _parameters(setting: ClassSetting) -> int:
    shapes = jax.eval_shape(setting.model.init, jax.random.key(0))["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
