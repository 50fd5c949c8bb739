"""What adversarial examples say of the originals: robust accuracy, transfer within a kind, and AMUN's neighbours."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from mu_jax.adversarial.pgd import pgd
from mu_jax.adversarial.pixels import PixelModel
from mu_jax.adversarial.robustness import robust_accuracy, transfer_rate
from mu_jax.adversarial.stored import StoredAdversarialSet, load, save
from mu_jax.config import InputError
from mu_jax.data.files import write_json
from mu_jax.experiments.run_folder import read_json
from mu_jax.experiments.smooth_setting import Kind, Member, SmoothSetting
from mu_jax.unlearning.neighbours import adversarial_neighbours
from mu_jax.unlearning.plan import Task

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Attacked:
    """The attacks on one kind's originals; fractions, None where nothing could be measured."""

    robust_accuracy: list[float]
    """one a model"""
    transfer: list[dict[str, Any]]
    """one an ordered pair of models: source, target, examples, misclassified, same_label"""
    success: list[float]
    """of the transferred attack on its own model: the share of test images it had right that it flips"""


class SmoothAttacks:
    """The attacks of one study in one folder, each made only where the folder lacks it."""

    def __init__(self, setting: SmoothSetting, folder: pathlib.Path, say: Any) -> None:
        self.setting, self.folder, self.say = setting, folder, say

    def attack(self, kind: Kind, models: dict[int, PyTree]) -> Attacked:
        """Robust accuracy and transfer of a kind's originals that did not diverge, by number."""
        path = self.folder / "attacks" / f"{kind.name}.json"
        found = read_json(path)
        if found is None:
            found = dataclasses.asdict(self._attack(kind, models))
            path.parent.mkdir(exist_ok=True)
            write_json(path, found)
        return Attacked(**found)

    def neighbours(self, member: Member, variables: PyTree, task: Task) -> StoredAdversarialSet | None:
        """AMUN's adversarial set on one original; None where no example flips."""
        path = self.folder / "neighbours" / f"{member.name}.npz"
        if path.exists():
            size = self.setting.config.neighbours.batch_size
            return load(path, PixelModel.of(task.reader, task.data), variables, batch_size=size)
        try:
            stored = adversarial_neighbours(task, self.setting.config.neighbours)
        except InputError as error:
            self.say(f"{member.name}: {error}")
            return None
        path.parent.mkdir(exist_ok=True)
        save(path, stored)
        return stored

    def _attack(self, kind: Kind, models: dict[int, PyTree]) -> Attacked:
        config, dataset = self.setting.config, self.setting.dataset
        task = self.setting.task(kind.norm)
        attacked = PixelModel.of(task.attacked, config.data)
        robust, transfer, success = [], [], []
        rows = self.setting.splits.test[: config.robust.images]
        for variables in models.values():
            if len(rows):
                robust.append(
                    robust_accuracy(
                        attacked,
                        variables,
                        dataset.images[rows],
                        dataset.labels[rows],
                        norm=config.robust.norm,
                        epsilon=config.robust.epsilon,
                        steps=config.robust.steps,
                    )
                )
        rows = self.setting.splits.test[: config.transfer.images]
        images, labels = dataset.images[rows], dataset.labels[rows]
        for source, variables in models.items():
            found = pgd(
                attacked,
                variables,
                images,
                labels,
                norm=config.transfer.norm,
                epsilon=config.transfer.epsilon,
                steps=config.transfer.steps,
            )
            right = ~found.already
            success.append(float(np.mean(found.flipped[right])) if right.any() else 0.0)
            for target, other in models.items():
                if target == source:
                    continue
                row = {"source": source, "target": target, "examples": 0}
                try:
                    rate = transfer_rate(found, images, attacked, other)
                except InputError:  # no example is right on both and flips
                    row |= {"misclassified": None, "same_label": None}
                else:
                    row |= rate._asdict()
                transfer.append(row)
        return Attacked(robust, transfer, success)
