"""ℓ1-sparse unlearning: fine-tuning while weights that nothing holds shrink to zero.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023: a sparse model has less room to remember.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mu_jax.config.methods import L1SparseConfig
from mu_jax.unlearning.plan import Plan, Task

PyTree = Any


def l1_sparse(task: Task, settings: L1SparseConfig, name: str = "l1_sparse") -> Plan:
    """CE(D_R) + α_t·‖θ‖₁ over all parameters, α_t = α·(1 − t/T) with `decay`, from the original weights.

    What differs from public code: α falls from step to step, there once an epoch. AMUN's code multiplies α by
    2 − 2t/T each epoch, which makes it grow about tenfold before it falls; that is not copied.
    """
    task.require(name, retain=True)
    return Plan(
        name=name,
        start="original",
        examples=task.examples(settings.optimization.label_smoothing),
        index=task.retain,
        optimization=settings.optimization,
        penalty=l1_penalty,
        penalty_strength=functools.partial(l1_strength, alpha=settings.alpha, decay=settings.decay),
    )


def l1_penalty(params: PyTree, strength: Float[Array, ""]) -> Float[Array, ""]:
    """α_t·‖θ‖₁; its gradient at a weight of zero is zero."""
    return strength * sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params))


def l1_strength(done: Float[np.ndarray, "n"], alpha: float, decay: bool) -> Float[np.ndarray, "n"]:
    """α_t at the shares of the run done."""
    return np.float32(alpha) * (1 - done) if decay else np.full_like(done, alpha)
