"""Random labels: the examples to forget are learned with wrong labels, the others as before.

Graves et al., "Amnesiac Machine Learning", 2021 (there, and in later tables, RL).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mu_jax.config import InputError
from mu_jax.config.methods import RandomLabelsConfig
from mu_jax.data.random_streams import host_stream
from mu_jax.training.chunk import label_targets
from mu_jax.unlearning.plan import Plan, Task


def random_labels(task: Task, settings: RandomLabelsConfig, name: str = "random_labels") -> Plan:
    """CE(D_R) + CE(D_F, a class drawn evenly from the wrong ones), both shuffled together, from the original weights.

    AMUN's code draws a label anew at each visit. Targets here are made before the run: with `redraw` the mean over
    draws, whose loss and gradient are the expected ones, without the draws' noise; else one draw for good, by the seed
    and the name. SalUn's code draws from all classes, the true one included, and visits D_F before D_R in each epoch.
    """
    task.require(name, retain=settings.retain)
    examples = task.examples(settings.optimization.label_smoothing)
    labels = task.labels[task.forget]
    if settings.redraw:
        targets = mean_wrong_targets(labels, task.num_classes)
    else:
        wrong = draw_wrong_labels(labels, task.num_classes, host_stream(task.seed, f"wrong labels of {name}"))
        targets = label_targets(wrong, task.num_classes)
    return Plan(
        name=name,
        start="original",
        examples=examples.replace(targets=examples.targets.at[task.forget].set(jnp.asarray(targets))),
        index=np.concatenate([task.retain, task.forget]) if settings.retain else task.forget,
        optimization=settings.optimization,
    )


def draw_wrong_labels(
    labels: Int[np.ndarray, "F"], num_classes: int, generator: np.random.Generator
) -> Int[np.ndarray, "F"]:
    """For each label another one, evenly from the C − 1 that it is not."""
    _require_two(num_classes)
    return (labels + generator.integers(1, num_classes, labels.shape)) % num_classes


def mean_wrong_targets(labels: Int[np.ndarray, "F"], num_classes: int) -> Float[np.ndarray, "F C"]:
    """What the one-hot rows of `draw_wrong_labels` are on average: 1/(C − 1) on each wrong class, 0 on the true one."""
    _require_two(num_classes)
    return (1 - np.eye(num_classes, dtype=np.float32)[labels]) / np.float32(num_classes - 1)


def _require_two(num_classes: int) -> None:
    if num_classes < 2:
        raise InputError(
            f"There are {num_classes} classes, but a wrong label needs at least 2; give data with more."
        )
