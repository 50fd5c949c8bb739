"""Trains all versions of all originals in groups, asks each, and keeps the answers once their group has ended."""

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import softmax

from mu_jax.experiments.compiled_trainers import CompiledTrainers, Wanted
from mu_jax.experiments.leaks_answers import GroupAnswer, load_answer, save_answer
from mu_jax.experiments.leaks_lessons import Lesson, Lessons, distinct, origins_of, retraining, sharded
from mu_jax.experiments.leaks_setting import EXACT, Arm, LeaksSetting, Side, Target
from mu_jax.experiments.run_folder import RunFolder, read_json
from mu_jax.experiments.side_by_side import group_figures
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.group_log import GroupReport
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import TrainedGroup
from mu_jax.training.scikit_targets import fit_scikit

PyTree = Any
AnswerGroup = Callable[[int, Sequence[Any]], GroupAnswer]
"""(its number, the group's lessons) -> what they say"""

SCIKIT_GROUP = 64
"""Models of scikit-learn that a kill may cost."""
LEAST_POSTERIOR = 1e-12
"""Below which the logarithm of a tree's posterior does not go."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What the versions of one arm say on one side, read from the folder."""

    lessons: Lessons
    logits: dict[str, np.ndarray]
    """by the lesson's name, float32[N,C]"""
    diverged: frozenset[str]
    """names of lessons"""

    def posteriors(self, version: str, rows: Int64[np.ndarray, "R"]) -> Float64[np.ndarray, "R C"]:
        """Of a version on some rows: the mean of its lessons' softmax."""
        said = [self.logits[one.name][rows].astype(np.float64) for one in self.lessons[version]]
        return np.mean([softmax(logits, axis=-1) for logits in said], axis=0)

    def sound(self, version: str) -> bool:
        """Whether none of its lessons diverged."""
        return not any(lesson.name in self.diverged for lesson in self.lessons[version])


