"""Boundary shrink: an example to forget is learned with the label that lies just across the decision boundary.

Chen et al., "Boundary Unlearning", CVPR 2023 (in later tables BS).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, UInt8

from mu_jax.config.methods import BoundaryShrinkConfig
from mu_jax.data.augmentation import normalize
from mu_jax.models import Model
from mu_jax.training.chunk import label_targets
from mu_jax.training.query import logits_of, map_blocks
from mu_jax.training.step import cross_entropy
from mu_jax.unlearning.plan import Pass, Plan, Task

PyTree = Any


def boundary_shrink(task: Task, settings: BoundaryShrinkConfig, name: str = "boundary_shrink") -> Plan:
    """CE(D_F, the nearest other class), then with `retain` CE(D_R), in each epoch, from the original weights.

    The nearest class is what the original model says after one step of FGSM. What differs from public code: its answer
    is never the true class, which the code keeps where the step is too short to flip it (the paper speaks of incorrect
    labels); it is asked of images without crops and mirroring, and of the original model throughout, as in SalUn's code
    (AMUN's asks the model as each epoch left it).
    """
    task.require(name, retain=settings.retain, original=True)
    classify = make_nearest_other_class(
        task.reader, tuple(task.data.mean), tuple(task.data.std), settings.optimization.batch_size
    )
    labels = jnp.asarray(task.labels[task.forget])
    nearest = classify(task.original, task.images[task.forget], labels, jnp.float32(settings.epsilon))
    examples = task.examples(settings.optimization.label_smoothing)
    targets = label_targets(np.asarray(nearest), task.num_classes)
    epochs = math.ceil(settings.optimization.epochs)
    epoch = (Pass(task.forget), Pass(task.retain)) if settings.retain else ()
    return Plan(
        name=name,
        start="original",
        examples=examples.replace(targets=examples.targets.at[task.forget].set(jnp.asarray(targets))),
        index=np.concatenate([task.forget, task.retain]) if settings.retain else task.forget,
        optimization=settings.optimization,
        passes=(epoch,) * epochs if settings.retain else (),
    )


# The cache is what keeps a second forget set of the same size from compiling anew.
@functools.cache
def make_nearest_other_class(model: Model, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int):
    """`nearest(variables, images uint8[F,H,W,D], labels int32[F], epsilon float32[]) -> int32[F]`, compiled.

    x' = round₈(clip(x + ε·sign ∂CE(f(x), y)/∂x)), pixels in [0, 1] and rounded to 8 bits; then the largest logit of
    f(x') among the classes other than y (Goodfellow et al. 2015's fast gradient sign). ε is an input.
    """

    def block(variables: PyTree, epsilon: Array, images: Array, labels: Array) -> Array:
        def loss(pixels: Array) -> Array:
            logits, _ = model.apply(variables, pixels, train=False)
            return cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).sum()

        # The derivative by a normalised pixel has the sign of that by the pixel: their ratio is std, which is positive.
        with jax.default_matmul_precision("highest"):
            direction = jnp.sign(jax.grad(loss)(normalize(images, mean, std)))
        moved = jnp.round(images.astype(jnp.float32) + 255 * epsilon * direction)
        logits = logits_of(model, variables, jnp.clip(moved, 0, 255).astype(jnp.uint8), mean, std)
        true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        return jnp.argmax(jnp.where(true, -jnp.inf, logits), axis=-1).astype(jnp.int32)

    @jax.jit
    def nearest(
        variables: PyTree, images: UInt8[Array, "F H W D"], labels: Int[Array, "F"], epsilon: Array
    ) -> Int32[Array, "F"]:
        return map_blocks(functools.partial(block, variables, epsilon), batch_size, images, labels)

    return nearest
