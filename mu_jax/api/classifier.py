"""A trained network with all that forgetting and auditing need of it, in memory."""

import dataclasses
import time
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float32

from mu_jax.config import InputError, ModelConfig, OptimizationConfig
from mu_jax.data.arrays import with_channels
from mu_jax.training.query import make_query
from mu_jax.unlearning.plan import Edit, Plan, Task, carry_out

PyTree = Any
CHUNK_STEPS = 100
"""Steps in one compiled chunk."""
QUERY_BATCH = 500
"""Images in one forward pass."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network, with all that forgetting and auditing need of it."""

    name: str
    variables: PyTree
    """`{"params", "batch_stats"}`, the network's own"""
    task: Task
    """the training images on the device, their labels, the rows that it was trained on (`retain`), the network"""
    optimization: OptimizationConfig
    """by which it was trained, for retraining"""
    network: nn.Module | ModelConfig
    seconds: float
    """that it took, compilation included"""
    trained_samples: int

    def predict(self, images: np.ndarray) -> Float32[np.ndarray, "N C"]:
        """Logits float32[N,C] of images uint8[N,H,W,D], or [N,H,W]; batch-norm in eval mode, full precision."""
        task, images = self.task, with_channels(images)
        if images.dtype != np.uint8:
            raise InputError(
                f"images has dtype {images.dtype}, but expected uint8 pixels in 0..255, as in training; from pixels in "
                "[0, 1] give (255 * x).round().astype(np.uint8)."
            )
        query = make_query(task.reader, tuple(task.data.mean), tuple(task.data.std), QUERY_BATCH)
        return np.asarray(query(self.variables, jax.numpy.asarray(images)))

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of images, as for `predict`, whose largest logit is at their label."""
        return float(np.mean(self.predict(images).argmax(axis=1) == np.asarray(labels)))


def carried_out(
    plan: Plan | Edit,
    task: Task,
    optimization: OptimizationConfig,
    network: nn.Module | ModelConfig,
    began: float,
) -> Classifier:
    """The model that a plan of the task makes, from the start to the end; `began`, a `time.perf_counter()`."""
    outcome = carry_out(plan, task, chunk_steps=CHUNK_STEPS)
    variables = jax.block_until_ready(outcome.variables)
    seconds = time.perf_counter() - began
    kept = dataclasses.replace(task, forget=task.forget[:0], original=None)
    return Classifier(plan.name, variables, kept, optimization, network, seconds, outcome.trained_samples)
