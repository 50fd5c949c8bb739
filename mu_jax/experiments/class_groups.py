"""Trains the models of class unlearning side by side, asks each, and keeps its answer once its group has ended."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.experiments.class_answers import ClassAnswer, load_answer, save_answer
from mu_jax.experiments.class_setting import ClassSetting, Member
from mu_jax.experiments.compiled_trainers import CompiledTrainers, Wanted
from mu_jax.experiments.run_folder import RunFolder
from mu_jax.experiments.side_by_side import group_figures
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.training.chunk import Examples
from mu_jax.training.group_log import GroupReport
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.query import make_query

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Work:
    """One model to train: by which run, from which weights."""

    member: Member
    run: TrainingRun
    start: PyTree
    """variables of the run's network"""
    finish: Callable[[PyTree], PyTree] | None = None
    """from what was trained to the weights of the setting's network"""
    preparation_seconds: float = 0.0
    keep: bool = False
    """Whether its weights are kept too: methods start from an original's."""


class ClassGroups:
    """The groups of one experiment in one open folder; what a killed run finished is read."""

    def __init__(self, setting: ClassSetting, folder: RunFolder, shown: SweepProgress) -> None:
        self.setting, self.folder, self.shown = setting, folder, shown
        self._trainers = CompiledTrainers(
            folder.path / "plan.json", setting.config.loop.chunk_steps, shown.say
        )
        self._total = self._done = 0

    @property
    def compile_seconds(self) -> dict[str, float]:
        """Of each stage that compiled anything."""
        return self._trainers.compile_seconds

    def start(self, members: Sequence[Member], images: Callable[[Member], float]) -> None:
        """Show how much there is to do: `images(member)` that a model sees."""
        left = [member for member in members if self.answer(member) is None]
        # Groups that a kill cut short tell their story anew.
        missing = {member.name for member in left}
        self.folder.keep_metrics(lambda line: not missing.intersection(line.get("members", ())))
        self._total, self._done = len(members), len(members) - len(left)
        self.shown.start(self._total, self._done, round(sum(map(images, left))))

    def answer(self, member: Member) -> ClassAnswer | None:
        """What is kept of a model, None where it is still to be made."""
        return load_answer(self._path(member))

    def variables(self, member: Member) -> PyTree:
        """The weights of a model that was kept."""
        checkpoints = self.folder.checkpoints(member.name)
        like = jax.eval_shape(self.setting.model.init, jax.random.key(0))
        return checkpoints.restore(checkpoints.latest_step(), like)

    def train(self, stage: str, examples: Examples, works: Sequence[Work]) -> None:
        """Train those of `works` that the folder lacks; runs of one recipe and batch size share groups and programs."""
        batches: dict[tuple, list[Work]] = {}
        for work in works:
            batches.setdefault((work.run.recipe, work.run.optimization.batch_size), []).append(work)
        for batch in batches.values():
            # Whole groups, also where a kill left some of their models done: another group has other bits.
            if any(self.answer(work.member) is None for work in batch):
                self._train(stage, examples, batch)

    def finish(self, member: Member, variables: PyTree, *, steps: int = 0, **figures: Any) -> None:
        """Ask a model of the setting's network, trained for so many `steps`, everything, and keep what it says."""
        logits = self._ask(variables)
        diverged = figures.pop("diverged_step", -1)
        if diverged < 0 and not np.isfinite(logits).all():
            diverged = steps
        if diverged >= 0:
            self.shown.say(f"{member.name} diverged: it is marked, and has no figures")
        save_answer(self._path(member), ClassAnswer(logits=logits, diverged_step=diverged, **figures))
        self._done += 1

    def _train(self, stage: str, examples: Examples, works: Sequence[Work]) -> None:
        trainer = self._trainer(stage, works[0].run, examples, len(works))
        width = trainer.placement.width
        for first in range(0, len(works), width):
            group = works[first : first + width]
            if all(self.answer(work.member) is not None for work in group):
                continue

            def on_chunk(report: GroupReport, group: Sequence[Work] = group, first: int = first) -> None:
                names = [work.member.name for work in group]
                self.folder.append_metrics({"model": stage, "members": names, **group_figures(report)})
                self.shown.update(first // width, self._done, report.images, report.seconds, report.loss)

            trained = trainer.train(
                [work.run for work in group], variables=[work.start for work in group], on_chunk=on_chunk
            )
            for place, work in enumerate(group):
                if self.answer(work.member) is not None:
                    continue
                variables = trained.of(place)
                if work.finish is not None:
                    variables = work.finish(variables)
                if work.keep:
                    self.folder.checkpoints(work.member.name).save(work.run.steps, variables)
                self.finish(
                    work.member,
                    variables,
                    steps=work.run.steps,
                    diverged_step=int(trained.diverged_step[place]),
                    seconds=trained.seconds / len(group),
                    preparation_seconds=work.preparation_seconds,
                    trained_samples=work.run.trained_samples,
                    read_samples=0,
                )
            self.shown.group_done(self._done)

    def _trainer(self, stage: str, run: TrainingRun, examples: Examples, runs: int) -> ParallelTrainer:
        """A compiled trainer; stages of one recipe, batch size and shapes share a program."""
        config = self.setting.config
        return self._trainers.get(
            Wanted(
                stage,
                run,
                examples,
                min(runs, config.shadows.models),
                run.optimization.batch_size,
                self.setting.mapping,
                config.shadows.models_per_device,
                from_variables=True,
            )
        )

    def _ask(self, variables: PyTree) -> np.ndarray:
        config = self.setting.config
        query = make_query(
            self.setting.query_model,
            tuple(config.data.mean),
            tuple(config.data.std),
            config.evaluation.query_batch,
        )
        return np.asarray(query(jax.tree.map(jnp.asarray, variables), self.setting.images))

    def _path(self, member: Member) -> pathlib.Path:
        return self.folder.path / "answers" / f"{member.name}.npz"
