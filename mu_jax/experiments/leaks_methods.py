"""The versions that unlearning methods make of the originals, side by side, each with targets of its own."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.adversarial.examples import NothingFlipsError
from mu_jax.adversarial.stored import StoredAdversarialSet
from mu_jax.config import InputError
from mu_jax.experiments.blocks import of_block, together
from mu_jax.experiments.compiled_trainers import Wanted
from mu_jax.experiments.leaks_answers import GroupAnswer
from mu_jax.experiments.leaks_lessons import origins_of
from mu_jax.experiments.leaks_models import AnswerGroup, Answers, LeaksModels, group_answer
from mu_jax.experiments.leaks_setting import Arm, Side, task_data
from mu_jax.experiments.leaks_versions import Version
from mu_jax.unlearning.methods import METHODS, make_plan, neighbours_config
from mu_jax.unlearning.neighbours import adversarial_neighbours
from mu_jax.unlearning.plan import Edit, Plan, Task, start_of, training_run

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Unlearned:
    """One version, made of its original by a method."""

    name: str
    version: Version


class MethodModels:
    """The unlearned versions of one arm on one side."""

    def __init__(self, models: LeaksModels, arm: Arm, side: Side) -> None:
        self.models, self.arm, self.side = models, arm, side
        self.setting = models.setting
        self.stage = models.stage(arm.target, side, arm.method)
        # What learns others in the place of the deleted is no deletion: `online` is for retraining.
        asked = {
            name
            for scenario in side.plan.scenarios
            if scenario.kind != "online"
            for pair in scenario.pairs
            for name in (pair.before, pair.after)
        }
        self._versions = [
            version for version in side.plan.versions if version.name in asked and not version.is_original
        ]

    @property
    def number(self) -> int:
        """Of versions, had no original diverged."""
        return len(self._versions)

    @property
    def images(self) -> float:
        """Roughly, that training them shows."""
        settings = METHODS[self.arm.method].settings_of(self.setting.config.methods)
        epochs = getattr(settings, "optimization", settings).epochs
        return epochs * sum(len(version.rows) for version in self._versions)

    @property
    def work(self) -> list[Unlearned]:
        """What is to be made; versions of a diverged original cannot be."""
        sound = self._origins()
        return [
            Unlearned(f"{self.arm.target.name} {version.name} {self.arm.method}", version)
            for version in self._versions
            if sound.sound(f"{self.side.name}{version.original}")
        ]

    def train(self) -> None:
        """Make what the folder lacks."""
        work = self.work
        if work:
            self.models.run_stage(self.stage, work, lambda: self._answerer(work))

    def answers(self) -> Answers:
        """Of all versions, originals among them."""
        originals, work = self._origins(), self.work
        made = self.models.read(self.stage, work, {one.version.name: (one,) for one in work})
        return Answers(
            {**originals.lessons, **made.lessons},
            {**originals.logits, **made.logits},
            originals.diverged | made.diverged,
        )

    def _origins(self) -> Answers:
        whole = self.models.lessons_of(Arm(self.arm.target, "retrain"), self.side)
        mine = {version.name: whole[version.name] for version in origins_of(self.side.plan)}
        models, target = self.models, self.arm.target
        return models.read(models.stage(target, self.side), models.lessons(target, self.side), mine)

    def _answerer(self, work: Sequence[Unlearned]) -> AnswerGroup:
        originals = self._origins()
        first = self._planned(work[0], originals)
        images = len(self.side.labels)
        extra = max(len(one.version.deleted) for one in work) if METHODS[self.arm.method].neighbours else 0
        config = self.setting.config
        plan, task = first
        width = min(len(work), 8 * jax.local_device_count())
        # As many blocks as a group has models: targets of all versions at once would be too much memory.
        blocks = together([plan.examples] * width, images, extra)
        wanted = Wanted(
            self.stage,
            training_run(plan, task),
            blocks,
            width,
            plan.optimization.batch_size,
            self.arm.target.mapping,
            config.leaks.models_per_device,
            query_fn=self.arm.target.query_fn,
            query_data={"images": self.side.on_device},
            from_variables=True,
        )
        trainer = self.models.trainers.get(wanted)
        slots = trainer.placement.width
        if slots > width:
            raise InputError(
                f"leaks.models_per_device is {config.leaks.models_per_device}, but there are {len(work)} versions to "
                "unlearn; ask for fewer."
            )
        compiled = trainer.compiled

        def answer(number: int, group: Sequence[Unlearned]) -> GroupAnswer:
            began = time.perf_counter()
            planned = [self._planned(one, originals) for one in group]
            examples = [plan.examples for plan, _ in planned]
            examples += examples[:1] * (width - len(examples))
            trainer = self.models.trainers.like(
                dataclasses.replace(wanted, examples=together(examples, images, extra)), compiled
            )
            runs = [
                of_block(training_run(plan, task), place * (images + extra))
                for place, (plan, task) in enumerate(planned)
            ]
            starts = [jax.tree.map(np.asarray, start_of(plan, task)) for plan, task in planned]
            prepared = time.perf_counter() - began
            trained = trainer.train(runs, variables=starts, on_chunk=self.models.on_chunk(self.stage, number))
            said = group_answer(group, runs, trained)
            return dataclasses.replace(said, seconds=said.seconds + prepared)

        return answer

    def _planned(self, one: Unlearned, originals: Answers) -> tuple[Plan, Task]:
        setting, target, version = self.setting, self.arm.target, one.version
        (origin,) = originals.lessons[f"{self.side.name}{version.original}"]
        task = Task(
            model=target.model,
            images=self.side.on_device,
            labels=self.side.labels,
            num_classes=self.side.dataset.num_classes,
            retain=version.rows,
            forget=version.deleted,
            data=task_data(setting),
            seed=setting.config.seed,
            original=jax.tree.map(jnp.asarray, self.models.variables(target, origin)),
            query_model=target.query_model,
            known_logits=originals.logits[origin.name],
            architecture=target.config.model,
            lowering=target.lowering,
        )
        method = METHODS[self.arm.method]
        settings = method.settings_of(setting.config.methods)
        neighbours = self._neighbours(task, version) if method.neighbours else None
        plan = make_plan(self.arm.method, task, settings, neighbours=neighbours, name=one.name)
        if isinstance(plan, Edit) or plan.finish is not None or plan.model is not None:
            raise InputError(
                f"leaks.methods has {self.arm.method!r}, which trains another network than it makes; only methods that "
                "keep the network can be compared here."
            )
        return plan, task

    def _neighbours(self, task: Task, version: Version) -> StoredAdversarialSet:
        config = neighbours_config(self.arm.method, self.setting.config.neighbours)
        try:
            return adversarial_neighbours(task, config)
        except NothingFlipsError as error:
            raise InputError(
                f"{self.arm.method} has no neighbour for {version.name} ({error}); raise neighbours.max_epsilon, or "
                "delete more examples at once."
            ) from None
