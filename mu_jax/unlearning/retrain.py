"""Retraining from scratch without the deleted examples: exact unlearning, the gold standard for every other method."""

from mu_jax.config import OptimizationConfig
from mu_jax.unlearning.plan import Plan, Task


def retrain(task: Task, optimization: OptimizationConfig, name: str = "retrain") -> Plan:
    """The original's recipe on the retained examples alone, from fresh weights.

    The result does not depend on the deleted images in any bit: they are in no batch, so in no gradient and no
    batch-norm statistic, and normalisation is by constants. Weights and batches are drawn by the name, so that
    another name is another, independent retraining.
    """
    return Plan(
        name=name,
        start="scratch",
        examples=task.examples(optimization.label_smoothing),
        index=task.retain,
        optimization=optimization,
    )
