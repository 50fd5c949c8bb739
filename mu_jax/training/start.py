"""The state that a run starts from, made by one compiled program.

Made outside of a program, each shape of a copy and of zeros is a program of its own: 35 for a ResNet-18, which is a
second or more before the first step.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from mu_jax.models import Model
from mu_jax.training.optimizers import Hyperparameters, make_optimizer
from mu_jax.training.state import TrainState, initial_state, state_from_variables
from mu_jax.training.step import Recipe

PyTree = Any


def fresh_start(recipe: Recipe, key: jax.Array) -> TrainState:
    """Fresh weights, drawn by the key."""
    return _fresh(recipe.model, *_of_optimizer(recipe))(key)


def start_from(recipe: Recipe, variables: PyTree) -> TrainState:
    """A copy of given weights `{"params", "batch_stats"}`, which can be read on when training has used up the state."""
    return _given(*_of_optimizer(recipe))(variables)


def _of_optimizer(recipe: Recipe) -> tuple[str, bool, bool]:
    return recipe.optimizer, recipe.nesterov, recipe.decay_norm_and_bias


# A jitted function made anew would compile anew. Losses and penalties differ from plan to plan, and have no part here.
@functools.cache
def _fresh(model: Model, *optimizer: Any) -> Callable[[jax.Array], TrainState]:
    return jax.jit(lambda key: initial_state(model, _optimizer(*optimizer), key))


@functools.cache
def _given(*optimizer: Any) -> Callable[[PyTree], TrainState]:
    return jax.jit(lambda variables: state_from_variables(variables, _optimizer(*optimizer)))


def _optimizer(name: str, nesterov: bool, decay_norm_and_bias: bool) -> Any:
    # Its scalars are inputs of the steps; what it starts from does not depend on them.
    zero = Hyperparameters(0.0, 0.0)
    return make_optimizer(
        name, nesterov=nesterov, decay_norm_and_bias=decay_norm_and_bias, hyperparameters=zero
    )
