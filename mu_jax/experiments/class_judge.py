"""All figures of one forgotten class: what originals, retrained and unlearned models say of it, from logits alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.attacks.loss import loss_scores
from mu_jax.attacks.nearest_neighbour import NearestNeighbourAttack, nearest_neighbour_attack
from mu_jax.attacks.ulira import class_phi, leave_one_out_ulira_class, paired_scores
from mu_jax.evaluation.class_distance import confusion, kl_to_retrained, total_variation
from mu_jax.evaluation.many_targets import evaluate_targets
from mu_jax.evaluation.roc import auc
from mu_jax.experiments.class_setting import ClassSetting

RETRAINED = "retrain"


@dataclasses.dataclass(frozen=True)
class MiaNn:
    """MIA-NN on the models of a row, beside the retrained ones."""

    accuracy: np.ndarray
    """float64[M]"""
    leak: np.ndarray
    """float64[M]; a retrained model's is to the others"""
    z: np.ndarray
    """float64[M], in the retrained models' standard deviations"""
    retrain_accuracy: np.ndarray
    """float64[R]"""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A row of one class."""

    numbers: tuple[int, ...]
    """of its M models, in the order of all that follows"""
    accuracy: dict[str, np.ndarray]
    """float64[M], by the parts of `ClassSetting.rows_of`"""
    loss_auc: np.ndarray
    """float64[M], of the loss attack on forgotten against test images of the class"""
    nearest: int
    """the class that retrained models take this one for"""
    mia_nn: MiaNn
    ulira: dict[str, Any]
    """`auc`, `interval` and `accuracy`"""
    total_variation: np.ndarray
    """float64[M], to the retrained models' mean posterior; of a retrained model, to the others'"""
    kl: np.ndarray
    """float64[M], in nats"""
    confusion: np.ndarray
    """float64[C], shares of the class's test images that the models take for each class"""


def judge_class(
    setting: ClassSetting, label: int, logits: Mapping[str, Mapping[int, np.ndarray]]
) -> dict[str, Judged]:
    """The rows of one class that have models, by name; `logits[name][number]` are float32[N,C] of the sound ones.

    Empty with fewer than four retrained models: there is nothing to compare with then.
    """
    retrained = logits[RETRAINED]
    if len(retrained) < 4:
        return {}
    beside = np.stack(list(retrained.values()))
    names = [name for name in logits if name != RETRAINED and logits[name]]
    tested = np.concatenate([np.stack(list(logits[name].values())) for name in names])
    attack = _nearest_neighbour(setting, label, tested, beside)
    found, first = {}, 0
    for name in [RETRAINED, *names]:
        models = np.stack(list(logits[name].values()))
        mine = slice(first, first + len(models))
        if name == RETRAINED:
            duel = MiaNn(
                attack.retrained_accuracy,
                attack.retrained_leak,
                attack.retrained_z,
                attack.retrained_accuracy,
            )
        else:
            duel = MiaNn(attack.accuracy[mine], attack.leak[mine], attack.z[mine], attack.retrained_accuracy)
            first = mine.stop
        variation, divergence = _distances(setting, label, models, beside, name == RETRAINED)
        rows = setting.rows_of(label)
        found[name] = Judged(
            numbers=tuple(logits[name]),
            accuracy=_accuracies(setting, models, rows),
            loss_auc=_loss_aucs(setting, models, rows),
            nearest=attack.nearest.label,
            mia_nn=duel,
            ulira=_ulira(setting, label, models, beside, name == RETRAINED),
            total_variation=variation,
            kl=divergence,
            confusion=confusion(models[:, rows["test_forget"]]).mean(axis=0),
        )
    return found


def _nearest_neighbour(
    setting: ClassSetting, label: int, tested: np.ndarray, beside: np.ndarray
) -> NearestNeighbourAttack:
    config = setting.config
    return nearest_neighbour_attack(
        tested,
        beside,
        setting.dataset.labels,
        train=setting.trained,
        test=setting.splits.test,
        forget_class=label,
        features=config.nearest_neighbour.features,
        against=config.nearest_neighbour.against,
        trained_on=config.nearest_neighbour.trained_on,
        max_each_side=config.nearest_neighbour.max_each_side,
        seed=config.seed,
    )


def _accuracies(
    setting: ClassSetting, models: np.ndarray, rows: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    right = models.argmax(axis=2) == setting.dataset.labels
    return {part: right[:, index].mean(axis=1) for part, index in rows.items()}


def _loss_aucs(setting: ClassSetting, models: np.ndarray, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    index = np.concatenate([rows["forget"], rows["test_forget"]])
    deleted = np.arange(len(index)) < len(rows["forget"])
    labels = setting.dataset.labels[index]
    return np.array([auc(np.asarray(loss_scores(one[index], labels), np.float64), deleted) for one in models])


def _ulira(
    setting: ClassSetting, label: int, models: np.ndarray, beside: np.ndarray, is_retrained: bool
) -> dict[str, Any]:
    """U-LiRA of these models against the retrained ones; of these against one another where they are the same.

    Each model in turn is under test: the most that K models can tell. Its intervals cover 81 to 96% at K = 8 where 95%
    is asked (`paired_scores` says when); `split_ulira_class` has better ones of half the power.
    """
    config = setting.config
    index = setting.rows_of(label)["forget" if config.ulira.images == "train" else "test_forget"]
    held_out = np.asarray(class_phi(beside[:, index], label))
    unlearned = np.asarray(class_phi(models[:, index], label))
    if is_retrained:
        half = len(held_out) // 2
        unlearned, held_out = held_out[:half], held_out[half : 2 * half]
    most = min(len(unlearned), len(held_out))
    if most < 3:
        return {"auc": None, "interval": None, "accuracy": None}
    scores, member = paired_scores(
        *leave_one_out_ulira_class(unlearned[:most], held_out[:most], variance=config.ulira.variance)
    )
    block = evaluate_targets(scores, member, level=config.evaluation.interval_level, seed=config.seed)
    return {"auc": block["auc"], "interval": block["interval"]["auc"], "accuracy": block["accuracy"]}


def _distances(
    setting: ClassSetting, label: int, models: np.ndarray, beside: np.ndarray, is_retrained: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(total variation float64[M], KL float64[M]) to the retrained models on the class's test images."""
    index = setting.rows_of(label)["test_forget"]
    found = []
    for distance in (total_variation, kl_to_retrained):
        if is_retrained:
            found.append(distance(beside[0, index], beside[:, index]).retrained_to_mean)
        else:
            found.append(np.array([distance(one[index], beside[:, index]).to_mean for one in models]))
    return found[0], found[1]
