"""The compiled programs of a group of models: start, a chunk of steps, and the finish that reads signals."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from mu_jax.training.chunk import ChunkInputs, Examples
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.state import TrainState, initial_state, state_from_variables, variables_of
from mu_jax.training.step import Recipe, make_step

PyTree = Any
QueryFn = Callable[[PyTree, PyTree], Mapping[str, Array]]
"""(variables of one model, the query's data) -> its signals; pure."""

AXIS = "models"
"""Of the mesh: the devices that share the models out."""


class Slot(flax.struct.PyTreeNode):
    """One model in training; a group has W of them, stacked."""

    state: PyTree
    """TrainState"""
    diverged_step: PyTree
    """int32[], the step whose loss or gradient was not finite, or −1; the state is then that before its chunk"""


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled lazily; W slots in, W slots out, split over the mesh."""

    start: Callable[..., Slot]
    """(key[W], extra[W]) -> Slot[W], with fresh weights"""
    adopt: Callable[..., Slot]
    """(variables[W], extra[W]) -> Slot[W], with a fresh optimizer"""
    resume: Callable[..., Slot]
    """(TrainState[W]) -> Slot[W]"""
    chunk: Callable[..., tuple[Slot, dict[str, Array]]]
    """(Slot[W], ChunkInputs[W], count int32[W], key[W], Hyperparameters[W], gradient mask[W], Examples, gradient mask)
    -> (Slot[W], metrics float32[W,chunk]); the slots are donated. One of the masks is None: each model has its own, or
    all have one. Metrics from a model's count on are zero, those after its divergence mean nothing."""
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

    def fresh(key: jax.Array, extra: PyTree) -> Slot:
        return new(initial_state(recipe.model, optimizer, key, extra))

    def adopted(variables: PyTree, extra: PyTree) -> Slot:
        return new(state_from_variables(variables, optimizer, extra))

    def advance(slots, inputs, counts, keys, hyperparameters, gradient_masks, examples, gradient_mask):
        # A diverged model has no steps left. Under vmap the loop's length must be common to all models, or each step
        # would select anew between all that changes.
        counts = jnp.where(slots.diverged_step < 0, counts, 0)
        longest = jnp.max(counts)

        def one_model(slot, inputs, count, key, hyperparameters, own_mask):
            limit = longest if mapping == "vmap" else None
            mask = gradient_mask if own_mask is None else own_mask
            return _steps(step, slot, inputs, count, limit, key, hyperparameters, examples, mask)

        return _over_models(one_model, mapping)(slots, inputs, counts, keys, hyperparameters, gradient_masks)

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
            specs = [PartitionSpec(AXIS)] * (len(arguments) - shared) + [PartitionSpec()] * shared
            # As pmap does: the check would ask for a cast of every constant that enters a loop.
            return jax.shard_map(
                function, mesh=mesh, in_specs=tuple(specs), out_specs=PartitionSpec(AXIS), check_vma=False
            )(*arguments)

        return jax.jit(call, donate_argnums=donate)

    return Programs(
        start=split(_over_models(fresh, mapping)),
        adopt=split(_over_models(adopted, mapping)),
        resume=split(_over_models(new, mapping)),
        chunk=split(advance, shared=2, donate=(0,)),
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
    gradient_mask: PyTree,
) -> tuple[Slot, dict[str, Array]]:
    """The first `count` steps of a chunk for one model, in a loop of `limit` ≥ `count` steps where that is given."""

    def one(i: Array, carry: tuple) -> tuple:
        state, diverged_step, metrics = carry
        key_step = jax.random.fold_in(key, state.step)
        new, now = step(state, examples.batch(inputs, i), key_step, hyperparameters, gradient_mask)
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
