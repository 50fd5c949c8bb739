"""Trains the candidates of a search side by side, and keeps what each group says as soon as it has ended.

Runs of a group share recipe, batch size, examples and mask: all candidates of a method do, unless its knob is in the
examples or the mask, and then those of one value. Groups of one recipe, batch size and shapes share their programs.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mu_jax.config import InputError
from mu_jax.data.files import write_json
from mu_jax.experiments.run_folder import RunFolder, read_json
from mu_jax.experiments.search_answers import GroupAnswer, load_answer, said, save_answer
from mu_jax.experiments.search_grid import KNOBS, Candidate
from mu_jax.experiments.search_setting import SearchSetting
from mu_jax.experiments.side_by_side import group_figures, recorded_placement
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.training.group_log import GroupReport
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer, TrainedGroup
from mu_jax.training.placement import Placement, fit_to_memory
from mu_jax.training.query import make_query
from mu_jax.unlearning.methods import make_plan
from mu_jax.unlearning.plan import Plan, Task, training_run

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Batch:
    """Candidates that can train in one group, whatever their number."""

    name: str
    candidates: tuple[Candidate, ...]

    @property
    def method(self) -> str:
        """The one method of all of them."""
        return self.candidates[0].method


def batches_of(grid: dict[str, list[Candidate]]) -> list[Batch]:
    """The batches of a grid, method by method."""
    found = []
    for method, candidates in grid.items():
        knob = KNOBS.get(method)
        if knob is None or knob.shares_examples:
            found.append(Batch(method, tuple(candidates)))
            continue
        for number, value in enumerate(dict.fromkeys(one.knob for one in candidates)):
            mine = tuple(one for one in candidates if one.knob == value)
            found.append(Batch(f"{method}_{number}", mine))
    return found


class SearchGroups:
    """The groups of a search in one open folder; what a killed run finished is read."""

    def __init__(
        self,
        setting: SearchSetting,
        folder: RunFolder,
        shown: SweepProgress,
        task: Task,
        neighbours: Callable[[str], Any],
    ) -> None:
        """`task` has its original; `neighbours(method)` is a method's adversarial set, None where it needs none."""
        self.setting, self.folder, self.shown = setting, folder, shown
        # Candidates train by the lowering of models side by side.
        self.task = dataclasses.replace(task, model=setting.group_model)
        self._neighbours = neighbours
        config = setting.config
        self._query = make_query(
            setting.query_model, config.data.mean, config.data.std, config.evaluation.query_batch
        )
        self._original = jax.tree.map(np.asarray, task.original)
        self._compiled: dict[str, dict[str, Any]] = {}
        self._answers = folder.path / "answers"
        self._plan = folder.path / "plan.json"
        self.compile_seconds = 0.0
        self._done = 0

    @property
    def programs(self) -> int:
        """Training programs, each compiled once a process that needs it."""
        return len(read_json(self._plan) or {})

    def run(self) -> dict[str, GroupAnswer]:
        """Train what has no answer yet: the answers of all groups, by the group's name."""
        self._answers.mkdir(exist_ok=True)
        batches = batches_of(self.setting.grid)
        kept = {batch.name: self._kept(batch) for batch in batches}
        finished = {name for groups in kept.values() for name in groups}
        asked = {name for groups in kept.values() for answer in groups.values() for name in answer.names}
        # Groups that a kill cut short tell their story anew.
        self.folder.keep_metrics(lambda line: "candidates" not in line or line["model"] in finished)
        total = len(self.setting.candidates)
        self._done = len(asked)
        self.shown.start(total, self._done, self._images_left(asked))
        found: dict[str, GroupAnswer] = {}
        for batch in batches:
            groups = kept[batch.name]
            if sum(len(answer.names) for answer in groups.values()) < len(batch.candidates):
                groups = self._train(batch, groups)
            found |= groups
        return found

    def _images_left(self, finished: set[str]) -> int:
        """Roughly, for the time left: as if each run visited all training examples."""
        left = [one.epochs for one in self.setting.candidates if one.name not in finished]
        return round(sum(left) * (len(self.task.retain) + len(self.task.forget)))

    def _train(self, batch: Batch, kept: dict[str, GroupAnswer]) -> dict[str, GroupAnswer]:
        plans = self._plans(batch)
        first = plans[batch.candidates[0]]
        # A run is named by its settings: what is drawn for it depends on nothing else.
        runs = {
            candidate: dataclasses.replace(training_run(plan, self.task), name=candidate.name)
            for candidate, plan in plans.items()
        }
        trainer = self._trainer(first, runs[batch.candidates[0]], len(runs))
        found = {}
        for number, group in enumerate(groups_of(batch, trainer.placement.width)):
            name = f"{batch.name}.{number}"
            if name in kept:
                found[name] = kept[name]
                continue

            def on_chunk(
                report: GroupReport,
                name: str = name,
                number: int = number,
                group: Sequence[Candidate] = group,
            ) -> None:
                self.folder.append_metrics(_line(name, group, report))
                self.shown.update(number, self._done, report.images, report.seconds, report.loss)

            mine = [runs[candidate] for candidate in group]
            with _memory_in_words(trainer.placement):
                trained = trainer.train(mine, variables=[self._original] * len(mine), on_chunk=on_chunk)
                found[name] = self._ask(group, mine, trained)
            save_answer(self._answers / f"{name}.npz", found[name])
            self._done += len(group)
            self.shown.group_done(self._done)
        return found

    def _plans(self, batch: Batch) -> dict[Candidate, Plan]:
        """Of each candidate, all with the examples and the mask of the first one.

        What a method reads off the original model it reads once for each length and knob.
        """
        made: dict[tuple, Plan] = {}
        found: dict[Candidate, Plan] = {}
        for candidate in batch.candidates:
            settings, key = (
                candidate.settings(self.setting.config.methods),
                (candidate.epochs, candidate.knob),
            )
            if key not in made:
                neighbours = self._neighbours(batch.method)
                plan = make_plan(batch.method, self.task, settings, neighbours=neighbours)
                first = next(iter(made.values()), plan)
                made[key] = dataclasses.replace(
                    plan, examples=first.examples, gradient_mask=first.gradient_mask
                )
            optimization = candidate.optimization(made[key].optimization)
            found[candidate] = dataclasses.replace(made[key], optimization=optimization)
        return found

    def _trainer(self, plan: Plan, run: TrainingRun, runs: int) -> ParallelTrainer:
        """A compiled trainer: of groups as wide as those that were begun, else as wide as `runs` runs want them."""
        key, recorded = program_key(plan, run), read_json(self._plan) or {}
        make = functools.partial(self._make, plan, run)
        if key in self._compiled:
            trainer = make(recorded_placement(self._plan, recorded[key]))
            trainer.take_over(self._compiled[key])
            return trainer
        self.shown.say(f"{plan.name}: compiling")
        if key in recorded:
            trainer = make(recorded_placement(self._plan, recorded[key]))
            with _memory_in_words(trainer.placement):
                trainer.compile()
        else:
            trainer = fit_to_memory(make, self.setting.first_placement(runs))
            write_json(self._plan, recorded | {key: dataclasses.asdict(trainer.placement)})
        self.compile_seconds += trainer.compile_seconds
        self._compiled[key] = trainer.compiled
        return trainer

    def _make(self, plan: Plan, run: TrainingRun, placement: Placement) -> ParallelTrainer:
        return ParallelTrainer(
            run.recipe,
            plan.examples,
            placement,
            batch_size=run.optimization.batch_size,
            chunk_steps=self.setting.config.loop.chunk_steps,
            from_variables=True,
            gradient_mask=run.gradient_mask,
        )

    def _ask(
        self, group: Sequence[Candidate], runs: Sequence[TrainingRun], trained: TrainedGroup
    ) -> GroupAnswer:
        """What each model of a group says of all images. One program asks every model of a search, original and all."""
        loss, correct = [], []
        for number in range(len(group)):
            logits = np.asarray(self._query(trained.of(number), self.setting.images))
            mine, right = said(logits, self.setting.dataset.labels)
            loss.append(mine)
            correct.append(right)
        # Weights may be finite and still so large that what they say of an image is not.
        steps = np.array([run.steps for run in runs])
        silent = ~np.isfinite(loss).all(axis=1)
        diverged = np.where((trained.diverged_step < 0) & silent, steps, trained.diverged_step)
        for candidate, step in zip(group, diverged, strict=True):
            if step >= 0:
                self.shown.say(f"{candidate.name} diverged at step {step}: it is marked, and cannot win")
        taken = np.where(diverged < 0, steps, diverged)
        return GroupAnswer(
            names=tuple(candidate.name for candidate in group),
            loss=np.stack(loss),
            correct=np.stack(correct),
            diverged_step=diverged.astype(np.int64),
            seconds=np.full(len(group), trained.seconds / len(group)),
            trained_samples=taken.astype(np.int64) * runs[0].optimization.batch_size,
        )

    def _kept(self, batch: Batch) -> dict[str, GroupAnswer]:
        """The answers of a batch's finished groups, by the group's name; InputError for those of other candidates."""
        names, found = {candidate.name for candidate in batch.candidates}, {}
        for path in sorted(self._answers.glob(f"{batch.name}.*.npz")):
            answer = load_answer(path)
            if not names.issuperset(answer.names):
                raise InputError(
                    f"{path} holds the answers of other settings than this search has; choose another --workdir."
                )
            found[path.stem] = answer
        return found


