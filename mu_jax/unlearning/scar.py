"""SCAR: features of what is deleted move into the nearest wrong class, while the logits of the rest stay.

Bonato, Cotogni, Sabetta, "Is Retain Set All You Need in Machine Unlearning? Restoring Performance of Unlearned Models
with Out-Of-Distribution Images", ECCV 2024.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float
from scipy.special import softmax

from mu_jax.config import InputError
from mu_jax.config.class_methods import ScarConfig
from mu_jax.data.random_streams import host_stream
from mu_jax.unlearning.feature_distance import (
    class_gaussians,
    make_feature_query,
    squared_distances,
    with_distances,
)
from mu_jax.unlearning.plan import QUERY_BATCH, Pass, Plan, Task

PyTree = Any


def scar(task: Task, settings: ScarConfig, name: str = "scar") -> Plan:
    """λ₁·(squared Mahalanobis distance of D_F to its nearest wrong class) + λ₂·T²·KL(p_o ‖ p_θ), from the original.

    The classes' Gaussians are those of the original's features on D_R, and each deleted example's class is the nearest
    one by its features in the original: among the classes that stay, and never its own. Both are fixed and data.

    This is SCAR's *self-retained* variant: the paper distils on 10,000 images of other origin and reads D_R for the
    Gaussians alone; here no outside data is wanted, and retained examples are distilled on, a fresh draw in each epoch,
    as many as deleted ones by default (as many as the authors' code pairs with them on CIFAR-10). As there, a deleted
    class's logit in the teacher becomes the smallest: here the example's, there the batch's. T² keeps the gradient's
    size, and is our choice.

    What else differs from the authors' code: the number of epochs is fixed, where it stops once less than 1% of D_F is
    right; one forward pass sees D_F and D_R mixed, so that batch-norm does; features below 0 keep their sign under the
    power. The accuracy of the training log compares logits and distances with one another, and means nothing.
    """
    task.require(name, retain=True, original=True)
    rows = np.concatenate([task.retain, task.forget])
    query = make_feature_query(task.reader, tuple(task.data.mean), tuple(task.data.std), QUERY_BATCH)
    logits, features = (np.asarray(part) for part in query(task.original, task.images[rows]))
    kept, count = len(task.retain), task.num_classes
    wrong = np.setdiff1d(np.unique(task.labels[task.retain]), task.forget_classes)
    gaussians = class_gaussians(
        features[:kept],
        task.labels[task.retain],
        wrong.tolist(),
        count,
        power=settings.power,
        shrinkage=settings.shrinkage,
    )
    nearest = _nearest_wrong(
        np.asarray(jax.jit(squared_distances)(jnp.asarray(features[kept:]), gaussians)),
        task.labels[task.forget],
        wrong,
        name,
    )
    epochs, drawn = _epochs(task, settings, name)
    targets = np.zeros((len(task.labels), 2 * count + 3), np.float32)
    targets[task.retain, :count] = _teacher(logits[:kept], task.forget_classes, settings.temperature)
    targets[task.forget, count + nearest] = 1
    targets[task.forget, 2 * count] = settings.distance_weight
    targets[task.retain, 2 * count + 1] = settings.teacher_weight
    targets[:, 2 * count + 2] = settings.temperature
    # So that a batch's mean is on average the mean over deleted examples plus the mean over retained ones.
    visited, weights = len(task.forget) + drawn, np.ones(len(task.labels), np.float32)
    weights[task.forget], weights[task.retain] = visited / len(task.forget), visited / drawn
    return Plan(
        name=name,
        start="original",
        examples=task.examples().replace(targets=jnp.asarray(targets), weights=jnp.asarray(weights)),
        index=rows,
        optimization=settings.optimization,
        loss=scar_loss,
        passes=epochs,
        model=with_distances(task.model),
        variables={
            "params": task.original["params"],
            "batch_stats": {"network": task.original["batch_stats"], "classes": gaussians},
        },
        finish=_network,
    )


def scar_loss(outputs: Float[Array, "B twice"], targets: Float[Array, "B columns"]) -> Float[Array, "B"]:
    """a·Σ_c n_c·d_c + b·T²·KL(p ‖ softmax(z/T)), with p, n, a, b and T of each example side by side in `targets`.

    `outputs` are C logits z and C squared distances d. The columns: C of p (taken at the same temperature T), C of n (1
    for the class to move to), then a, b and T; 2C + 3 in all. The module's function, so that all settings share one
    program.
    """
    classes = outputs.shape[-1] // 2
    teacher, towards = targets[:, :classes], targets[:, classes : 2 * classes]
    distance_weight, teacher_weight, temperature = targets[:, 2 * classes :].T
    student = jax.nn.log_softmax(outputs[:, :classes] / temperature[:, None])
    divergence = jnp.sum(xlogy(teacher, teacher) - teacher * student, axis=-1)
    distance = jnp.sum(towards * outputs[:, classes:], axis=-1)
    return distance_weight * distance + teacher_weight * temperature**2 * divergence


def _nearest_wrong(
    distances: Float[np.ndarray, "F C"], labels: np.ndarray, wrong: np.ndarray, name: str
) -> np.ndarray:
    allowed = np.zeros(distances.shape, bool)
    allowed[:, wrong] = True
    allowed[np.arange(len(labels)), labels] = False
    if not allowed.any(axis=1).all():
        raise InputError(
            f"The method {name!r} moves deleted examples to a wrong class, but only their own has examples to keep; "
            "give data with more classes."
        )
    return np.argmin(np.where(allowed, distances, np.inf), axis=1)


def _teacher(
    logits: Float[np.ndarray, "R C"], gone: tuple[int, ...], temperature: float
) -> Float[np.ndarray, "R C"]:
    """softmax(z/T), float64, with the logits of the classes that are forgotten as low as the example's smallest."""
    logits = logits.astype(np.float64)
    logits[:, list(gone)] = logits.min(axis=1, keepdims=True)
    return softmax(logits / temperature, axis=1)


def _epochs(task: Task, settings: ScarConfig, name: str) -> tuple[tuple[tuple[Pass, ...], ...], int]:
    """For each epoch one pass, over all of D_F and a draw from D_R of so many examples."""
    drawn = min(len(task.retain), max(1, round(settings.retained_per_deleted * len(task.forget))))
    generator = host_stream(task.seed, f"retained examples of {name}")
    draw = functools.partial(generator.choice, task.retain, drawn, replace=False)
    number = math.ceil(settings.optimization.epochs)
    return tuple((Pass(np.concatenate([task.forget, draw()])),) for _ in range(number)), drawn


def _network(variables: PyTree) -> PyTree:
    return {"params": variables["params"], "batch_stats": variables["batch_stats"]["network"]}
