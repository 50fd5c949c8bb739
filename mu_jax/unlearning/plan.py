"""What an unlearning method is: a plan for one run of gradient descent, and the engine that runs it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig
from mu_jax.models import Model
from mu_jax.training.batches import batch_indices
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.chunk import ChunkInputs, Examples, label_targets
from mu_jax.training.loop import ChunkReport, TrainingRun, train
from mu_jax.training.query import make_query
from mu_jax.training.schedules import learning_rates
from mu_jax.training.start import fresh_start, start_from
from mu_jax.training.state import variables_of
from mu_jax.training.step import Recipe, cross_entropy

PyTree = Any

QUERY_BATCH = 500
"""Images in one forward pass of the original model; that of the experiments' default, whose program it shares."""


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
    query_model: Model | None = None
    """the network in float32, for what methods read off the original; None takes `model`"""
    attack_model: Model | None = None
    """the network in float32 by its fastest lowering, whose gradients attacks follow; None takes the reader"""
    known_logits: np.ndarray | None = None
    """float32[N,C] of the original on all images, where somebody has asked it already"""
    forget_classes: tuple[int, ...] = ()
    """the classes whose every training example is to be forgotten; empty where single examples are"""
    architecture: ModelConfig | None = None
    """what the network was built from, for methods that need one of another head"""
    lowering: str = "xla"
    """how `model` lowers its convolutions, where `architecture` leaves it to be chosen"""

    def examples(self, label_smoothing: float = 0.0) -> Examples:
        """All N examples with their labels as targets and weight one."""
        return Examples(
            images=self.images,
            targets=jax.numpy.asarray(label_targets(self.labels, self.num_classes, label_smoothing)),
            weights=jax.numpy.ones(len(self.labels), jax.numpy.float32),
        )

    @property
    def reader(self) -> Model:
        """The network to read the original with."""
        return self.query_model or self.model

    @property
    def attacked(self) -> Model:
        """The network whose gradients attacks follow; its logits may differ from the reader's by rounding."""
        return self.attack_model or self.reader

    def original_logits(self, method: str) -> np.ndarray:
        """float32[N,C] of the original model on all images as they are; InputError, naming the method, without one."""
        self.require(method, original=True)
        if self.known_logits is not None:
            return self.known_logits
        query = make_query(self.reader, tuple(self.data.mean), tuple(self.data.std), QUERY_BATCH)
        return np.asarray(query(self.original, self.images))

    def require_classes(self, method: str) -> tuple[int, ...]:
        """The classes to forget. InputError, naming the method, where there are none, or fewer than two stay."""
        if not self.forget_classes:
            raise InputError(
                f"The method {method!r} forgets whole classes, but the forget set is of single examples; give "
                "forget.classes."
            )
        left = self.num_classes - len(self.forget_classes)
        if left < 2:
            raise InputError(
                f"The method {method!r} needs at least two classes that stay, but {self.num_classes} classes without "
                f"{len(self.forget_classes)} to forget leave {left}; give data with more classes."
            )
        return self.forget_classes

    def require(self, method: str, *, retain: bool = False, original: bool = False) -> None:
        """InputError unless there is what a method needs: something to forget, and what is named here."""
        for needed, rows, key in ((True, self.forget, "forget"), (retain, self.retain, "retain")):
            if needed and len(rows) == 0:
                raise InputError(
                    f"The method {method!r} got no example to {key}, but expected at least one; change the forget set."
                )
        if original and self.original is None:
            raise InputError(
                f"The method {method!r} reads the original model, but the task holds none; train or load it first."
            )


