"""A network trained from scratch on somebody's arrays."""

import functools
import time
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mu_jax.api.classifier import Classifier, carried_out
from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig, with_values
from mu_jax.data.arrays import as_dataset, as_positions
from mu_jax.models import Model, build_model
from mu_jax.models.own_module import model_of
from mu_jax.ops import choose_lowering, signal_lowering
from mu_jax.unlearning.plan import Plan, Task


def train(
    network: nn.Module | ModelConfig,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    num_classes: int | None = None,
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.25,),
    seed: int = 0,
    name: str = "original",
    **settings: Any,
) -> Classifier:
    """Train `network` from scratch on images uint8[N,H,W,D] (or [N,H,W]) and labels int[N] in 0..C−1.

    `network` is a flax.linen module that is called as `module(images, train=...)` and gives float32[B,C]
    (`mu_jax.models.own_module`), or a `ModelConfig` of a built-in one. `rows` are the positions to learn (None: all);
    the others stay out of everything, as a shadow model's non-members do. Pixels in [0, 1] are normalised by the
    constants `mean` and `std`. `settings` are those of `OptimizationConfig`: epochs, batch_size, learning_rate, ...
    `seed` and `name` draw weights and batches. InputError for anything that does not fit.
    """
    optimization = with_values(OptimizationConfig(), settings)
    checked = as_dataset(images, labels, num_classes)
    data = DataConfig(mean=tuple(map(float, mean)), std=tuple(map(float, std)))
    channels = checked.image_shape[-1]
    if not {len(data.mean), len(data.std)} <= {1, channels}:
        raise InputError(
            f"mean has {len(data.mean)} values and std {len(data.std)}, but the images have {channels} channels; give "
            "one value, or one a channel."
        )
    model, reader = _models(network, checked.num_classes, checked.image_shape)
    known = as_positions(
        np.arange(len(checked.y_train)) if rows is None else rows, len(checked.y_train), "rows"
    )
    task = Task(
        model=model,
        images=jax.numpy.asarray(checked.x_train),
        labels=checked.y_train,
        num_classes=checked.num_classes,
        retain=known,
        forget=known[:0],
        data=data,
        seed=seed,
        query_model=reader,
        attack_model=model,
        architecture=network if isinstance(network, ModelConfig) else None,
        lowering=_lowering(network, checked.image_shape),
    )
    plan = Plan(name, "scratch", task.examples(optimization.label_smoothing), known, optimization)
    return carried_out(plan, task, optimization, network, time.perf_counter())


def _lowering(network: nn.Module | ModelConfig, image_shape: tuple[int, int, int]) -> str:
    width = network.width if isinstance(network, ModelConfig) else None
    setting = network.convolution if isinstance(network, ModelConfig) else "auto"
    return choose_lowering(setting, jax.default_backend(), width=width, image_size=max(image_shape[:2]))


def _models(
    network: nn.Module | ModelConfig, num_classes: int, image_shape: tuple[int, int, int]
) -> tuple[Model, Model]:
    try:
        hash(network)
    except TypeError:
        raise InputError(
            f"The module {type(network).__name__} has a field that cannot be hashed, such as a list, so that its "
            "programs could not be kept; give it tuples."
        ) from None
    return _built(network, num_classes, image_shape)


# The cache is what lets models of one network share their programs, which are told apart by its functions.
@functools.cache
def _built(
    network: nn.Module | ModelConfig, num_classes: int, image_shape: tuple[int, int, int]
) -> tuple[Model, Model]:
    """(the network that trains, the same for signals)."""
    lowering = _lowering(network, image_shape)
    if isinstance(network, ModelConfig):
        how = {"num_classes": num_classes, "image_shape": image_shape}
        return (
            build_model(network, **how, convolution=lowering),
            build_model(network, **how, convolution=signal_lowering(lowering), compute_dtype="float32"),
        )
    where = f"The module {type(network).__name__}"
    trains = model_of(network, num_classes, image_shape, lowering, where)
    if signal_lowering(lowering) == lowering:
        return trains, trains
    return trains, model_of(network, num_classes, image_shape, signal_lowering(lowering), where)
