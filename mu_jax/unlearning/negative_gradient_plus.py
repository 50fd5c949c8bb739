"""NegGrad+: ascent on the examples to forget, held in check by descent on the others at once.

Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023, where it is the baseline of SCRUB.
"""

import numpy as np

from mu_jax.config.methods import NegativeGradientPlusConfig
from mu_jax.unlearning.plan import Plan, Task


def negative_gradient_plus(
    task: Task, settings: NegativeGradientPlusConfig, name: str = "negative_gradient_plus"
) -> Plan:
    """α·CE(D_R) − (1 − α)·CE(D_F), both means over their set, from the original weights.

    As weights of the examples, all R + F shuffled together: α·(R + F)/R and −(1 − α)·(R + F)/F, so that the mean over
    an epoch is the loss. What differs from public code: there a step has a batch of each set, of one size and with
    batch-norm moments of its own, and D_F comes round again until D_R is through; here a batch holds either as they
    come, with moments in common. The loss is the same in the mean, a step's share of D_F noisier.
    """
    task.require(name, retain=True)
    retained, deleted = len(task.retain), len(task.forget)
    both = retained + deleted
    examples = task.examples(settings.optimization.label_smoothing)
    weights = examples.weights.at[task.retain].set(settings.alpha * both / retained)
    weights = weights.at[task.forget].set(-(1 - settings.alpha) * both / deleted)
    return Plan(
        name=name,
        start="original",
        examples=examples.replace(weights=weights),
        index=np.concatenate([task.retain, task.forget]),
        optimization=settings.optimization,
    )
