"""The worker that steps by TRW's plan and by fine-tuning's, on one original, by the engine of the experiments.

| variant | a step |
|---|---|
| `{"do": "train"}` | none; sees to it that the case has its original |
| `{"do": "step", "method": "trw" or "finetune"}` | one of gradient descent, of a run from the original's weights |
"""

import dataclasses
import functools
import statistics
import time
from typing import Any

import jax
import numpy as np

from benchmarks.jax_trained_model import make_subject, train_model
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from benchmarks.ulira_case import BATCH, EPOCHS, FORGOTTEN, UliraCase
from benchmarks.ulira_names import method_settings
from mu_jax.config import InputError
from mu_jax.training.loop import ChunkReport, DivergenceError
from mu_jax.unlearning.methods import make_plan
from mu_jax.unlearning.plan import Plan, Task, carry_out

CHUNK_STEPS = 100
"""As the experiments have it."""
# The first compiles what reads the original.
_PREPARATIONS = 6


def prepare(case: UliraCase, variant: dict[str, Any]) -> Prepared:
    """Trains the original, or compiles the method's steps."""
    try:
        if variant["do"] == "train":
            facts = train_model(_subject(case.file, case.width), case.weights, case.training_epochs)
            return Prepared(lambda count: 0.0, 0, facts=facts)
        return _prepare_steps(_task(case.file, case.width, case.weights), variant["method"])
    except InputError as error:
        raise BadRequest(str(error)) from None


def _prepare_steps(task: Task, method: str) -> Prepared:
    settings, seconds = method_settings(method, EPOCHS), []
    for _ in range(_PREPARATIONS):
        began = time.perf_counter()
        plan = make_plan(method, task, settings)
        jax.block_until_ready(plan.examples)
        seconds.append(time.perf_counter() - began)
    compiled: list[float] = []
    run_steps(plan, task, 1, compiled.append)
    facts = {
        "preparation_seconds": round(statistics.median(seconds[1:]), 5),
        "compile_seconds": round(compiled[0], 3),
        "images_an_epoch": len(plan.index),
    }
    return Prepared(lambda count: run_steps(plan, task, count), 1, CHUNK_STEPS, facts)


def run_steps(plan: Plan, task: Task, steps: int, on_compiled: Any = lambda seconds: None) -> float:
    """So many steps of a run; the mean loss of its last chunk. Unavailable where it diverges."""
    # A little less, so that rounding makes no further step of it.
    epochs = (steps - 0.001) * BATCH / len(plan.index)
    cut = dataclasses.replace(plan, optimization=dataclasses.replace(plan.optimization, epochs=epochs))
    reports: list[ChunkReport] = []
    try:
        carry_out(cut, task, chunk_steps=CHUNK_STEPS, on_chunk=reports.append, on_compiled=on_compiled)
    except DivergenceError as error:
        raise Unavailable(str(error)) from None
    return reports[-1].loss


@functools.cache
def _task(file: str, width: int, weights: str) -> Task:
    task = _subject(file, width).load(weights)
    gone = task.labels == FORGOTTEN
    return dataclasses.replace(
        task, retain=np.flatnonzero(~gone), forget=np.flatnonzero(gone), forget_classes=(FORGOTTEN,)
    )


# The caches are what lets both methods share one data set and one compiled program.
_subject = functools.cache(make_subject)


if __name__ == "__main__":
    serve(UliraCase, describe, prepare, device_peak_bytes)
