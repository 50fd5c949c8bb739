"""Linear filtration as a method: the deleted classes are filtered out of the logits, in the head's own weights."""

import numpy as np
from jaxtyping import Float

from mu_jax.config.class_methods import LinearFiltrationConfig
from mu_jax.models.head import head_of, with_head
from mu_jax.unlearning.linear_filtration import (
    MAX_CONDITION,
    class_means_of,
    filtration_matrix,
    fold_into_head,
)
from mu_jax.unlearning.plan import Edit, Task


def linear_filtration_method(
    task: Task, settings: LinearFiltrationConfig, name: str = "linear_filtration"
) -> Edit:
    """The original with the filter of Baumhauer et al. 2020 inside its head; it keeps all C outputs.

    Class means are of the original's logits on the training images, the deleted classes' included. All logits get the
    constant of `cure` first. Nothing below the head changes: see `mu_jax.unlearning.linear_filtration`.
    """
    gone = task.require_classes(name)
    task.require(name, retain=True, original=True)
    rows = np.concatenate([task.retain, task.forget])
    means = class_means_of(task.original_logits(name)[rows], task.labels[rows], task.num_classes)
    constant = cure(means)
    matrix = filtration_matrix(means + constant, gone, settings.mode, seed=task.seed)
    _, kernel, bias = head_of(task.model, task.original["params"])
    kernel, bias = fold_into_head(
        np.asarray(kernel),
        np.asarray(bias) + np.float32(constant),
        matrix,
        deleted=gone,
        margin=settings.margin,
    )
    return Edit(name, with_head(task.model, task.original, kernel, bias), read_samples=len(task.labels))


def cure(class_means: Float[np.ndarray, "C C"]) -> float:
    """What to add to all logits so that the class means can be inverted: 0 where they can be as they are.

    Gradients of the cross-entropy sum to 0 over the logits, so weight decay takes a head's columns to a sum of 0, and
    then the class means are singular. A constant on all logits cures that, and no probability changes by it. Ours is
    the means' own root mean square.
    """
    if np.linalg.cond(class_means) <= MAX_CONDITION:
        return 0.0
    return float(np.sqrt(np.mean(np.square(class_means))))
