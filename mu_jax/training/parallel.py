"""Many models in one compiled program: devices side by side, and on each device a mapping over its models.

The step is written for one model. Here, and in `programs.py`, which compiles, is the one place that adds the axis of
models. Devices share the models out by `jit(shard_map)` over a mesh of this process's devices, which is what `pmap` has
been since JAX 0.10; written out, the program can be compiled ahead (so that its memory is known before it runs) and
exported, and works alike in one process and in many. Models share nothing but the data, so the
program holds no collective.

| mapping | how the models of one device advance |
|---|---|
| `one` | there is a single one; group after group, one after another |
| `map` | `lax.map`: one model's whole chunk of steps, then the next one's, inside one program |
| `vmap` | all of them step by step, in batched operations |

A model's parameters are bitwise the same whatever its companions, its slot and its group, under one placement: shapes
are constant, a slot without a run changes nothing, and all randomness comes from the run (`TrainingRun.keys`), none
from the slot.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mu_jax.training.chunk import ChunkInputs, Examples
from mu_jax.training.cpu_threads import compiler_options
from mu_jax.training.group_log import GroupLog, GroupReport
from mu_jax.training.loop import TrainingRun
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.placement import Placement
from mu_jax.training.programs import AXIS, QueryFn, Slot, make_programs
from mu_jax.training.state import TrainState, initial_state, variables_of
from mu_jax.training.step import Recipe

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainedGroup:
    """What became of G runs, in their order."""

    states: TrainState
    """with an axis of slots, on the devices; `of` and `state_of` pick a run's"""
    order: np.ndarray
    """int64[G], the slot of each run"""
    diverged_step: np.ndarray
    """int64[G], −1 for a sound model; a diverged one is as it was before the chunk in which a step went wrong"""
    loss: np.ndarray
    """float64[G], the mean over a run's steps in its last chunk; NaN for a diverged one"""
    signals: dict[str, np.ndarray]
    """what `query_fn` gave, [G,...]"""
    seconds: float
    """of training, without compilation and queries"""
    query_seconds: float

    def of(self, run: int) -> PyTree:
        """The variables `{"params", "batch_stats"}` of one run, as NumPy arrays."""
        return variables_of(self.state_of(run))

    def state_of(self, run: int) -> TrainState:
        """All of one run's state, as NumPy arrays: what a further run may go on from."""
        return jax.tree.map(lambda leaf: leaf[self.order[run]], self._on_host)

    @functools.cached_property
    def _on_host(self) -> TrainState:
        # All runs at once: to pick a run out of each array on the devices is a program a time.
        return jax.tree.map(np.asarray, self.states)


