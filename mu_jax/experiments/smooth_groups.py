"""Trains the models of the study side by side, clips them a last time, and keeps each with what it says."""

import dataclasses
import functools
import math
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.config import OptimizationConfig
from mu_jax.data.files import write_json
from mu_jax.experiments.run_folder import RunFolder, read_json
from mu_jax.experiments.side_by_side import first_placement, group_figures, recorded_placement
from mu_jax.experiments.smooth_answers import SmoothAnswer, load_answer, save_answer
from mu_jax.experiments.smooth_setting import Member, SmoothSetting
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.smoothness.model import clip_layers, measure_layers
from mu_jax.smoothness.tracking import initial_extra
from mu_jax.training.batch_statistics import renew_batch_statistics
from mu_jax.training.chunk import Examples
from mu_jax.training.group_log import GroupReport
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer, TrainedGroup
from mu_jax.training.placement import Placement, fit_to_memory
from mu_jax.training.query import make_query

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Work:
    """One model to train: from which weights, on which rows of the stage's examples."""

    member: Member
    index: np.ndarray
    start: PyTree
    """variables; None draws them"""


class SmoothGroups:
    """The groups of one study in one open folder; what a killed run finished is read."""

    def __init__(self, setting: SmoothSetting, folder: RunFolder, shown: SweepProgress) -> None:
        self.setting, self.folder, self.shown = setting, folder, shown
        self._plan = folder.path / "plan.json"
        self._compiled: dict[Any, dict[str, Any]] = {}
        self.compile_seconds = 0.0
        smoothness = setting.config.smoothness
        self._total = 3 * smoothness.models * len(smoothness.clips) * len(smoothness.norms)
        self._done = 0

    def start(self) -> None:
        """Show how much there is to do."""
        members = [
            member
            for norm in self.setting.config.smoothness.norms
            for role in ("original", "retrain", "amun")
            for member in self.setting.members(norm, role)
        ]
        left = [member for member in members if not self._path(member).exists()]
        self._done = len(members) - len(left)
        # Groups that a kill cut short tell their story anew.
        missing = {member.name for member in left}
        self.folder.keep_metrics(lambda line: not missing.intersection(line.get("members", ())))
        config, rows = self.setting.config, len(self.setting.trained_rows)
        epochs = sum(
            (config.amun.optimization if member.role == "amun" else config.train).epochs for member in left
        )
        self.shown.start(self._total, self._done, round(epochs * rows))

    def train(
        self, stage: str, optimization: OptimizationConfig, examples: Examples, works: Sequence[Work]
    ) -> dict[Member, SmoothAnswer]:
        """The answers of these models, which are of one norm; those that the folder lacks are trained."""
        norm = works[0].member.kind.norm
        answers = {work.member: load_answer(self._path(work.member)) for work in works}
        if all(answer is not None for answer in answers.values()):
            return answers
        runs = [self._run(work, optimization) for work in works]
        trainer = self._trainer(f"{norm} {stage}", runs[0], examples, len(runs))
        width = trainer.placement.width
        for first in range(0, len(works), width):
            group = works[first : first + width]
            if all(answers[work.member] is not None for work in group):
                continue
            mine = runs[first : first + width]

            def on_chunk(report: GroupReport, group: Sequence[Work] = group, first: int = first) -> None:
                self.folder.append_metrics(_line(f"{norm} {stage}", group, report))
                self.shown.update(first // width, self._done, report.images, report.seconds, report.loss)

            starts = [self._fresh(work) if work.start is None else work.start for work in group]
            trained = trainer.train(mine, variables=starts, on_chunk=on_chunk)
            for place, work in enumerate(group):
                if answers[work.member] is None:
                    answers[work.member] = self._finish(work.member, mine[place], trained, place)
                    self._done += 1
            self.shown.group_done(self._done)
        return answers

    def variables(self, member: Member) -> PyTree:
        """The weights of a model that is trained."""
        checkpoints = self.folder.checkpoints(member.name)
        like = jax.eval_shape(self.setting.networks[member.kind.norm][0].init, jax.random.key(0))
        return checkpoints.restore(checkpoints.latest_step(), like)

    def _run(self, work: Work, optimization: OptimizationConfig) -> TrainingRun:
        setting, member = self.setting, work.member
        norm = member.kind.norm
        layers = setting.networks[norm][0].layers()
        key = jax.random.fold_in(jax.random.key(setting.config.seed), zlib.crc32(member.stream.encode()))
        extra = initial_extra(
            layers,
            setting.clipping(norm),
            setting.tracking_lowering,
            clip=member.kind.bound,
            rows=setting.history_rows,
            key=key,
        )
        return TrainingRun(
            name=member.stream,
            seed=setting.config.seed,
            index=work.index,
            optimization=optimization,
            recipe=setting.recipe(norm, optimization),
            extra=jax.tree.map(np.asarray, extra),
        )

    def _fresh(self, work: Work) -> PyTree:
        """Weights drawn as a run of its own would draw them."""
        run = self._run(work, self.setting.config.train)
        return jax.tree.map(np.asarray, self.setting.networks[work.member.kind.norm][0].init(run.keys()[0]))

    def _trainer(self, name: str, run: TrainingRun, examples: Examples, runs: int) -> ParallelTrainer:
        """A compiled trainer; stages of one recipe, batch size and shapes share a program."""
        recorded = read_json(self._plan) or {}
        make = functools.partial(self._make, run, examples)
        if name in recorded:
            trainer = make(recorded_placement(self._plan, recorded[name]))
        else:
            placement = self._first(run, runs)
            trainer = make(placement)
        key = self._key(run, examples, trainer.placement)
        if key in self._compiled:
            trainer.take_over(self._compiled[key])
        else:
            self.shown.say(f"{name}: compiling")
            if name in recorded:
                trainer.compile()
            else:
                trainer = fit_to_memory(make, trainer.placement)
            self.compile_seconds += trainer.compile_seconds
            self._compiled[self._key(run, examples, trainer.placement)] = trainer.compiled
        if name not in recorded:
            write_json(self._plan, recorded | {name: dataclasses.asdict(trainer.placement)})
        return trainer

    def _first(self, run: TrainingRun, runs: int) -> Placement:
        """That of the programs that are there, where they serve; else what suits so many runs."""
        for recipe, batch, placement, _ in self._compiled:
            if recipe == run.recipe and batch == run.optimization.batch_size:
                return placement
        setting = self.setting
        return first_placement(setting.mapping, runs, setting.config.smoothness.models_per_device)

    def _key(self, run: TrainingRun, examples: Examples, placement: Placement) -> tuple:
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(examples))
        return run.recipe, run.optimization.batch_size, placement, shapes

    def _make(self, run: TrainingRun, examples: Examples, placement: Placement) -> ParallelTrainer:
        return ParallelTrainer(
            run.recipe,
            examples,
            placement,
            batch_size=run.optimization.batch_size,
            chunk_steps=self.setting.config.loop.chunk_steps,
            from_variables=True,
            extra=run.extra,
        )

    def _finish(self, member: Member, run: TrainingRun, trained: TrainedGroup, place: int) -> SmoothAnswer:
        """Clip a trained model a last time, measure it, ask it, keep it."""
        setting = self.setting
        state, diverged = trained.state_of(place), int(trained.diverged_step[place])
        variables = trained.of(place)
        layers = setting.networks[member.kind.norm][0].layers()
        lowering = setting.tracking_lowering
        before = after = self._ask(member, variables)
        measured = measured_before = measure_layers(variables, layers, lowering)
        moved, divided = 0.0, ()
        if member.kind.clip and diverged < 0:
            by_scale = setting.clipping(member.kind.norm).composed_by == "scale"
            clipped = clip_layers(
                variables, layers, member.kind.clip, lowering, composed="scale" if by_scale else None
            )
            moved, divided = clipped.moved, clipped.divided
            if moved:
                # Running statistics are those of the weights before, and batch-norm divides by them.
                variables = self._renewed(member, clipped.variables)
                after, measured = (
                    self._ask(member, variables),
                    measure_layers(variables, layers, lowering),
                )
        if diverged < 0 and not np.isfinite(after).all():
            diverged = run.steps
        if diverged >= 0:
            self.shown.say(f"{member.name} diverged at step {diverged}: it is marked, and has no figures")
        composed = [math.nan if one.composed is None else one.composed for one in measured.values()]
        answer = SmoothAnswer(
            logits=after,
            logits_before=before,
            norms=np.array([one.norm for one in measured.values()]),
            norms_before=np.array([one.norm for one in measured_before.values()]),
            composed=np.array(composed),
            history=np.asarray(state.extra["history"]),
            moved=moved,
            divided=len(divided),
            diverged_step=diverged,
            seconds=trained.seconds / len(trained.order),
            trained_samples=run.trained_samples,
        )
        self.folder.checkpoints(member.name).save(run.steps, variables)
        save_answer(self._path(member), answer)
        return answer

    def _renewed(self, member: Member, variables: PyTree) -> PyTree:
        """With statistics of the images that a model may know of: AMUN's has none of those to forget."""
        setting, config = self.setting, self.setting.config
        rows = setting.trained_rows if member.role == "original" else setting.splits.retain
        renewed = renew_batch_statistics(
            setting.networks[member.kind.norm][0],
            jax.tree.map(jnp.asarray, variables),
            setting.images,
            rows,
            mean=config.data.mean,
            std=config.data.std,
            batch_size=config.train.batch_size,
            seed=config.seed,
        )
        return jax.tree.map(np.asarray, renewed)

    def _ask(self, member: Member, variables: PyTree) -> np.ndarray:
        config = self.setting.config
        model = self.setting.networks[member.kind.norm][1]
        query = make_query(model, config.data.mean, config.data.std, config.evaluation.query_batch)
        return np.asarray(query(jax.tree.map(jnp.asarray, variables), self.setting.images))

    def _path(self, member: Member) -> pathlib.Path:
        return self.folder.path / "answers" / f"{member.name}.npz"


def _line(stage: str, group: Sequence[Work], report: GroupReport) -> dict[str, Any]:
    return {"model": stage, "members": [work.member.name for work in group], **group_figures(report)}
