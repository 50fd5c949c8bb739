"""Learning rates, computed on the host and handed to the compiled loop as numbers.

A schedule inside the compiled program would make a program of its own of every epoch count; as an input, one
program serves the original model, every retraining and every fine-tuning of the same shape.
"""

import math

import numpy as np
from jaxtyping import Float

from mu_jax.config import OptimizationConfig


def total_steps(config: OptimizationConfig, examples: int) -> int:
    """Steps that show `examples` examples `epochs` times: ⌈epochs · examples / batch_size⌉."""
    return math.ceil(round(config.epochs * examples / config.batch_size, 9))


def learning_rates(
    config: OptimizationConfig, examples: int, first: int, count: int
) -> Float[np.ndarray, "count"]:
    """The learning rates of steps first … first + count − 1.

    With t in epochs and T = `epochs`: constant η; step η·factor^⌊t / step_epochs⌋; cosine η·½(1 + cos(π t / T))
    (Loshchilov & Hutter 2017, without restarts); fixmatch η·cos(7π t / 16 T) (Sohn et al. 2020). In both, warm-up takes
    t and T from its own end. During warm-up the
    rate rises linearly and reaches η at the first step after it.
    """
    epoch = (first + np.arange(count)) * config.batch_size / examples
    if config.schedule_by_epoch:
        epoch = np.floor(epoch + 1e-9)
    after = np.maximum(epoch - config.warmup_epochs, 0.0)
    if config.schedule == "constant":
        factor = np.ones(count)
    elif config.schedule == "step":
        factor = config.step_factor ** np.floor(after / config.step_epochs + 1e-9)
    else:
        length = max(config.epochs - config.warmup_epochs, 1e-12)
        done = np.minimum(after / length, 1.0)
        cosine = config.schedule == "cosine"
        factor = 0.5 * (1.0 + np.cos(np.pi * done)) if cosine else np.cos(7 * np.pi / 16 * done)
    if config.warmup_epochs > 0:
        # Counted from 1, so that the first step is not wasted on a learning rate of zero.
        steps = config.warmup_epochs * examples / config.batch_size
        factor = factor * np.minimum((first + np.arange(count) + 1) / (steps + 1), 1.0)
    return (config.learning_rate * factor).astype(np.float32)