class ParallelTrainer:
    """Trains groups of runs that share a recipe, a batch size and the examples; compiles once for all of them."""

    def __init__(
        self,
        recipe: Recipe,
        examples: Examples,
        placement: Placement,
        *,
        batch_size: int,
        chunk_steps: int,
        query_fn: QueryFn | None = None,
        query_data: PyTree = None,
        from_variables: bool = False,
        from_states: bool = False,
        gradient_mask: PyTree = None,
        own_masks: bool = False,
        extra: PyTree = None,
    ) -> None:
        """Puts a copy of `examples` and `query_data` on each device (one, where they share an array).

        Models start from fresh weights, or, with `from_variables`, from those that `train` is given, or, with
        `from_states`, from whole states, optimizer and all. A gradient mask is one for all runs, or, with `own_masks`,
        each run's own. `extra` is that of any run, for its shapes; each run brings its own.
        """
        self.recipe, self.placement = recipe, placement
        self.batch_size, self.chunk_steps = batch_size, chunk_steps
        self.from_variables, self.from_states = from_variables, from_states
        devices = jax.local_devices()[: placement.devices]
        mesh = jax.make_mesh((placement.devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
        self._split = NamedSharding(mesh, PartitionSpec(AXIS))
        everywhere = NamedSharding(mesh, PartitionSpec())
        placed = {
            id(leaf): jax.device_put(leaf, everywhere) for leaf in jax.tree.leaves((examples, query_data))
        }
        self.gradient_mask, self.own_masks = gradient_mask, own_masks
        self._extra = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, {} if extra is None else extra))
        self._mask = jax.device_put(gradient_mask, everywhere)
        self._examples, self._query_data = jax.tree.map(lambda leaf: placed[id(leaf)], (examples, query_data))
        self.programs = make_programs(recipe, placement.mapping, mesh, query_fn)
        self._compiled: dict[str, Any] = {}
        self.compile_seconds = 0.0

    def arguments(self) -> dict[str, tuple]:
        """Of each program, what it takes: arrays' shapes, dtypes and shardings."""
        width = self.placement.width
        model, optimizer = self.recipe.model, self.recipe.make_optimizer()

        def spread(tree: PyTree) -> PyTree:
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype, sharding=self._split),
                tree,
            )

        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(
            lambda key, extra: initial_state(model, optimizer, key, extra), key, self._extra
        )
        scalar, whole = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
        row = jax.ShapeDtypeStruct((self.chunk_steps,), jnp.float32)
        index = jax.ShapeDtypeStruct((self.chunk_steps, self.batch_size), jnp.int32)
        slots = spread(Slot(state, whole))
        inputs = spread(ChunkInputs(index, row, row))
        hyperparameters = spread(Hyperparameters(*([scalar] * len(Hyperparameters._fields))))
        extra = spread(self._extra)
        # Masks are float32 whatever the weights are.
        masks = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), state.params)
        return {
            "start": (spread(state),)
            if self.from_states
            else (spread(variables_of(state) if self.from_variables else key), extra),
            "chunk": (
                slots,
                inputs,
                spread(whole),
                spread(key),
                hyperparameters,
                spread(masks) if self.own_masks else None,
                self._examples,
                self._mask,
            ),
            "finish": (slots, self._query_data),
        }

    def compile(self) -> None:
        """Compile everything; `train` does it where it was not done."""
        if self._compiled:
            return
        began = time.perf_counter()
        programs = {
            "start": self.programs.resume
            if self.from_states
            else self.programs.adopt
            if self.from_variables
            else self.programs.start,
            "chunk": self.programs.chunk,
            "finish": self.programs.finish,
        }
        options = compiler_options(self.placement.devices)
        for name, arguments in self.arguments().items():
            self._compiled[name] = programs[name].lower(*arguments).compile(compiler_options=options)
        self.compile_seconds = time.perf_counter() - began

    @property
    def compiled(self) -> dict[str, Any]:
        """The compiled programs, for another trainer's `take_over`; empty before `compile`."""
        return self._compiled

    def take_over(self, compiled: dict[str, Any]) -> None:
        """Run what a trainer of the same recipe, placement and shapes has compiled, in place of compiling."""
        self._compiled = compiled

    def bytes_per_device(self) -> int:
        """Of the hungriest program, with its arguments and results; 0 where the backend does not tell."""
        self.compile()
        sizes = [program.memory_analysis() for program in self._compiled.values()]
        return max(
            size.argument_size_in_bytes
            + size.output_size_in_bytes
            - size.alias_size_in_bytes
            + size.temp_size_in_bytes
            if size
            else 0
            for size in sizes
        )

    def compiled_text(self) -> str:
        """The compiled programs, as XLA writes them."""
        self.compile()
        return "\n".join(program.as_text() for program in self._compiled.values())

    def train(
        self,
        runs: Sequence[TrainingRun],
        *,
        variables: Sequence[PyTree] | None = None,
        states: Sequence[TrainState] | None = None,
        on_chunk: Callable[[GroupReport], None] = lambda report: None,
    ) -> TrainedGroup:
        """Train up to `placement.width` runs to their ends, then query them.

        `variables` or `states`, of each run, are what a trainer made `from_variables` or `from_states` starts from; a
        state's `step` goes on counting, and with the run's name keys the streams of randomness. A model whose loss or
        gradient is not finite is marked and stays as it was before that chunk; the others go on.
        """
        self._check(runs, variables, states)
        self.compile()
        began = time.perf_counter()
        devices, per_device = self.placement.devices, self.placement.models_per_device
        # Slot d·P + p holds run p·D + d, so that a group that is not full still keeps all devices busy.
        run_of_slot = np.arange(self.placement.width).reshape(per_device, devices).T.ravel()
        order = np.argsort(run_of_slot)[: len(runs)]
        # A slot without a run takes no steps; what else it holds does not matter, so it holds the first run's.
        filled = [runs[i] if i < len(runs) else runs[0] for i in run_of_slot]
        is_free = run_of_slot >= len(runs)

        keys_init, keys_steps = (
            self._put(jnp.stack(keys)) for keys in zip(*(run.keys() for run in filled), strict=True)
        )
        start = keys_init
        given = variables if states is None else states
        if given is not None:
            given = [given[i] if i < len(runs) else given[0] for i in run_of_slot]
            start = self._put(_stacked(given))
        extra = () if self.from_states else (self._put(_stacked([run.extra for run in filled])),)
        slots = self._compiled["start"](start, *extra)
        scalars = [[getattr(run.optimization, name) for run in filled] for name in Hyperparameters._fields]
        hyperparameters = self._put(Hyperparameters(*np.array(scalars, np.float32)))
        masks = self._put(_stacked([run.gradient_mask for run in filled])) if self.own_masks else None

        log = GroupLog(runs, order, began, on_chunk)
        for first in range(0, max(run.steps for run in runs), self.chunk_steps):
            counts = np.array([np.clip(run.steps - first, 0, self.chunk_steps) for run in filled], np.int32)
            counts[is_free] = 0
            stacked = [
                run.inputs(first, int(count), self.chunk_steps)
                for run, count in zip(filled, counts, strict=True)
            ]
            inputs = jax.tree.map(lambda *leaves: np.stack(leaves), *stacked)
            slots, metrics = self._compiled["chunk"](
                slots,
                self._put(inputs),
                self._put(counts),
                keys_steps,
                hyperparameters,
                masks,
                self._examples,
                self._mask,
            )
            # The devices are at work on this chunk while the host reads the last one's metrics.
            log.add(first, counts, inputs.learning_rate, metrics)
        log.close()
        jax.block_until_ready(slots)
        trained = time.perf_counter()

        signals, diverged = jax.tree.map(np.asarray, self._compiled["finish"](slots, self._query_data))
        return TrainedGroup(
            states=slots.state,
            order=order,
            diverged_step=diverged[order].astype(np.int64),
            loss=np.where(diverged[order] < 0, log.loss, np.nan),
            signals={name: signal[order] for name, signal in signals.items()},
            seconds=trained - began,
            query_seconds=time.perf_counter() - trained,
        )

    def _put(self, tree: PyTree) -> PyTree:
        return jax.device_put(tree, self._split)

    def _check(
        self,
        runs: Sequence[TrainingRun],
        variables: Sequence[PyTree] | None,
        states: Sequence[TrainState] | None,
    ) -> None:
        if not 1 <= len(runs) <= self.placement.width:
            raise ValueError(
                f"A group got {len(runs)} runs, but has {self.placement.width} slots; cut the runs into groups."
            )
        for name, given, expected in (
            ("variables", variables, self.from_variables),
            ("states", states, self.from_states),
        ):
            if (given is not None) != expected or len(given or runs) != len(runs):
                raise ValueError(
                    f"The trainer is made with from_{name}={expected}, but got "
                    f"{f'no {name}' if given is None else f'{len(given)} {name} for {len(runs)} runs'}; give {name} "
                    "for each run exactly where the trainer expects them."
                )
        for run in runs:
            if run.recipe != self.recipe or run.rows_per_step != self.batch_size:
                raise ValueError(
                    f"The run {run.name!r} has another recipe or batch size than the trainer, but a group shares one "
                    "program; make a trainer for each."
                )
            if self.own_masks:
                if run.gradient_mask is None:
                    raise ValueError(
                        f"The run {run.name!r} has no gradient mask, but the trainer expects each run's own; give it "
                        "one."
                    )
            elif run.gradient_mask is not self.gradient_mask:
                raise ValueError(
                    f"The run {run.name!r} has another gradient mask than the trainer, but a group shares one; make a "
                    "trainer for each."
                )
            shapes = jax.eval_shape(lambda extra: jax.tree.map(jnp.asarray, extra), run.extra)
            if shapes != self._extra and not self.from_states:
                raise ValueError(
                    f"The run {run.name!r} has an extra of {shapes}, but the trainer expects {self._extra}; make the "
                    "trainer with the extra of one of its runs."
                )
            if len(run.index) == 0:
                raise ValueError(
                    f"The run {run.name!r} has no example, but expected at least one; give it some."
                )


def _stacked(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(list(map(np.asarray, leaves))), *trees)
