"""Trains, unlearns and asks every model of the comparison, each kept in the folder as soon as it is there."""

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.adversarial.examples import NothingFlipsError
from mu_jax.adversarial.pixels import PixelModel
from mu_jax.adversarial.robustness import robust_accuracy
from mu_jax.adversarial.stored import StoredAdversarialSet, load, save
from mu_jax.data.files import write_json
from mu_jax.experiments.carried import carry_out_in
from mu_jax.experiments.facts import parameter_count
from mu_jax.experiments.methods_answers import Answer, load_answer, save_answer
from mu_jax.experiments.methods_setting import RETRAINED, Case, MethodsSetting
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, read_json
from mu_jax.experiments.setting import Trained
from mu_jax.training.loop import DivergenceError
from mu_jax.training.query import make_query
from mu_jax.unlearning.methods import METHODS, make_plan, neighbours_config
from mu_jax.unlearning.neighbours import adversarial_neighbours, compile_search
from mu_jax.unlearning.plan import Plan, Task
from mu_jax.unlearning.retrain import retrain

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """An adversarial set of one base model and forget set."""

    kind: str
    """`own`, `fgsm` or `transferred`"""
    base: int
    forget_set: int
    stored: StoredAdversarialSet
    seconds: float


@dataclasses.dataclass(frozen=True)
class Made:
    """All that was trained and asked."""

    answers: dict[Case, Answer]
    diverged: dict[Case, str]
    """in place of an answer: why there is none"""
    left_out: dict[Case, str]
    """not even begun, for want of adversarial neighbours of the forget set: why there are none"""
    neighbours: list[Neighbours]
    parameters: int
    """of one model"""


