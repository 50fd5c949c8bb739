"""What an unlearning method is: a plan for one run of gradient descent, and the engine that runs it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.models import Model
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import ChunkReport, TrainingRun, train
from mu_jax.training.state import initial_state, state_from_variables, variables_of
from mu_jax.training.step import Recipe, cross_entropy

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Task:
    """A request to forget, and all that a method may use to meet it."""

    model: Model
    images: jax.Array
    """uint8[N,H,W,D], on the device; the methods share this one copy"""
    labels: np.ndarray
    """int32[N]"""
    num_classes: int
    retain: np.ndarray
    """int64[R], rows of the training examples to keep"""
    forget: np.ndarray
    """int64[F], rows of those to delete"""
    data: DataConfig
    """for the constants of normalisation"""
    seed: int
    original: PyTree | None = None
    """variables of the trained model; None while it is being made"""

    def examples(self, label_smoothing: float = 0.0) -> Examples:
        """All N examples with their labels as targets and weight one."""
        return Examples(
            images=self.images,
            targets=jax.numpy.asarray(label_targets(self.labels, self.num_classes, label_smoothing)),
            weights=jax.numpy.ones(len(self.labels), jax.numpy.float32),
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run of gradient descent over a chosen set of (image, target distribution, weight)."""

    name: str
    """of the model it makes; names its random streams too"""
    start: str
    """`original`, the trained model's weights, or `scratch`, fresh ones"""
    examples: Examples
    index: np.ndarray
    """int64[M], the rows of `examples` that an epoch visits"""
    optimization: OptimizationConfig
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy
    """(logits float32[B,C], targets float32[B,C]) -> float32[B]"""
    gradient_mask: PyTree = None
    """factors 0 or 1, like the parameters: 0 freezes exactly"""
    penalty: Callable[[PyTree, jax.Array], jax.Array] | None = None
    """(params, share of the run done) -> scalar added to the loss"""

    def __post_init__(self) -> None:
        if self.start not in ("original", "scratch"):
            raise ValueError(f"A plan starts from {self.start!r}, but expected 'original' or 'scratch'.")
        if len(self.index) == 0:
            raise InputError(f"The plan {self.name!r} visits no example; keep at least one.")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What carrying out a plan gave."""

    variables: PyTree
    trained_samples: int
    """examples shown to the optimizer, repeats counted"""


def carry_out(
    plan: Plan,
    task: Task,
    *,
    chunk_steps: int,
    checkpoints: Checkpoints | None = None,
    on_start: Callable[[TrainingRun], None] = lambda run: None,
    on_chunk: Callable[[ChunkReport], None] = lambda report: None,
    on_compiled: Callable[[float], None] = lambda seconds: None,
) -> Outcome:
    """Run a plan to its end, resuming from `checkpoints` where it was interrupted."""
    recipe = Recipe.of(task.model, task.data, plan.optimization, loss=plan.loss, penalty=plan.penalty)
    run = TrainingRun(
        name=plan.name,
        seed=task.seed,
        index=plan.index,
        optimization=plan.optimization,
        recipe=recipe,
        gradient_mask=plan.gradient_mask,
    )
    on_start(run)
    optimizer = recipe.make_optimizer()
    if plan.start == "scratch":
        key_init, _ = run.keys()
        state = initial_state(task.model, optimizer, key_init)
    elif task.original is None:
        raise ValueError(f"The plan {plan.name!r} starts from the original model, but the task holds none.")
    else:
        state = state_from_variables(task.original, optimizer)
    state = train(
        run,
        state,
        plan.examples,
        chunk_steps=chunk_steps,
        checkpoints=checkpoints,
        on_chunk=on_chunk,
        on_compiled=on_compiled,
    )
    return Outcome(variables_of(state), run.trained_samples)
