"""DP-SGD (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016), as the gradient of a recipe.

What makes a trained model (ε, δ)-private is three things together: this gradient, batches by Poisson sampling
(`mu_jax.defenses.poisson`), and the count of both (`mu_jax.defenses.accounting`). Clipping and noise are jax-privacy's.
What it protects is the weights of every step and all that is computed from them; the losses and accuracies that
training reports are of the batch itself, and not private. Whoever knows the run's name and seed knows its noise: for a
promise that is to hold against others, keep the seed secret.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mu_jax.config import InputError
from mu_jax.defenses.extra import dp_package

PyTree = Any


@dataclasses.dataclass(frozen=True)
class PrivateGradient:
    """g = (Σ_i min(1, c / ‖g_i‖₂)·g_i + N(0, (σ·c)²·I)) / b, for `Recipe.gradient`.

    g_i is the gradient of one example's weighted loss, its norm taken over all parameters together; a gradient that is
    not finite counts as zero. An example of weight 0 adds exactly nothing. The division is by the *expected* batch size
    b, since the size that was drawn is itself private. InputError where the model has batch-norm.
    """

    clip_norm: float
    """c"""
    noise_multiplier: float
    """σ; 0 clips alone and promises nothing"""
    expected_batch: int
    """b"""
    microbatch: int = 0
    """Examples whose gradients are in memory at a time; 0: all of the batch's"""

    def __post_init__(self) -> None:
        for name, value, holds, expected in (
            ("clip_norm", self.clip_norm, self.clip_norm > 0, "a positive number"),
            ("noise_multiplier", self.noise_multiplier, self.noise_multiplier >= 0, "0 or a positive number"),
            ("expected_batch", self.expected_batch, self.expected_batch > 0, "a positive number"),
            ("microbatch", self.microbatch, self.microbatch >= 0, "0 (all) or a positive number"),
        ):
            if not (math.isfinite(value) and holds):
                raise InputError(f"DP-SGD's {name} is {value}, but expected {expected}; change it.")

    def __call__(
        self,
        objective: Callable[..., tuple[Array, tuple[Array, PyTree]]],
        params: PyTree,
        images: Float[Array, "B H W D"],
        targets: Float[Array, "B T"],
        weights: Float[Array, "B"],
        key: jax.Array,
    ) -> tuple[tuple[Array, tuple[Array, PyTree]], PyTree]:
        """((loss, (logits[B,C], {})), gradients); the loss is Σ_i weight·loss / b, neither clipped nor noised."""
        privacy = dp_package("jax_privacy")
        clipped = privacy.clipped_grad(
            objective,
            has_aux=True,
            l2_clip_norm=self.clip_norm,
            batch_argnums=(1, 2, 3),
            return_values=True,
            microbatch_size=self.microbatch or None,
        )
        size = len(weights)
        images, targets, weights = (self._whole_microbatches(x) for x in (images, targets, weights))
        filler = weights == 0
        total, of_examples = clipped(params, images, targets, weights, is_padding_example=filler)
        logits, batch_stats = of_examples.aux
        if jax.tree.leaves(batch_stats):
            raise InputError(
                "DP-SGD got a model with batch-norm, where each example's gradient depends on the batch, but expected "
                "one that takes every example by itself; use group-norm: --config.model.norm=group (ResNet-18)."
            )
        noise = privacy.noise_addition.gaussian_privatizer(
            stddev=self.noise_multiplier * clipped.l2_norm_bound, prng_key=key
        )
        noisy, _ = noise.update(total, noise.init(total))
        loss = jnp.sum(jnp.where(filler, 0.0, of_examples.values)) / self.expected_batch
        gradients = jax.tree.map(lambda leaf: leaf / self.expected_batch, noisy)
        return (loss, (logits[:size], batch_stats)), gradients

    def _whole_microbatches(self, rows: Float[Array, "B ..."]) -> Float[Array, "_ ..."]:
        """Filled up with zeros, which make examples of weight 0."""
        missing = -len(rows) % self.microbatch if self.microbatch else 0
        return jnp.pad(rows, ((0, missing), *[(0, 0)] * (rows.ndim - 1)))