@dataclasses.dataclass(frozen=True)
class Pass:
    """A part of an epoch: some rows, each once and in a fresh order, in batches that no other part shares.

    Batches are full, as everywhere: where the rows end inside the last one, it goes on with rows of another order.
    """

    index: np.ndarray
    """int64[M]"""
    batch_size: int = 0
    """Rows in a step; 0 takes the run's batch size, which this one divides. A step then holds each row so many times:
    the mean loss and the batch's moments are as if it held them once, and one program serves both sizes."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run of gradient descent over a chosen set of (image, target distribution, weight)."""

    name: str
    """of the model it makes; names its random streams too"""
    start: str
    """`original`, the trained model's weights, or `scratch`, fresh ones"""
    examples: Examples
    index: np.ndarray
    """int64[M], the rows of `examples` that an epoch visits, mixed; with `passes`, all that the run visits"""
    optimization: OptimizationConfig
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy
    """(logits float32[B,C], targets float32[B,C]) -> float32[B]"""
    gradient_mask: PyTree = None
    """factors 0 or 1, like the parameters: 0 freezes exactly"""
    penalty: Callable[[PyTree, jax.Array], jax.Array] | None = None
    """(params, share of the run done) -> scalar added to the loss"""
    penalty_strength: Callable[[np.ndarray], np.ndarray] | None = None
    """shares of the run done, float32[n] -> float32[n], which the penalty is given in their place: on the host, so that
    its coefficients are no part of the program"""
    passes: tuple[tuple[Pass, ...], ...] = ()
    """for each of ⌈epochs⌉ epochs, what it visits one after another; without, each mixes all of `index`"""
    model: Model | None = None
    """the network that is trained, where it is not the task's: with another head, or with features among its outputs"""
    variables: PyTree | None = None
    """what it starts from, where that is not the original's weights: of another shape, or changed beforehand"""
    finish: Callable[[PyTree], PyTree] | None = None
    """from the trained weights to those of the task's network, on the host; None where they are that already"""

    def __post_init__(self) -> None:
        if self.start not in ("original", "scratch"):
            raise ValueError(f"A plan starts from {self.start!r}, but expected 'original' or 'scratch'.")
        if len(self.index) == 0:
            raise InputError(f"The plan {self.name!r} visits no example; keep at least one.")
        if not self.passes:
            return
        if len(self.passes) != math.ceil(self.optimization.epochs):
            raise InputError(
                f"The plan {self.name!r} says what {len(self.passes)} epochs pass over, but its optimization.epochs is "
                f"{self.optimization.epochs:g}; say it for each epoch."
            )
        for part in (part for epoch in self.passes for part in epoch):
            if len(part.index) == 0:
                raise InputError(f"The plan {self.name!r} has a pass over no example; keep at least one.")
            if part.batch_size and self.optimization.batch_size % part.batch_size:
                raise InputError(
                    f"The plan {self.name!r} has a pass in batches of {part.batch_size}, but expected a divisor of "
                    f"optimization.batch_size, which is {self.optimization.batch_size}; change one of the two."
                )


@dataclasses.dataclass(frozen=True)
class Edit:
    """The work of a method without gradient descent: the weights, changed in closed form."""

    name: str
    """of the model it makes"""
    variables: PyTree
    """of the task's network"""
    read_samples: int = 0
    """examples that the network was asked about on the way"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What carrying out a plan gave."""

    variables: PyTree
    trained_samples: int
    """examples shown to the optimizer, repeats counted"""