class MethodsWork:
    """The work in one open folder; what a killed run left is taken up."""

    def __init__(self, setting: MethodsSetting, folder: RunFolder, shown: TrainingProgress) -> None:
        self.setting, self.folder, self.shown = setting, folder, shown
        config = setting.config
        self._query = make_query(
            setting.query_model, config.data.mean, config.data.std, config.evaluation.query_batch
        )
        self.reader = PixelModel.of(setting.query_model, config.data)
        used = (METHODS[name].neighbours for name in config.names)
        self._kinds = [kind for kind in dict.fromkeys(used) if kind]
        self._made = Made({}, {}, {}, [], 0)
        self._compiled: set[str] = set()

    def do(self) -> Made:
        """Everything, base model by base model and forget set by forget set."""
        for original in self.setting.originals:
            trained = self.carry_out(self.setting.original_plan(original), self.setting.task(0))
            for forget_set in range(self.setting.config.study.forget_sets):
                task = dataclasses.replace(self.setting.task(forget_set), original=trained.variables)
                self._do_forget_set(dataclasses.replace(original, forget_set=forget_set), task, trained)
        return dataclasses.replace(self._made, parameters=parameter_count(trained.variables))

    def carry_out(self, plan: Plan, task: Task) -> Trained:
        """A plan, from its newest checkpoint in the folder."""
        return carry_out_in(self.folder, plan, task, self.setting.config.loop.chunk_steps, self.shown)

    def ask(
        self, trained: Trained, task: Task, stored: StoredAdversarialSet | None, preparation: float = 0.0
    ) -> Answer:
        """What one model says, of all images and of its forget set's neighbours."""
        config, dataset = self.setting.config, self.setting.dataset
        logits = np.asarray(self._query(trained.variables, self.setting.images))
        if not np.isfinite(logits).all():
            raise DivergenceError(
                "Its logits are not finite, although its weights are; try a smaller learning rate."
            )
        robust, asked = float("nan"), self.setting.splits[0].test[: config.robust.images]
        if len(asked):
            robust = robust_accuracy(
                self.reader,
                trained.variables,
                dataset.images[asked],
                dataset.labels[asked],
                norm=config.robust.norm,
                epsilon=config.robust.epsilon,
                steps=config.robust.steps,
            )
        params, before = trained.variables["params"], task.original["params"]
        moved = jax.tree.map(lambda new, old: float(jnp.sum(jnp.square(new - old))), params, before)
        return Answer(
            logits=logits,
            neighbour_logits=self._neighbour_logits(trained.variables, stored, len(task.forget)),
            robust_accuracy=robust,
            weights_distance=sum(jax.tree.leaves(moved)),
            seconds=trained.seconds,
            preparation_seconds=preparation,
            compile_seconds=trained.compile_seconds,
            trained_samples=trained.trained_samples,
        )

    def _neighbour_logits(
        self, variables: PyTree, stored: StoredAdversarialSet | None, number: int
    ) -> np.ndarray:
        if stored is None:
            return np.zeros((0, self.setting.dataset.num_classes), np.float32)
        # Filled up to the size of the forget set, so that sets of other sizes need no other program.
        filled = stored.images[np.arange(number) % len(stored.images)]
        return np.asarray(self._query(variables, jnp.asarray(filled)))[: len(stored.images)]

    def _do_forget_set(self, original: Case, task: Task, trained: Trained) -> None:
        config = self.setting.config
        base, forget_set = original.base, original.forget_set
        neighbours, lacking = {}, {}
        for kind in self._kinds:
            try:
                neighbours[kind] = self._neighbours(kind, base, forget_set, task)
            except NothingFlipsError as error:
                # Hours may lie behind this set, and other sets and methods ahead: they do without.
                lacking[kind] = str(error)
                self.shown.say(f"{error} Methods that need these neighbours are left out of this forget set.")
        self._made.neighbours.extend(neighbours.values())
        own = neighbours["own"].stored if "own" in neighbours else None
        self._answer(original, lambda: self.ask(trained, task, own))
        for case in self.setting.cases(base, forget_set):
            needed = "" if case.method in RETRAINED else METHODS[case.method].neighbours
            if needed in lacking:
                self._made.left_out[case] = lacking[needed]
                continue

            def answer(case: Case = case, needed: str = needed) -> Answer:
                if case.method in RETRAINED:
                    plan, preparation = retrain(task, config.train, case.name), 0.0
                else:
                    used = neighbours.get(needed)
                    make = functools.partial(
                        make_plan,
                        case.method,
                        task,
                        METHODS[case.method].settings_of(config.methods),
                        neighbours=used and used.stored,
                        name=case.name,
                    )
                    if case.method not in self._compiled:  # compilation is no part of what a method takes
                        make()
                        self._compiled.add(case.method)
                    began = time.perf_counter()
                    plan = make()
                    preparation = time.perf_counter() - began + (used.seconds if used else 0.0)
                return self.ask(self.carry_out(plan, task), task, own, preparation)

            self._answer(case, answer)

    def _answer(self, case: Case, make: Any) -> None:
        """A model's answer, made only where the folder does not hold it."""
        path = self._path("answers", case, "npz")
        answer, failed = load_answer(path), read_json(path.with_suffix(".json"))
        if answer is None and failed is None:
            try:
                answer = make()
            except DivergenceError as error:
                if case.method in ("original", *RETRAINED):
                    raise
                failed = {"diverged": str(error)}
                path.parent.mkdir(exist_ok=True)
                write_json(path.with_suffix(".json"), failed)
                self.shown.say(f"{case.name} diverged, and has no figures; the others go on")
            else:
                save_answer(path, answer)
        if answer is None:
            self._made.diverged[case] = failed["diverged"]
        else:
            self._made.answers[case] = answer

    def _neighbours(self, kind: str, base: int, forget_set: int, task: Task) -> Neighbours:
        """A set, the folder's or a new one; NothingFlipsError where there is none, and the folder remembers that."""
        path = self._path("neighbours", Case(kind, base, forget_set), "npz")
        times = read_json(path.with_suffix(".json"))
        if times is not None and "nothing_flips" in times:
            raise NothingFlipsError(times["nothing_flips"])
        by = task
        if kind == "transferred":
            # Another model of the same recipe and data, by other random numbers.
            plan = self.setting.original_plan(Case("original_of_another", base))
            by = dataclasses.replace(task, original=self.carry_out(plan, self.setting.task(0)).variables)
        if path.exists() and times is not None:
            return Neighbours(kind, base, forget_set, self.load_neighbours(path, by), times["seconds"])
        config = neighbours_config("amun_fgsm" if kind == "fgsm" else "amun", self.setting.config.neighbours)
        compile_search(by, config)
        began = time.perf_counter()
        path.parent.mkdir(exist_ok=True)
        try:
            stored = adversarial_neighbours(by, config)
        except NothingFlipsError as error:
            reason = (
                f"Forget set {forget_set} of base model {base} has no adversarial neighbours ({kind}): {error} A new "
                "run with a larger neighbours.max_epsilon may find some."
            )
            write_json(path.with_suffix(".json"), {"nothing_flips": reason})
            raise NothingFlipsError(reason) from None
        seconds = time.perf_counter() - began
        self.shown.say(f"{len(stored.images)} adversarial neighbours ({kind}) in {seconds:.1f} s")
        save(path, stored)
        write_json(path.with_suffix(".json"), {"seconds": round(seconds, 3)})
        return Neighbours(kind, base, forget_set, stored, round(seconds, 3))

    def load_neighbours(self, path: pathlib.Path, made_on: Task) -> StoredAdversarialSet:
        """A set of this folder."""
        size = self.setting.config.neighbours.batch_size
        return load(path, self.reader, made_on.original, batch_size=size)

    def _path(self, kind: str, case: Case, ending: str) -> pathlib.Path:
        return self.folder.path / kind / f"{case.name}.{ending}"
