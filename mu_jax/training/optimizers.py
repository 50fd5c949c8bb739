"""Optimizers whose scalars are inputs of the compiled step, so that changing them compiles nothing anew."""

from typing import Any, NamedTuple

import jax
import optax


class Hyperparameters(NamedTuple):
    """Scalars of one model that stay the same from step to step."""

    momentum: Any
    """float32[], of SGD"""
    weight_decay: Any
    """float32[], λ"""


def make_optimizer(
    name: str, *, nesterov: bool, decay_norm_and_bias: bool, hyperparameters: Hyperparameters
) -> optax.GradientTransformation:
    """The direction of descent; the step multiplies it by minus the learning rate.

    | name | update u, with g the gradient and λ the weight decay |
    |---|---|
    | `sgd` | v ← μ v + (g + λθ); u = v (Nesterov: u = g + λθ + μ v), as PyTorch's SGD |
    | `adam` | u = Adam(g + λθ), as PyTorch's Adam |
    | `adamw` | u = Adam(g) + λθ (Loshchilov & Hutter 2019) |

    Adam has β = (0.9, 0.999) and ε = 1e-8. Scalars may be traced.
    """
    mask = None if decay_norm_and_bias else _is_kernel
    decay = optax.add_decayed_weights(hyperparameters.weight_decay, mask=mask)
    if name == "sgd":
        return optax.chain(decay, optax.trace(decay=hyperparameters.momentum, nesterov=nesterov))
    if name == "adam":
        return optax.chain(decay, optax.scale_by_adam())
    if name == "adamw":
        return optax.chain(optax.scale_by_adam(), decay)
    raise ValueError(f"The optimizer is {name!r}, but expected sgd, adam or adamw.")


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
