"""How far features lie from each class: Mahalanobis distances by Gaussians of transformed features.

As in Goswami et al., "FeCAM", NeurIPS 2023, and after it Bonato et al. (SCAR), ECCV 2024. A feature vector is what a
network's head is given.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, UInt8

from mu_jax.config import InputError
from mu_jax.data.augmentation import normalize
from mu_jax.models import Model, Variables
from mu_jax.training.query import map_blocks

PyTree = Any

NEAR_ZERO = 1e-4
"""Where a power's slope, infinite at 0, is cut: features behind a ReLU are often exactly 0."""


class ClassGaussians(NamedTuple):
    """The classes' distributions of features; zeros for a class that has none."""

    mean: Any
    """float32[C,D], of length 1"""
    precision: Any
    """float32[C,D,D]"""
    power: Any
    """float32[], that features are raised to first"""


def class_gaussians(
    features: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, "N"],
    classes: Sequence[int],
    num_classes: int,
    *,
    power: float,
    shrinkage: tuple[float, ...],
) -> ClassGaussians:
    """Those of `classes`, in float64 on the host: of t(z) = sign(z)·|z|^power, the mean and the inverse covariance.

    A covariance is shrunk and becomes a matrix of correlations before it is inverted, and a mean gets length 1, because
    `squared_distances` compares directions. InputError for a class with fewer than two examples.
    """
    width = features.shape[1]
    mean, precision = np.zeros((num_classes, width)), np.zeros((num_classes, width, width))
    for label in classes:
        own = features[labels == label].astype(np.float64)
        if len(own) < 2:
            raise InputError(
                f"Class {label} has {len(own)} examples to keep, but a covariance needs two or more; give more data."
            )
        own = np.asarray(raised(own, power, np))
        centre = own.mean(axis=0)
        mean[label] = centre / max(np.linalg.norm(centre), 1e-12)
        covariance = shrunk(np.cov(own.T).reshape(width, width), *shrinkage)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        # A pseudo-inverse, because without shrinkage few examples leave most directions without variance.
        precision[label] = np.linalg.pinv(covariance / np.outer(deviation, deviation), hermitian=True)
    return ClassGaussians(mean.astype(np.float32), precision.astype(np.float32), np.float32(power))


def shrunk(
    covariance: Float[np.ndarray, "D D"], diagonal: float, elsewhere: float
) -> Float[np.ndarray, "D D"]:
    """Σ + γ₁·V₁·I + γ₂·V₂·(1 − I), with V₁ the mean variance and V₂ the mean of all other entries (FeCAM, eq. 9)."""
    size = len(covariance)
    own = np.eye(size, dtype=bool)
    other = covariance[~own].mean() if size > 1 else 0.0
    return covariance + np.where(own, diagonal * covariance[own].mean(), elsewhere * other)


def raised(
    z: Float[Array | np.ndarray, "... D"], power: Any, xp: Any = jnp
) -> Float[Array | np.ndarray, "... D"]:
    """sign(z)·((|z| + ε)^power − ε^power), with ε = `NEAR_ZERO`: Tukey's transform with a finite slope at 0."""
    return xp.sign(z) * ((xp.abs(z) + NEAR_ZERO) ** power - NEAR_ZERO**power)


def squared_distances(features: Float[Array, "B D"], classes: ClassGaussians) -> Float32[Array, "B C"]:
    """(u − μ_c)ᵀ·Σ_c⁻¹·(u − μ_c), with u = t(z)/|t(z)|, for every class c."""
    moved = raised(features.astype(jnp.float32), classes.power)
    direction = moved * jax.lax.rsqrt(jnp.sum(jnp.square(moved), axis=-1, keepdims=True) + 1e-12)
    away = direction[:, None, :] - classes.mean
    return jnp.einsum("bcd,cde,bce->bc", away, classes.precision, away)


@functools.cache
def make_feature_query(model: Model, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int):
    """`query(variables, images uint8[N,H,W,D]) -> (logits float32[N,C], features float32[N,D])`, compiled."""
    head = model.layers()[-1].name

    def block(variables: PyTree, images: UInt8[Array, "B H W D"]) -> tuple[Array, Array]:
        with jax.default_matmul_precision("highest"):
            logits, _, inputs = model.inputs(variables, normalize(images, mean, std), train=False)
        return logits, inputs[head].astype(jnp.float32)

    @jax.jit
    def query(variables: PyTree, images: UInt8[Array, "N H W D"]) -> tuple[Array, Array]:
        return map_blocks(functools.partial(block, variables), batch_size, images)

    return query


# The cache is what lets models share a program: programs are told apart by their model's functions.
@functools.cache
def with_distances(model: Model) -> Model:
    """The network with the squared distances to all classes behind its logits: outputs float32[B,2C].

    The Gaussians are carried among the running statistics, `{"network": the network's own, "classes": ClassGaussians}`,
    which no optimizer touches: so they are data, and models with Gaussians of their own share one program.
    """
    head = model.layers()[-1]
    width, outputs = head.kernel_shape

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        variables = model.init(key)
        empty = ClassGaussians(jnp.zeros((outputs, width)), jnp.zeros((outputs, width, width)), jnp.ones(()))
        return {
            "params": variables["params"],
            "batch_stats": {"network": variables["batch_stats"], "classes": empty},
        }

    def apply(
        variables: Variables, images: Float[Array | np.ndarray, "B H W D"], *, train: bool
    ) -> tuple[Float32[Array, "B outputs"], Any]:
        carried = variables["batch_stats"]
        network = {"params": variables["params"], "batch_stats": carried["network"]}
        logits, batch_stats, inputs = model.inputs(network, images, train=train)
        distances = squared_distances(inputs[head.name], carried["classes"])
        return jnp.concatenate([logits, distances], axis=-1), {**carried, "network": batch_stats}

    return Model(init, apply, model.layers)
