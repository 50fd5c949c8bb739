"""SalUn: random labels, but only the weights that the examples to forget pull at most may move.

Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR 2024.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mu_jax.config import InputError
from mu_jax.config.methods import RandomLabelsConfig, SalunConfig
from mu_jax.data.augmentation import normalize
from mu_jax.models import Model
from mu_jax.training.step import cross_entropy
from mu_jax.unlearning.plan import Plan, Task
from mu_jax.unlearning.random_labels import random_labels

PyTree = Any


def salun(task: Task, settings: SalunConfig, name: str = "salun") -> Plan:
    """The plan of `random_labels` under the saliency mask of the original model; what is masked keeps its every bit.

    The step masks the whole update, weight decay and momentum included, as SalUn's code has done since its fault was
    found; AMUN's masks gradients alone. Batch-norm's running statistics are no weights, and move. What differs from
    public code: the saliency is that of images without crops and mirroring; for the labels see `random_labels`.
    """
    task.require(name, retain=settings.retain, original=True)
    plan = random_labels(
        task, RandomLabelsConfig(settings.optimization, settings.retain, settings.redraw), name
    )
    return with_saliency_mask(plan, task, settings.share)


def with_saliency_mask(plan: Plan, task: Task, share: float) -> Plan:
    """Any plan from the original weights, with but the most salient `share` of them free to move."""
    task.require(plan.name, original=True)
    gradient_of = make_summed_gradient(
        task.reader, tuple(task.data.mean), tuple(task.data.std), plan.optimization.batch_size
    )
    gradient = gradient_of(
        task.original, task.images[task.forget], jnp.asarray(task.labels[task.forget], jnp.int32)
    )
    return dataclasses.replace(plan, gradient_mask=saliency_mask(gradient, share))


def saliency_mask(gradient: PyTree, share: float) -> PyTree:
    """1 for the ⌊share·P⌋ of all P entries whose absolute value is largest, over all layers at once, else 0.

    Float32 leaves like the gradient's. Where entries tie at the border (weights of dead units have gradient 0), those
    that come first are taken, so that the number is exact and the mask the same on every machine.
    """
    if not 0 < share <= 1:
        raise InputError(
            f"The share is {share}, but expected a share of the weights, in (0, 1]; 0.5 is usual."
        )
    leaves, structure = jax.tree.flatten(gradient)
    size = np.abs(np.concatenate([np.asarray(leaf).ravel() for leaf in leaves]))
    if not np.isfinite(size).all():
        raise InputError(
            "The gradient of the forget set's loss is not finite, but a mask needs it; check the original model."
        )
    kept = int(share * size.size)
    if kept == 0:
        raise InputError(
            f"A share of {share} of {size.size} weights is none, but expected one or more; raise it."
        )
    border = np.partition(size, size.size - kept)[size.size - kept]
    mask = size > border
    mask[np.flatnonzero(size == border)[: kept - mask.sum()]] = True
    parts = np.split(mask.astype(np.float32), np.cumsum([leaf.size for leaf in leaves])[:-1])
    shaped = [jnp.asarray(part.reshape(leaf.shape)) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


# The cache is what keeps a second forget set of the same size from compiling anew.
@functools.cache
def make_summed_gradient(model: Model, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int):
    """`gradient(variables, images uint8[F,H,W,D], labels int32[F])`, compiled: ∂/∂θ Σ CE(f(x), y), like the parameters.

    Batch-norm is in eval mode, so that examples do not meet, and what fills the last block up counts for nothing.
    """

    @jax.jit
    def gradient(variables: PyTree, images: UInt8[Array, "F H W D"], labels: Int[Array, "F"]) -> PyTree:
        number = images.shape[0]
        size = min(batch_size, number)
        blocks = -(-number // size)
        rows = jnp.arange(blocks * size).reshape(blocks, size)

        def loss(params: PyTree, rows: Int[Array, "B"]) -> Float[Array, ""]:
            chosen = jnp.minimum(rows, number - 1)
            shown = normalize(images[chosen], mean, std)
            logits, _ = model.apply({**variables, "params": params}, shown, train=False)
            targets = jax.nn.one_hot(labels[chosen], logits.shape[-1])
            return jnp.sum(cross_entropy(logits, targets) * (rows < number))

        def add(total: PyTree, rows: Int[Array, "B"]) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, jax.grad(loss)(variables["params"], rows)), None

        with jax.default_matmul_precision("highest"):
            return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, variables["params"]), rows)[0]

    return gradient
