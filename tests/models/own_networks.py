"""Networks as a user would write them: good ones, and one of each kind of fault."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx


class Plain(nn.Module):
    """An MLP, without a train argument's use."""

    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1)))
        return nn.Dense(self.num_classes)(x)


class Normed(nn.Module):
    """Convolution, batch-norm, and a head on the mean over pixels; computes in `dtype`."""

    num_classes: int
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(self.width, (3, 3), dtype=self.dtype)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)).astype(jnp.float32))


def made(num_classes, image_shape, lowering):
    """A function that gives a module, and is told what it asks for."""
    assert image_shape == (8, 8, 1) and lowering == "patches"
    return Plain(num_classes)


class NoClasses(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(5)(images.reshape(images.shape[0], -1))


class NoTrain(Plain):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


class Features(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(self.num_classes)(images)


class Halves(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(self.num_classes, dtype=jnp.bfloat16)(images.reshape(images.shape[0], -1))


class HalfWeights(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(self.num_classes, param_dtype=jnp.float16)(images.reshape(images.shape[0], -1))


class Dropping(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dropout(0.5, deterministic=not train)(images.reshape(images.shape[0], -1))
        return nn.Dense(self.num_classes)(x)


class Counting(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        self.variable("counters", "calls", jnp.zeros, ())
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


class Weightless(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        return jnp.zeros((images.shape[0], self.num_classes))


class Pair(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))
        return x, x


class Failing(Plain):
    @nn.compact
    def __call__(self, images, *, train):
        raise KeyError("a fault of mine\nin two lines")


class Needy(nn.Module):
    num_classes: int
    depth: int

    def __call__(self, images, *, train):
        return images


class Later(Plain):
    """Makes its moments in training alone."""

    @nn.compact
    def __call__(self, images, *, train):
        if train:
            self.variable("batch_stats", "seen", jnp.ones, (1,))
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


class Functional(nnx.Module):
    def __init__(self, num_classes):
        self.layer = nnx.Linear(64, num_classes, rngs=nnx.Rngs(0))


def no_module(num_classes):
    return jax.nn.relu


an_instance = Plain(5)
