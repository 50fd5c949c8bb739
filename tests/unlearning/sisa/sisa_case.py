"""A small ensemble, which the tests of SISA share."""

import hashlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.config import DataConfig, OptimizationConfig
from mu_jax.models.layers import Convolution, Linear, batch_norm
from mu_jax.models.model import from_module
from mu_jax.ops import layout_of
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.step import Recipe
from mu_jax.unlearning.sisa.shard_models import ShardModels
from mu_jax.unlearning.sisa.sharding import uniform_sharding

N, SHARDS, SLICES, CLASSES, SHAPE = 47, 3, 4, 3, (8, 8, 1)
# A shard has 16, 16 or 15 examples: four slices of 4, and one shard with a smaller last one.
OPTIMIZATION = OptimizationConfig(
    epochs=3.0, batch_size=4, learning_rate=0.05, optimizer="adam", crop_padding=1, flip=True
)


class SmallNet(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        layout, shared = layout_of("winograd"), {"lowering": "winograd", "dtype": jnp.float32}
        x = Convolution(8, 3, 1, 1, **shared, name="conv")(layout.arrange(images))
        x = nn.relu(batch_norm(train=train, **shared, name="norm")(x))
        return Linear(CLASSES, name="head")(layout.restore(x)[:, ::2, ::2].reshape(len(images), -1))


MODEL = from_module(SmallNet(), SHAPE)


def images_of(noise_at=()):
    images = np.random.default_rng(0).integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    noise = np.random.default_rng(9).integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    images[list(noise_at)] = noise[list(noise_at)]
    return images


def shard_models(
    folder, noise_at=(), placement=("map", 1, 2), optimization=OPTIMIZATION, seed=5, beside=None
):
    """`beside`: others whose trainer they share."""
    images = images_of(noise_at)
    labels = np.arange(N) % CLASSES
    examples = Examples(images, label_targets(labels, CLASSES), np.ones(N, np.float32))

    def fingerprint(positions):
        return hashlib.sha256(images[positions].tobytes() + labels[positions].tobytes()).digest()

    trainer = (
        beside._trainer
        if beside
        else ParallelTrainer(
            Recipe.of(MODEL, DataConfig(), optimization),
            examples,
            Placement(*placement),
            batch_size=optimization.batch_size,
            chunk_steps=8,
            from_states=True,
        )
    )
    return ShardModels(folder, trainer, optimization, fingerprint, seed=seed, settings={"model": "small"})


SHARDING = uniform_sharding(np.arange(N), SHARDS, SLICES, seed=1)


def bits(sisa, sharding):
    return [
        None if variables is None else [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables)]
        for variables in sisa.variables(sharding)
    ]


def copy(folder, to):
    shutil.copytree(folder, to)
    return to
