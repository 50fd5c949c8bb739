"""Examples deleted from a trained network by any of the methods."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.api.classifier import Classifier, carried_out
from mu_jax.config import InputError, NeighboursConfig, OptimizationConfig, with_values
from mu_jax.config.class_methods import ClassMethodsConfig
from mu_jax.config.errors import one_of
from mu_jax.data.arrays import as_positions
from mu_jax.unlearning.methods import METHODS, make_plan, neighbours_config
from mu_jax.unlearning.neighbours import adversarial_neighbours
from mu_jax.unlearning.retrain import retrain


def forget(
    classifier: Classifier,
    indices: np.ndarray,
    method: str = "amun",
    *,
    classes: tuple[int, ...] = (),
    seed: int | None = None,
    name: str = "",
    **settings: Any,
) -> Classifier:
    """Delete the training examples at `indices` (positions in the images that it was trained on) by `method`.

    `retrain` trains anew without them, which is exact; the others are those of `mu_jax.unlearning.methods`, with
    their published settings less crops and mirroring that the classifier's own training had not. `settings` change
    them: those of the method itself, or of its optimization (`epochs=3.0`). Methods for whole classes take `classes`,
    and `indices` are then all of their training examples. The result knows its remaining rows alone, so it can forget
    again. InputError where it does not fit.
    """
    one_of("method", method, ("retrain", *METHODS))
    task = classifier.task
    forgotten = as_positions(indices, len(task.labels), "indices")
    strangers = np.setdiff1d(forgotten, task.retain)
    if len(strangers):
        raise InputError(
            f"indices holds {len(strangers)} positions that {classifier.name!r} was not trained on, the first of them "
            f"{strangers[0]}; leave them out."
        )
    if len(forgotten) == len(task.retain):
        raise InputError(
            f"indices holds all {len(forgotten)} examples that {classifier.name!r} was trained on, but expected some "
            "to stay; forget fewer."
        )
    task = dataclasses.replace(
        task,
        retain=np.setdiff1d(task.retain, forgotten),
        forget=forgotten,
        original=classifier.variables,
        forget_classes=tuple(classes),
        seed=task.seed if seed is None else seed,
    )
    began = time.perf_counter()
    if method == "retrain":
        optimization = with_values(classifier.optimization, settings)
        plan = retrain(task, optimization, name or method)
        return carried_out(plan, task, optimization, classifier.network, began)
    chosen = METHODS[method]
    if chosen.neighbours == "transferred":
        raise InputError(
            f"The method {method!r} needs an adversarial set of another model; use configs/unlearn.py with "
            "--config.neighbours_file."
        )
    wanted = _with_settings(chosen.settings_of(ClassMethodsConfig()), settings, classifier.optimization)
    stored = None
    if chosen.neighbours:
        stored = adversarial_neighbours(task, neighbours_config(method, NeighboursConfig()))
    plan = make_plan(method, task, wanted, neighbours=stored, name=name)
    return carried_out(plan, task, classifier.optimization, classifier.network, began)


def _with_settings(method: Any, settings: Mapping[str, Any], trained: OptimizationConfig) -> Any:
    """A method's settings with changes, and without augmentation that the model does not know."""
    is_plain = isinstance(method, OptimizationConfig)
    inner = method if is_plain else getattr(method, "optimization", None)
    if inner is None:
        return with_values(method, settings)
    inner = dataclasses.replace(
        inner, crop_padding=min(inner.crop_padding, trained.crop_padding), flip=inner.flip and trained.flip
    )
    own = set() if is_plain else {field.name for field in dataclasses.fields(method)}
    inner = with_values(inner, {key: value for key, value in settings.items() if key not in own})
    if is_plain:
        return inner
    changed = {key: value for key, value in settings.items() if key in own}
    return with_values(dataclasses.replace(method, optimization=inner), changed)
