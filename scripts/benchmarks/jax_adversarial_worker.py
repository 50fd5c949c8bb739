"""The worker that searches for adversarial examples with `mu_jax.adversarial`.

A variant is `{"do": "search", "batch"}`, whose step is the whole search; or `{"do": "train"}`, which takes no step, and
sees to it that the case has its trained model.
"""

import functools
import pathlib
import time
from typing import Any

import numpy as np

from benchmarks.adversarial_case import MEAN, STD, STEP_RATIO, AdversarialCase, largest_epsilon
from benchmarks.jax_trained_model import Subject, make_subject, train_model
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, serve
from mu_jax.adversarial.pgd import pgd
from mu_jax.adversarial.pixels import PixelModel
from mu_jax.config import InputError
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.unlearning.plan import Task


def prepare(case: AdversarialCase, variant: dict[str, Any]) -> Prepared:
    """Trains the model, or compiles the search."""
    try:
        subject = _subject(case.file, case.width)
        if variant["do"] == "train":
            facts = train_model(subject, case.weights, case.epochs)
            return Prepared(lambda count: 0.0, 0, facts=facts)
        search = Search(case, subject, variant["batch"])
        return Prepared(search.run, case.examples, facts=search.facts, most=1, found=search.found)
    except InputError as error:
        raise BadRequest(str(error)) from None


class Search:
    """The search of a case, as often as asked for; what it found last is in the case's folder."""

    def __init__(self, case: AdversarialCase, subject: Subject, batch: int) -> None:
        self._case, self._batch = case, batch
        self._task = subject.load(case.weights)
        self._images = subject.dataset.x_train[: case.examples]
        self._labels = subject.dataset.y_train[: case.examples]
        began = time.perf_counter()
        warm_up(self._task, self._images, self._labels, batch)
        self.facts = {"lowering": subject.lowering, "compile_seconds": round(time.perf_counter() - began, 2)}
        self.found: dict[str, Any] = {}

    def run(self, count: int) -> float:
        """So many whole searches; there is no loss to give back."""
        case = self._case
        for _ in range(count):
            found = pgd(
                PixelModel(self._task.attacked, (MEAN,), (STD,)),
                self._task.original,
                self._images,
                self._labels,
                norm="l2",
                epsilon=case.epsilon,
                max_epsilon=largest_epsilon(self._images.shape[1:]),
                steps=case.steps,
                step_ratio=STEP_RATIO,
                batch_size=self._batch,
            )
        names = ("epsilon", "distance", "predicted", "steps", "flipped")
        np.savez(pathlib.Path(case.found) / "jax.npz", **{name: getattr(found, name) for name in names})
        self.found.update(gradient_steps=int(found.steps.sum()), flipped=int(found.flipped.sum()))
        return 0.0


def warm_up(task: Task, images: np.ndarray, labels: np.ndarray, batch: int) -> None:
    """Compiles an attack's program for both of its sizes: the batch, and the eighth of it in which the last go on."""
    attacked = PixelModel.of(task.attacked, task.data)
    for size in dict.fromkeys((batch // 8 + 1, max(1, batch // 8))):
        rows = np.arange(size) % len(images)
        pgd(
            attacked,
            task.original,
            images[rows],
            labels[rows],
            norm="l2",
            epsilon=0.01,
            steps=1,
            batch_size=batch,
        )


# The cache is what lets a case's variants share their compiled programs.
_subject = functools.cache(make_subject)


if __name__ == "__main__":
    one_cpu_device_a_core()  # as the experiments do
    serve(AdversarialCase, describe, prepare, device_peak_bytes)
