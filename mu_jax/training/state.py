"""The state of one model in training, as one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mu_jax.models import Model

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """All that changes from step to step; what a checkpoint holds."""

    # No shapes here: the same class carries one model's arrays, K stacked models', and their tree of axes.
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    step: PyTree
    """int32[]"""
    extra: PyTree
    """What a `post_step` carries along (the singular vectors of FastClip, say); `{}` where nothing does."""


def initial_state(
    model: Model, optimizer: optax.GradientTransformation, key: jax.Array, extra: PyTree = None
) -> TrainState:
    """Fresh weights, drawn by `key`; `extra` is what a `post_step` starts from."""
    return state_from_variables(model.init(key), optimizer, extra)


def state_from_variables(
    variables: PyTree, optimizer: optax.GradientTransformation, extra: PyTree = None
) -> TrainState:
    """Given weights `{"params", "batch_stats"}`, with a fresh optimizer and step count.

    The arrays are copied: training donates its state, and donated arrays can be read no more.
    """
    variables, extra = jax.tree.map(jnp.array, (variables, {} if extra is None else extra))
    return TrainState(
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        step=jnp.zeros((), jnp.int32),
        extra=extra,
    )


def variables_of(state: TrainState) -> PyTree:
    """What `Model.apply` reads."""
    return {"params": state.params, "batch_stats": state.batch_stats}
