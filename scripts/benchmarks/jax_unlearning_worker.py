"""The worker that unlearns with mu_jax, by the plans and the engine that the experiments stand on.

| variant | a step |
|---|---|
| `{"do": "train"}` | none; sees to it that the case has its trained model |
| `{"do": "retrain"}` | a step of retraining from fresh weights, a batch of images |
| `{"do": "unlearn"}` | the whole method: its adversarial set (AMUN's), its plan, and all its steps; one item |

What a round found is appended to lists: seconds of its parts, and images a second of its gradient descent alone.
"""

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from benchmarks.jax_trained_model import make_subject, train_model
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from benchmarks.unlearning_case import UnlearningCase
from benchmarks.unlearning_names import method_settings
from mu_jax.config import InputError, OptimizationConfig
from mu_jax.config.methods import NeighboursConfig
from mu_jax.training.loop import ChunkReport, DivergenceError
from mu_jax.unlearning.methods import METHODS, make_plan
from mu_jax.unlearning.neighbours import adversarial_neighbours
from mu_jax.unlearning.plan import Plan, Task, carry_out
from mu_jax.unlearning.retrain import retrain

CHUNK_STEPS = 100
"""As the experiments have it."""


def prepare(case: UnlearningCase, variant: dict[str, Any]) -> Prepared:
    """Trains the model, or compiles the method."""
    try:
        if variant["do"] == "train":
            facts = train_model(_subject(case.file, case.width), case.weights, case.epochs)
            return Prepared(lambda count: 0.0, 0, facts=facts)
        return (_prepare_retrain if variant["do"] == "retrain" else _prepare_method)(case)
    except InputError as error:
        raise BadRequest(str(error)) from None


class Unlearning:
    """A method, as often as asked for, from the same trained model and with the same random numbers."""

    def __init__(self, case: UnlearningCase) -> None:
        self._method, self._task = case.method, _task(case)
        self._settings = method_settings(case.method, case.share)
        self._neighbours = NeighboursConfig(**case.neighbours) if METHODS[case.method].neighbours else None
        self.found: dict[str, Any] = {
            name: [] for name in ("adversarial_seconds", "plan_seconds", "training_seconds", "images")
        }

    def compile(self) -> dict[str, Any]:
        """Makes the plan twice and compiles its steps, without taking any; facts: what the first time takes longer."""
        first, again = self._planned(), self._planned()
        compile_seconds = _compile(again[0], self._task)
        extra = sum(max(0.0, once - later) for once, later in zip(first[1:], again[1:], strict=True))
        return {"compile_seconds": round(compile_seconds + extra, 2)}

    def run(self, count: int) -> float:
        """So many times the whole method; the last loss."""
        for _ in range(count):
            plan, adversarial, planned = self._planned()
            seconds, images, last = _carry_out(plan, self._task)
            for name, value in (
                ("adversarial_seconds", adversarial),
                ("plan_seconds", planned),
                ("training_seconds", seconds),
                ("images", images),
            ):
                self.found[name].append(round(value, 4))
            self.found["last_accuracy"] = round(last.accuracy, 4)
        return last.loss

    def _planned(self) -> tuple[Plan, float, float]:
        """The plan, and the seconds of its adversarial set and of the rest of it."""
        began, stored = time.perf_counter(), None
        if self._neighbours is not None:
            stored = adversarial_neighbours(self._task, self._neighbours)
            self.found["neighbours"] = len(stored.images)
        between = time.perf_counter()
        plan = make_plan(self._method, self._task, self._settings, neighbours=stored)
        return plan, between - began, time.perf_counter() - between


def _prepare_method(case: UnlearningCase) -> Prepared:
    unlearning = Unlearning(case)
    facts = {"lowering": _subject(case.file, case.width).lowering, **unlearning.compile()}
    return Prepared(unlearning.run, 1, facts=facts, most=1, found=unlearning.found)


def _prepare_retrain(case: UnlearningCase) -> Prepared:
    """Retraining, of as many steps as asked for: its rate does not depend on how many there are."""
    task, recipe = _task(case), OptimizationConfig(**case.optimization)
    found: dict[str, Any] = {"images_per_second": []}

    def plan_of(steps: int) -> Plan:
        # A little less, so that rounding makes no further step of it.
        epochs = (steps - 0.001) * recipe.batch_size / len(task.retain)
        return retrain(task, dataclasses.replace(recipe, epochs=epochs))

    def run(count: int) -> float:
        seconds, images, last = _carry_out(plan_of(count), task)
        found["images_per_second"].append(round(images / seconds, 2))
        return last.loss

    facts = {
        "lowering": _subject(case.file, case.width).lowering,
        "compile_seconds": round(_compile(plan_of(1), task), 2),
        "retrain_images": case.steps(len(task.retain)) * recipe.batch_size,
    }
    return Prepared(run, recipe.batch_size, facts=facts, found=found)


class _Compiled(Exception):
    """The plan's program is there; no step of it is wanted."""


def _compile(plan: Plan, task: Task) -> float:
    """The seconds that it takes to compile the plan's steps, at their first use."""
    spent: list[float] = []

    def on_compiled(seconds: float) -> None:
        spent.append(seconds)
        raise _Compiled

    try:
        carry_out(plan, task, chunk_steps=CHUNK_STEPS, on_compiled=on_compiled)
    except _Compiled:
        return spent[0]
    raise RuntimeError(f"The plan {plan.name!r} was carried out without being compiled.")


def _carry_out(plan: Plan, task: Task) -> tuple[float, int, ChunkReport]:
    """(seconds of gradient descent, images it saw, the last chunk's report); Unavailable where it diverges."""
    reports: list[ChunkReport] = []
    try:
        carry_out(plan, task, chunk_steps=CHUNK_STEPS, on_chunk=reports.append)
    except DivergenceError as error:
        raise Unavailable(str(error)) from None
    return sum(report.seconds for report in reports), sum(report.images for report in reports), reports[-1]


@functools.cache
def _loaded(file: str, width: int, weights: str, forget: str) -> Task:
    task, deleted = _subject(file, width).load(weights), np.load(forget, allow_pickle=False)
    return dataclasses.replace(task, retain=np.setdiff1d(task.retain, deleted), forget=deleted)


def _task(case: UnlearningCase) -> Task:
    return _loaded(case.file, case.width, case.weights, case.forget)


# The caches are what lets the methods share one data set and their compiled programs.
_subject = functools.cache(make_subject)


if __name__ == "__main__":
    serve(UnlearningCase, describe, prepare, device_peak_bytes)