def groups_of(batch: Batch, width: int) -> list[tuple[Candidate, ...]]:
    """A batch cut into groups of `width`, in its order."""
    return [batch.candidates[i : i + width] for i in range(0, len(batch.candidates), width)]


def program_key(plan: Plan, run: TrainingRun) -> str:
    """What of a run's group is compiled, in words: equal ones share a program, in this process and in the next."""
    recipe = run.recipe
    parts = {
        "loss": recipe.loss.__qualname__,
        "penalty": recipe.penalty.__qualname__ if recipe.penalty else "none",
        "optimizer": f"{recipe.optimizer} {recipe.nesterov} {recipe.decay_norm_and_bias}",
        "augmentation": f"{recipe.crop_padding} {recipe.flip}",
        "batch": run.optimization.batch_size,
        "examples": " ".join(str(leaf.shape) for leaf in jax.tree.leaves(plan.examples)),
        "mask": run.gradient_mask is not None,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def _line(name: str, group: Sequence[Candidate], report: GroupReport) -> dict[str, Any]:
    return {"model": name, "candidates": len(group), **group_figures(report)}


@contextlib.contextmanager
def _memory_in_words(placement: Placement) -> Iterator[None]:
    """What XLA says of memory that ran out, as one sentence."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"Memory ran out for groups of {placement.width} models ({str(error).splitlines()[0]}); free some and give "
            "the same command again, which goes on from the last group, or start in another --workdir with a lower "
            "--config.search.models_per_device."
        ) from None
