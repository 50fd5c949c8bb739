"""Boundary expanding: an example to forget is learned as one of a new class, whose output is then taken away.

Chen et al., "Boundary Unlearning", CVPR 2023 (in later tables BE).
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mu_jax.config import InputError, ModelConfig
from mu_jax.config.class_methods import BoundaryExpandingConfig
from mu_jax.data.random_streams import host_stream
from mu_jax.models import Model, build_model
from mu_jax.models.head import head_of, with_head
from mu_jax.training.chunk import label_targets
from mu_jax.unlearning.plan import Pass, Plan, Task

PyTree = Any


def boundary_expanding(
    task: Task, settings: BoundaryExpandingConfig, name: str = "boundary_expanding"
) -> Plan:
    """CE(D_F, class C) of the network with C + 1 outputs, then with `retain` CE(D_R), in each epoch; pruned at the end.

    The new output starts as a fresh dense layer's (uniform in ±1/√D, drawn by the seed and the name), the others as the
    original's. After training its neuron is pruned, as the paper has it, so that the model has the task's C outputs:
    much public code leaves it in, where no retrained model has one to compare it with.
    """
    task.require(name, retain=settings.retain, original=True)
    if task.architecture is None:
        raise InputError(
            f"The method {name!r} builds the network with one more output, but the task does not say what it was built "
            "from; give Task.architecture (and Task.lowering)."
        )
    wider = widened_model(
        task.architecture, task.num_classes + 1, tuple(task.images.shape[1:]), task.lowering
    )
    _, kernel, bias = head_of(task.model, task.original["params"])
    generator = host_stream(task.seed, f"new output of {name}")
    kernel, bias = with_new_output(np.asarray(kernel), np.asarray(bias), generator)
    smoothing = settings.optimization.label_smoothing
    targets = np.pad(label_targets(task.labels, task.num_classes, smoothing), ((0, 0), (0, 1)))
    targets[task.forget] = label_targets(
        np.full(len(task.forget), task.num_classes), task.num_classes + 1, smoothing
    )
    epochs = math.ceil(settings.optimization.epochs)
    epoch = (Pass(task.forget), Pass(task.retain))
    return Plan(
        name=name,
        start="original",
        examples=task.examples().replace(targets=jnp.asarray(targets)),
        index=np.concatenate([task.forget, task.retain]) if settings.retain else task.forget,
        optimization=settings.optimization,
        passes=(epoch,) * epochs if settings.retain else (),
        model=wider,
        variables=with_head(wider, task.original, kernel, bias),
        finish=functools.partial(_pruned, task.model, wider),
    )


# The cache is what lets runs of many originals share a program: programs are told apart by their model's functions.
@functools.cache
def widened_model(
    architecture: ModelConfig, outputs: int, image_shape: tuple[int, int, int], lowering: str
) -> Model:
    """The network of `architecture` with so many outputs."""
    return build_model(architecture, num_classes=outputs, image_shape=image_shape, convolution=lowering)


def with_new_output(
    kernel: Float[Array | np.ndarray, "D C"],
    bias: Float[Array | np.ndarray, "C"],
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, "D more"], Float[np.ndarray, "more"]]:
    """The head with one output more, behind the others: uniform in ±1/√D, as a `Linear` starts."""
    bound = kernel.shape[0] ** -0.5
    column = generator.uniform(-bound, bound, (kernel.shape[0], 1)).astype(kernel.dtype)
    offset = generator.uniform(-bound, bound, 1).astype(bias.dtype)
    return np.concatenate([kernel, column], axis=1), np.concatenate([bias, offset])


def _pruned(model: Model, wider: Model, variables: PyTree) -> PyTree:
    _, kernel, bias = head_of(wider, variables["params"])
    return with_head(model, variables, np.asarray(kernel)[:, :-1], np.asarray(bias)[:-1])
