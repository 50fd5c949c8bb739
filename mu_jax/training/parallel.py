"""Many models in one compiled program: devices side by side, and on each device a mapping over its models.

The step is written for one model, and this is the one place that adds the axis of models. Devices share the models out
by `jit(shard_map)` over a mesh of this process's devices, which is what `pmap` has been since JAX 0.10; written out,
the program can be compiled ahead (so that its memory is known before it runs) and exported, and works alike in one
process and in many. Models share nothing but the data, so the program holds no collective.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from mu_jax.training.chunk import ChunkInputs, Examples
from mu_jax.training.group_log import GroupLog, GroupReport
from mu_jax.training.loop import TrainingRun
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.placement import Placement
from mu_jax.training.state import TrainState, initial_state, state_from_variables, variables_of
from mu_jax.training.step import Batch, Recipe, make_step

PyTree = Any
QueryFn = Callable[[PyTree, PyTree], Mapping[str, Array]]
"""(variables of one model, the query's data) -> its signals; pure."""

_AXIS = "models"


class Slot(flax.struct.PyTreeNode):
    """One model in training; a group has W of them, stacked."""

    state: PyTree
    """TrainState"""
    diverged_step: PyTree
    """int32[], the step whose loss or gradient was not finite, or −1; the state is then that before its chunk"""


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
        return jax.tree.map(lambda leaf: np.asarray(leaf[self.order[run]]), self.states)


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
    ) -> None:
        """Puts a copy of `examples` and `query_data` on each device (one, where they share an array).

        Models start from fresh weights, or, with `from_variables`, from those that `train` is given, or, with
        `from_states`, from whole states, optimizer and all.
        """
        self.recipe, self.placement = recipe, placement
        self.batch_size, self.chunk_steps = batch_size, chunk_steps
        self.from_variables, self.from_states = from_variables, from_states
        devices = jax.local_devices()[: placement.devices]
        mesh = jax.make_mesh((placement.devices,), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)
        self._split = NamedSharding(mesh, PartitionSpec(_AXIS))
        everywhere = NamedSharding(mesh, PartitionSpec())
        placed = {
            id(leaf): jax.device_put(leaf, everywhere) for leaf in jax.tree.leaves((examples, query_data))
        }
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
        state = jax.eval_shape(lambda key: initial_state(model, optimizer, key), key)
        scalar, whole = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
        row = jax.ShapeDtypeStruct((self.chunk_steps,), jnp.float32)
        index = jax.ShapeDtypeStruct((self.chunk_steps, self.batch_size), jnp.int32)
        slots = spread(Slot(state, whole))
        inputs = spread(ChunkInputs(index, row, row))
        hyperparameters = spread(Hyperparameters(*([scalar] * len(Hyperparameters._fields))))
        return {
            "start": (
                spread(state if self.from_states else variables_of(state) if self.from_variables else key),
            ),
            "chunk": (slots, inputs, spread(whole), spread(key), hyperparameters, self._examples),
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
        for name, arguments in self.arguments().items():
            self._compiled[name] = programs[name].lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - began

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
            start = self._put(jax.tree.map(lambda *leaves: np.stack(list(map(np.asarray, leaves))), *given))
        slots = self._compiled["start"](start)
        scalars = [[getattr(run.optimization, name) for run in filled] for name in Hyperparameters._fields]
        hyperparameters = self._put(Hyperparameters(*np.array(scalars, np.float32)))

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
                slots, self._put(inputs), self._put(counts), keys_steps, hyperparameters, self._examples
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
            if run.recipe != self.recipe or run.optimization.batch_size != self.batch_size:
                raise ValueError(
                    f"The run {run.name!r} has another recipe or batch size than the trainer, but a group shares one "
                    "program; make a trainer for each."
                )
            if run.gradient_mask is not None:
                raise ValueError(
                    f"The run {run.name!r} has a gradient mask, but a group takes none; train it by itself."
                )
            if len(run.index) == 0:
                raise ValueError(
                    f"The run {run.name!r} has no example, but expected at least one; give it some."
                )


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled lazily; W slots in, W slots out, split over the mesh."""

    start: Callable[..., Slot]
    """(key[W]) -> Slot[W], with fresh weights"""
    adopt: Callable[..., Slot]
    """(variables[W]) -> Slot[W], with a fresh optimizer"""
    resume: Callable[..., Slot]
    """(TrainState[W]) -> Slot[W]"""
    chunk: Callable[..., tuple[Slot, dict[str, Array]]]
    """(Slot[W], ChunkInputs[W], count int32[W], key[W], Hyperparameters[W], Examples) -> (Slot[W], metrics
    float32[W,chunk]); the slots are donated. Metrics from a model's count on are zero, those after its
    divergence mean nothing."""
    finish: Callable[..., tuple[dict[str, Array], Array]]
    """(Slot[W], data) -> (signals [W,...], diverged_step int32[W], also of models whose last weights are not finite)"""


# The cache is what lets trainers of equal recipe and mesh share programs.
@functools.cache
def make_programs(recipe: Recipe, mapping: str, mesh: Mesh, query_fn: QueryFn | None) -> Programs:
    """The programs of a recipe under a mapping, `jit`-wrapped and split over the devices of the mesh."""
    step = make_step(recipe)
    optimizer = recipe.make_optimizer()

    def new(state: TrainState) -> Slot:
        return Slot(state, jnp.full((), -1, jnp.int32))

    def fresh(key: jax.Array) -> Slot:
        return new(initial_state(recipe.model, optimizer, key))

    def adopted(variables: PyTree) -> Slot:
        return new(state_from_variables(variables, optimizer))

    def advance(slots, inputs, counts, keys, hyperparameters, examples):
        # A diverged model has no steps left. Under vmap the loop's length must be common to all models, or each step
        # would select anew between all that changes.
        counts = jnp.where(slots.diverged_step < 0, counts, 0)
        longest = jnp.max(counts)

        def one_model(slot, inputs, count, key, hyperparameters):
            limit = longest if mapping == "vmap" else None
            return _steps(step, slot, inputs, count, limit, key, hyperparameters, examples)

        return _over_models(one_model, mapping)(slots, inputs, counts, keys, hyperparameters)

    def finished(slots, data):
        def one_model(slot):
            variables = variables_of(slot.state)
            finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)]).all()
            broken = (slot.diverged_step < 0) & ~finite
            diverged_step = jnp.where(broken, slot.state.step, slot.diverged_step)
            return (dict(query_fn(variables, data)) if query_fn else {}), diverged_step

        # Never vmap: a query's batches fill a device as they are, and K of them would take K times the memory.
        return _over_models(one_model, "one" if mapping == "one" else "map")(slots)

    def split(function, shared: int = 0, donate: tuple[int, ...] = ()):
        """`function` of arrays with an axis of slots, and of `shared` last arguments without."""

        def call(*arguments):
            specs = [PartitionSpec(_AXIS)] * (len(arguments) - shared) + [PartitionSpec()] * shared
            # As pmap does: the check would ask for a cast of every constant that enters a loop.
            return jax.shard_map(
                function, mesh=mesh, in_specs=tuple(specs), out_specs=PartitionSpec(_AXIS), check_vma=False
            )(*arguments)

        return jax.jit(call, donate_argnums=donate)

    return Programs(
        start=split(_over_models(fresh, mapping)),
        adopt=split(_over_models(adopted, mapping)),
        resume=split(_over_models(new, mapping)),
        chunk=split(advance, shared=1, donate=(0,)),
        finish=split(finished, shared=1),
    )


def _over_models(function: Callable, mapping: str) -> Callable:
    """The function of one model as one of a device's models, stacked."""
    if mapping == "vmap":
        return jax.vmap(function)
    if mapping == "map":
        return lambda *stacked: lax.map(lambda one: function(*one), stacked)

    def single(*stacked):
        one = jax.tree.map(lambda leaf: leaf[0], stacked)
        return jax.tree.map(lambda leaf: leaf[None], function(*one))

    return single


def _steps(
    step: Callable,
    slot: Slot,
    inputs: ChunkInputs,
    count: Array,
    limit: Array | None,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    examples: Examples,
) -> tuple[Slot, dict[str, Array]]:
    """The first `count` steps of a chunk for one model, in a loop of `limit` ≥ `count` steps where that is given."""

    def one(i: Array, carry: tuple) -> tuple:
        state, diverged_step, metrics = carry
        rows = inputs.index[i]
        batch = Batch(
            images=examples.images[rows],
            targets=examples.targets[rows],
            weights=examples.weights[rows],
            learning_rate=inputs.learning_rate[i],
            progress=inputs.progress[i],
        )
        new, now = step(state, batch, jax.random.fold_in(key, state.step), hyperparameters)
        finite = jnp.isfinite(now["loss"]) & jnp.isfinite(now["gradient_norm"])
        takes_part = jnp.bool_(True) if limit is None else i < count
        diverged_step = jnp.where(takes_part & ~finite & (diverged_step < 0), state.step, diverged_step)
        metrics = {
            name: row.at[i].set(jnp.where(takes_part, now[name], 0.0).astype(row.dtype))
            for name, row in metrics.items()
        }
        if limit is not None:
            new = jax.tree.map(lambda new, old: jnp.where(takes_part, new, old), new, state)
        return new, diverged_step, metrics

    empty = jnp.zeros(inputs.learning_rate.shape, jnp.float32)
    metrics = {"loss": empty, "accuracy": empty, "gradient_norm": empty}
    start = (slot.state, slot.diverged_step, metrics)
    state, diverged_step, metrics = lax.fori_loop(0, count if limit is None else limit, one, start)
    # Once a chunk: to choose between all that a step changes at every step cost 5% of the speed on 8×8 images.
    state = jax.tree.map(lambda new, old: jnp.where(diverged_step < 0, new, old), state, slot.state)
    return Slot(state, diverged_step), metrics
