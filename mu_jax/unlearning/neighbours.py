"""The adversarial neighbours that AMUN fine-tunes on: of each example to delete, the nearest image found to flip it."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from mu_jax.adversarial.examples import AdversarialExamples
from mu_jax.adversarial.pgd import minimal_epsilon, pgd
from mu_jax.adversarial.pixels import PixelModel
from mu_jax.adversarial.stored import StoredAdversarialSet, make_stored
from mu_jax.config.methods import NeighboursConfig
from mu_jax.unlearning.plan import Task


def adversarial_neighbours(
    task: Task,
    settings: NeighboursConfig,
    on_progress: Callable[[int, int], None] = lambda finished, number: None,
) -> StoredAdversarialSet:
    """The set D_A of a task: for each x of D_F the first iterate that the original model gives another label.

    In bytes, as training images are: the attack sees the nearest 8-bit image at each step, so that what it finds flips
    as it is stored (`pgd`'s `quantize`); public code keeps floats. Labels are what the task's reader says in the end.
    An example that is misclassified as it is stays so, at distance 0. What does not flip within the largest radius is
    left out, and named in the set.
    """
    task.require("amun", original=True)
    attacked, reader = (PixelModel.of(model, task.data) for model in (task.attacked, task.reader))
    images, labels = np.asarray(task.images[jnp.asarray(task.forget)]), task.labels[task.forget]
    found = _search(attacked, task, images, labels, settings, on_progress)
    return make_stored(
        found, images, task.forget, reader, task.original, dtype="uint8", batch_size=settings.batch_size
    )


def compile_search(task: Task, settings: NeighboursConfig) -> None:
    """Compile what the search of this task runs, for a batch and for the eighth of it in which the last ones go on."""
    attacked, batch = PixelModel.of(task.attacked, task.data), settings.batch_size
    norm = "linf" if settings.attack == "fgsm" else settings.norm
    for size in dict.fromkeys((batch // 8 + 1, max(1, batch // 8))):
        rows = task.forget[np.arange(size) % len(task.forget)]
        images, labels = np.asarray(task.images[jnp.asarray(rows)]), task.labels[rows]
        pgd(attacked, task.original, images, labels, norm=norm, epsilon=0.01, steps=1, batch_size=batch)


def _search(
    attacked: PixelModel,
    task: Task,
    images: np.ndarray,
    labels: np.ndarray,
    settings: NeighboursConfig,
    on_progress: Callable[[int, int], None],
) -> AdversarialExamples:
    how = {
        "norm": settings.norm,
        "steps": settings.steps,
        "step_ratio": settings.step_ratio,
        "quantize": True,
        "batch_size": settings.batch_size,
        "on_progress": on_progress,
    }
    if settings.attack == "fgsm":
        how |= {"norm": "linf", "steps": 1, "step_ratio": 1.0, "restart": True}
    if settings.epsilon:
        # As far as `minimal_epsilon` goes by itself.
        farthest = 0.5 * math.sqrt(images[0].size) if how["norm"] == "l2" else 0.5
        largest = settings.max_epsilon or farthest
        return pgd(
            attacked, task.original, images, labels, epsilon=settings.epsilon, max_epsilon=largest, **how
        )
    return minimal_epsilon(
        attacked,
        task.original,
        images,
        labels,
        max_epsilon=settings.max_epsilon or None,
        # In ℓ∞ a step of less than half a grey level is none to an 8-bit image.
        smallest=0.01 if how["norm"] == "l2" else 1 / 255,
        seed=task.seed,
        **how,
    )