@dataclasses.dataclass(frozen=True)
class PlannedRun(TrainingRun):
    """The run of a plan: a training run, but for the order of its examples and the schedule of its penalty."""

    passes: tuple[tuple[Pass, ...], ...] = ()
    penalty_strength: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def steps(self) -> int:
        if not self.passes:
            return super().steps
        ends = np.cumsum([0, *self._epoch_steps()])
        # The last epoch may be cut short.
        return math.ceil(round(float(np.interp(self.optimization.epochs, np.arange(len(ends)), ends)), 9))

    def epoch_at(self, step: int) -> float:
        """Epochs that lie behind at a step."""
        if not self.passes:
            return step * self.optimization.batch_size / len(self.index)
        ends = np.cumsum([0, *self._epoch_steps()])
        return float(np.interp(step, ends, np.arange(len(ends))))

    def inputs(self, first: int, count: int, chunk_steps: int) -> ChunkInputs:
        inputs = super().inputs(first, count, chunk_steps)
        if self.passes:
            index, rates = self._ordered(first, first + count)
            inputs.index[:count], inputs.learning_rate[:count] = index, rates
        if self.penalty_strength is not None:
            inputs = inputs.replace(progress=self.penalty_strength(inputs.progress).astype(np.float32))
        return inputs

    def _rows(self, part: Pass) -> int:
        return part.batch_size or self.optimization.batch_size

    def _steps(self, part: Pass) -> int:
        return -(-len(part.index) // self._rows(part))

    def _epoch_steps(self) -> list[int]:
        return [sum(map(self._steps, epoch)) for epoch in self.passes]

    def _ordered(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int32[n,B] and learning rates float32[n] of the steps from `first` to before `last`."""
        size = self.optimization.batch_size
        index, rates = [np.zeros((0, size), np.int32)], [np.zeros(0, np.float32)]
        begin = number = 0  # of an epoch, and of a pass: its place names its stream of random orders
        for epoch, parts in enumerate(self.passes):
            length = sum(map(self._steps, parts))
            low, high = max(first - begin, 0), min(last - begin, length)
            if low < high:
                # An epoch's length in examples is what makes a schedule in epochs of one in steps.
                start = epoch * length + low
                rates.append(learning_rates(self.optimization, length * size, start, high - low))
            for part in parts:
                low, high = max(first - begin, 0), min(last - begin, self._steps(part))
                if low < high:
                    stream = (self.seed, self._tag, number)
                    rows = batch_indices(part.index, self._rows(part), low, high - low, stream)
                    index.append(np.repeat(rows, size // self._rows(part), axis=1))
                begin, number = begin + self._steps(part), number + 1
        return np.concatenate(index), np.concatenate(rates)


def training_run(plan: Plan, task: Task) -> PlannedRun:
    """The run that carries a plan out; a group of models takes such runs too."""
    return PlannedRun(
        name=plan.name,
        seed=task.seed,
        index=plan.index,
        optimization=plan.optimization,
        recipe=Recipe.of(
            plan.model or task.model, task.data, plan.optimization, loss=plan.loss, penalty=plan.penalty
        ),
        gradient_mask=plan.gradient_mask,
        passes=plan.passes,
        penalty_strength=plan.penalty_strength,
    )


def carry_out(
    plan: Plan | Edit,
    task: Task,
    *,
    chunk_steps: int,
    checkpoints: Checkpoints | None = None,
    on_start: Callable[[TrainingRun], None] = lambda run: None,
    on_chunk: Callable[[ChunkReport], None] = lambda report: None,
    on_compiled: Callable[[float], None] = lambda seconds: None,
) -> Outcome:
    """Run a plan to its end, resuming from `checkpoints` where it was interrupted; an edit is done already."""
    if isinstance(plan, Edit):
        return Outcome(plan.variables, 0)
    run = training_run(plan, task)
    on_start(run)
    if plan.start == "scratch":
        key_init, _ = run.keys()
        state = fresh_start(run.recipe, key_init)
    else:
        state = start_from(run.recipe, start_of(plan, task))
    state = train(
        run,
        state,
        plan.examples,
        chunk_steps=chunk_steps,
        checkpoints=checkpoints,
        on_chunk=lambda report: on_chunk(dataclasses.replace(report, epoch=run.epoch_at(report.step))),
        on_compiled=on_compiled,
    )
    return Outcome(finished(plan, variables_of(state)), run.trained_samples)


def start_of(plan: Plan, task: Task) -> PyTree:
    """The weights that a plan starts from which does not start from scratch."""
    if plan.variables is not None:
        return plan.variables
    if task.original is None:
        raise ValueError(f"The plan {plan.name!r} starts from the original model, but the task holds none.")
    return task.original


def finished(plan: Plan, variables: PyTree) -> PyTree:
    """The weights of the task's network, from those that the plan trained."""
    return variables if plan.finish is None else plan.finish(variables)
