"""One step of gradient descent, for one model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mu_jax.config import OptimizationConfig
from mu_jax.data.augmentation import augment, normalize
from mu_jax.models import Model
from mu_jax.training.optimizers import Hyperparameters, make_optimizer
from mu_jax.training.state import TrainState

PyTree = Any


def cross_entropy(logits: Float[Array, "B C"], targets: Float[Array, "B C"]) -> Float[Array, "B"]:
    """−Σ_c t_c log softmax(z)_c, for target distributions t."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


class Batch(flax.struct.PyTreeNode):
    """What one step sees."""

    images: PyTree
    """uint8[B,H,W,D], or float32[B,1,1,F] rows of a table"""
    targets: PyTree
    """float32[B,C], each row a distribution over classes; what a loss of its own needs beyond it may follow"""
    weights: PyTree
    """float32[B]; the step minimises Σ weight·loss / B"""
    learning_rate: PyTree
    """float32[]"""
    progress: PyTree
    """float32[], the share of the run that lies behind, or what a run makes of it, for penalties with a schedule"""
    augmented: PyTree = None
    """bool[B], which images the recipe's crops and mirroring apply to; None: all"""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What of a run is compiled into its step. Runs with equal recipes (and shapes) share one program."""

    model: Model
    mean: tuple[float, ...]
    std: tuple[float, ...]
    optimizer: str = "sgd"
    nesterov: bool = False
    decay_norm_and_bias: bool = True
    crop_padding: int = 0
    flip: bool = False
    loss: Callable[[Array, Array], Array] = cross_entropy
    """(logits float32[B,C], targets float32[B,C]) -> float32[B]"""
    penalty: Callable[[PyTree, Array], Array] | None = None
    """(params, progress) -> scalar added to the loss"""
    post_step: Callable[[TrainState, Batch, jax.Array], TrainState] | None = None
    """Called after the update; may change the parameters and `extra`"""
    gradient: Callable[..., tuple[tuple[Array, tuple[Array, PyTree]], PyTree]] | None = None
    """How the batch's gradient is made, where not by `value_and_grad` of its mean loss: (objective, params, images,
    targets, weights, key) -> ((loss, (logits, batch_stats)), gradients), of `objective(params, images, targets,
    weights) -> (loss, (logits, batch_stats))`, which takes any part of the batch. The penalty's gradient is added.
    A recipe is a key of caches: give an object that compares by value."""

    @classmethod
    def of(cls, model: Model, data: Any, config: OptimizationConfig, **extra: Any) -> "Recipe":
        """The recipe of a config; `data` has `mean` and `std`; `extra` sets loss, penalty and post_step."""
        return cls(
            model=model,
            mean=tuple(data.mean),
            std=tuple(data.std),
            optimizer=config.optimizer,
            nesterov=config.nesterov,
            decay_norm_and_bias=config.decay_norm_and_bias,
            crop_padding=config.crop_padding,
            flip=config.flip,
            **extra,
        )

    def make_optimizer(self, hyperparameters: Hyperparameters | None = None) -> optax.GradientTransformation:
        """The recipe's optimizer; without hyper-parameters it serves to make an initial state only."""
        zero = Hyperparameters(jnp.zeros(()), jnp.zeros(()))
        return make_optimizer(
            self.optimizer,
            nesterov=self.nesterov,
            decay_norm_and_bias=self.decay_norm_and_bias,
            hyperparameters=hyperparameters or zero,
        )


def make_step(recipe: Recipe) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """`step(state, batch, key, hyperparameters, gradient_mask) -> (state, metrics)`, pure and for one model.

    The metrics are scalars: `loss` (with the penalty) and `accuracy` on the batch, both before the update, and
    `gradient_norm`; under a `gradient` of the recipe's own, accuracy leaves out examples of weight 0, its fillers. A
    gradient mask is a pytree like the parameters, of factors 0 or 1 (or None): it multiplies the whole update, so that
    weight decay and momentum do not move what is frozen either.
    """

    def step(
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        hyperparameters: Hyperparameters,
        gradient_mask: PyTree = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        key_augment, key_post, *key_gradient = jax.random.split(key, 2 if recipe.gradient is None else 3)
        images = augment(batch.images, key_augment, crop_padding=recipe.crop_padding, flip=recipe.flip)
        if batch.augmented is not None:
            images = jnp.where(batch.augmented[:, None, None, None], images, batch.images)
        images = normalize(images, recipe.mean, recipe.std)

        def objective(
            params: PyTree, images: Array, targets: Array, weights: Array
        ) -> tuple[Array, tuple[Array, PyTree]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, batch_stats = recipe.model.apply(variables, images, train=True)
            return jnp.mean(weights * recipe.loss(logits, targets)), (logits, batch_stats)

        data = (images, batch.targets, batch.weights)
        if recipe.gradient is None:

            def penalised(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
                loss, aux = objective(params, *data)
                return (
                    loss if recipe.penalty is None else loss + recipe.penalty(params, batch.progress)
                ), aux

            make = jax.value_and_grad(penalised, has_aux=True)
            (loss, (logits, batch_stats)), gradients = make(state.params)
        else:
            made = recipe.gradient(objective, state.params, *data, *key_gradient)
            (loss, (logits, batch_stats)), gradients = made
            if recipe.penalty is not None:
                penalty, more = jax.value_and_grad(recipe.penalty)(state.params, batch.progress)
                loss, gradients = loss + penalty, jax.tree.map(jnp.add, gradients, more)
        optimizer = recipe.make_optimizer(hyperparameters)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: -batch.learning_rate * u, updates)
        if gradient_mask is not None:
            updates = jax.tree.map(jnp.multiply, updates, gradient_mask)
        state = state.replace(
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            step=state.step + 1,
        )
        if recipe.post_step is not None:
            state = recipe.post_step(state, batch, key_post)
        classes = logits.shape[-1]
        hits = jnp.argmax(logits, axis=-1) == jnp.argmax(batch.targets[..., :classes], axis=-1)
        accuracy = jnp.mean(hits.astype(jnp.float32))
        if recipe.gradient is not None:
            counted = batch.weights != 0
            accuracy = jnp.sum(hits & counted) / jnp.maximum(jnp.sum(counted), 1)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": optax.tree.norm(gradients),
        }
        return state, metrics

    return step
