"""Fine-tuning: go on training on what is kept, and trust catastrophic forgetting with the rest.

The baseline of the NeurIPS-2023 unlearning challenge's starting kit and of most papers since (there FT).
"""

from mu_jax.config import OptimizationConfig
from mu_jax.unlearning.plan import Plan, Task


def finetune(task: Task, optimization: OptimizationConfig, name: str = "finetune") -> Plan:
    """Cross-entropy on the retained examples, from the original weights, with a fresh optimizer."""
    return Plan(
        name=name,
        start="original",
        examples=task.examples(optimization.label_smoothing),
        index=task.retain,
        optimization=optimization,
    )