class LeaksModels:
    """The models of one experiment in one open folder; what a killed run finished is read."""

    def __init__(self, setting: LeaksSetting, folder: RunFolder, shown: SweepProgress) -> None:
        self.setting, self.folder, self.shown = setting, folder, shown
        self._plan = folder.path / "plan.json"
        self.trainers = CompiledTrainers(self._plan, setting.config.loop.chunk_steps, shown.say)
        self.seconds: dict[str, float] = {}
        """of training, of each stage"""
        self.trained_samples: dict[str, int] = {}
        self.models: dict[str, int] = {}
        self._done = 0

    def start(self, unlearned: int, images: float) -> None:
        """Show how much there is to do; of it, so many models are unlearned, by seeing so many images in all."""
        total = unlearned
        for target in self.setting.targets:
            for side in self.setting.sides.values():
                lessons = self.lessons(target, side)
                total += len(lessons)
                images += sum(len(lesson.rows) for lesson in lessons) * target.config.train.epochs
        self.shown.start(total, 0, round(images))

    def stage(self, target: Target, side: Side, method: str = "train") -> str:
        """Names a target's groups on a side."""
        return f"{target.name} {method} {side.name}"

    def lessons_of(self, arm: Arm, side: Side) -> Lessons:
        """What an arm that trains from scratch trains on a side."""
        config = self.setting.config
        if arm.method == "sisa":
            return sharded(arm.target.name, side.plan, config.seed, config.leaks.sisa_shards)
        return retraining(arm.target.name, side.plan, config.seed, shares_start=arm.shares_start)

    def lessons(self, target: Target, side: Side) -> list[Lesson]:
        """Of all arms of a target that train from scratch; unlearning methods need the originals alone."""
        arms = [arm for arm in self.setting.arms if arm.target is target]
        groups = [self.lessons_of(arm, side) for arm in arms if arm.method in EXACT]
        if self._keeps(target):
            whole = self.lessons_of(Arm(target, "retrain"), side)
            groups.insert(0, {version.name: whole[version.name] for version in origins_of(side.plan)})
        return distinct(groups)

    def train(self, target: Target, side: Side) -> None:
        """Train all of a target's lessons on a side, but for those that the folder has."""
        lessons, stage = self.lessons(target, side), self.stage(target, side)
        if not lessons:
            return
        if target.is_network:
            self.run_stage(stage, lessons, lambda: self._networks(target, side, lessons))
        else:
            self.run_stage(stage, lessons, lambda: self._scikit(target, side), width=SCIKIT_GROUP)

    def answers(self, arm: Arm, side: Side) -> Answers:
        """Of an arm that trains from scratch, once its target is trained."""
        return self.read(
            self.stage(arm.target, side), self.lessons(arm.target, side), self.lessons_of(arm, side)
        )

    def variables(self, target: Target, lesson: Lesson) -> PyTree:
        """The weights of an original that was kept."""
        checkpoints = self.folder.checkpoints(_file(lesson.name))
        like = jax.eval_shape(target.model.init, jax.random.key(0))
        return checkpoints.restore(checkpoints.latest_step(), like)

    def read(self, stage: str, trained: Sequence[Any], lessons: Lessons) -> Answers:
        """What the folder has of a finished stage."""
        needed = {lesson.name for several in lessons.values() for lesson in several}
        logits: dict[str, np.ndarray] = {}
        diverged = set()
        for group, path in self._groups(stage, trained):
            names = tuple(one.name for one in group)
            if needed.isdisjoint(names):
                continue
            answer = load_answer(path, names)
            for name, said, step in zip(names, answer.logits, answer.diverged_step, strict=True):
                if name in needed:
                    logits[name] = said
                    if step >= 0:
                        diverged.add(name)
        return Answers(lessons, logits, frozenset(diverged))

    def run_stage(
        self, stage: str, trained: Sequence[Any], make: Callable[[], AnswerGroup], width: int | None = None
    ) -> None:
        """Make the answers of a stage that the folder lacks; `make` compiles, which a finished stage needs not."""
        self.seconds[stage], self.trained_samples[stage], self.models[stage] = 0.0, 0, len(trained)
        answer_group = None
        if width is None and self._width(stage) is None:
            answer_group = make()
        for number, (group, path) in enumerate(self._groups(stage, trained)):
            names = tuple(one.name for one in group)
            answer = load_answer(path, names)
            if answer is None:
                answer_group = answer_group or make()
                answer = answer_group(number, group)
                save_answer(path, answer)
                for name, step in zip(names, answer.diverged_step, strict=True):
                    if step >= 0:
                        self.shown.say(f"{name} diverged at step {step}: pairs with it are left out")
            self.seconds[stage] += answer.seconds
            self.trained_samples[stage] += int(answer.trained_samples.sum())
            self._done += len(group)
        self.shown.group_done(self._done)

    def on_chunk(self, stage: str, number: int) -> Callable[[GroupReport], None]:
        """What a group in training tells the screen and metrics.jsonl."""

        def told(report: GroupReport) -> None:
            self.folder.append_metrics({"model": stage, "group": number, **group_figures(report)})
            self.shown.update(number, self._done, report.images, report.seconds, report.loss)

        return told

    def _keeps(self, target: Target) -> bool:
        """Whether the originals' weights are kept, for methods to start from."""
        return any(arm.target is target and arm.method not in EXACT for arm in self.setting.arms)

    def _networks(self, target: Target, side: Side, lessons: Sequence[Lesson]) -> AnswerGroup:
        config, stage = self.setting.config, self.stage(target, side)
        train = target.config.train
        targets = label_targets(side.labels, side.dataset.num_classes, train.label_smoothing)
        examples = Examples(
            images=side.on_device,
            targets=jnp.asarray(targets),
            weights=jnp.ones(len(side.labels), jnp.float32),
        )
        examples = target.defense.examples(examples)
        longest = max(len(lesson.rows) for lesson in lessons)
        batch_size = target.defense.batch_size(train, longest)
        runs = {lesson.name: self.run_of(target, side, lesson, batch_size) for lesson in lessons}
        trainer = self.trainers.get(
            Wanted(
                stage,
                runs[lessons[0].name],
                examples,
                len(lessons),
                batch_size,
                target.mapping,
                config.leaks.models_per_device,
                query_fn=target.query_fn,
                query_data={"images": side.on_device},
            )
        )
        kept = {version.name for version in origins_of(side.plan)} if self._keeps(target) else set()
        kept = {f"{target.name} {name}" for name in kept}

        def answer(number: int, group: Sequence[Lesson]) -> GroupAnswer:
            mine = [runs[lesson.name] for lesson in group]
            trained = trainer.train(mine, on_chunk=self.on_chunk(stage, number))
            for place, lesson in enumerate(group):
                if lesson.name in kept:
                    self.folder.checkpoints(_file(lesson.name)).save(mine[place].steps, trained.of(place))
            return group_answer(group, mine, trained)

        return answer

    def run_of(self, target: Target, side: Side, lesson: Lesson, batch_size: int) -> TrainingRun:
        """The training of a lesson, in batches of so many rows."""
        run = TrainingRun(
            lesson.stream, self.setting.config.seed, lesson.rows, target.config.train, target.recipe
        )
        return target.defense.run(run, len(side.labels), batch_size)

    def _scikit(self, target: Target, side: Side) -> AnswerGroup:
        features = side.images.reshape(len(side.images), -1)

        def answer(number: int, group: Sequence[Lesson]) -> GroupAnswer:
            began = time.perf_counter()
            said = fit_scikit(
                target.architecture,
                features,
                side.labels,
                [lesson.rows for lesson in group],
                features,
                side.dataset.num_classes,
                [zlib.crc32(f"{self.setting.config.seed} {lesson.stream}".encode()) for lesson in group],
            )
            return GroupAnswer(
                names=tuple(lesson.name for lesson in group),
                logits=np.log(np.maximum(said, LEAST_POSTERIOR)).astype(np.float32),
                diverged_step=np.full(len(group), -1, np.int64),
                seconds=time.perf_counter() - began,
                trained_samples=np.array([len(lesson.rows) for lesson in group], np.int64),
            )

        return answer

    def _width(self, stage: str) -> int | None:
        recorded = (read_json(self._plan) or {}).get(stage)
        return None if recorded is None else recorded["devices"] * recorded["models_per_device"]

    def _groups(self, stage: str, trained: Sequence[Any]) -> Iterator[tuple[Sequence[Any], pathlib.Path]]:
        width = self._width(stage) or SCIKIT_GROUP
        for number, first in enumerate(range(0, len(trained), width)):
            path = self.folder.path / "answers" / f"{_file(stage)}.{number}.npz"
            yield trained[first : first + width], path


def group_answer(group: Sequence[Any], runs: Sequence[TrainingRun], trained: TrainedGroup) -> GroupAnswer:
    """What a group's models said at its end. Finite weights may still say what is not."""
    logits = trained.signals["logits"]
    steps = np.array([run.steps for run in runs])
    silent = ~np.isfinite(logits).all(axis=(1, 2))
    diverged = np.where((trained.diverged_step < 0) & silent, steps, trained.diverged_step)
    return GroupAnswer(
        names=tuple(one.name for one in group),
        logits=logits,
        diverged_step=diverged.astype(np.int64),
        seconds=trained.seconds,
        trained_samples=np.array([run.trained_samples for run in runs], np.int64),
    )


def _file(name: str) -> str:
    """A name where a file system must bear it."""
    return "".join(letter if letter.isalnum() or letter in ".-=" else "_" for letter in name)
