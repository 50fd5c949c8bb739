"""Gradient ascent: training turned round on the examples to forget.

Golatkar et al., "Eternal Sunshine of the Spotless Net", 2020, and Thudi et al., "Unrolling SGD", 2022 (there GA, or
NegGrad). The loss has no upper bound, so the learning rate and the epochs alone say when it stops.
"""

import math

import numpy as np

from mu_jax.config.methods import GradientAscentConfig
from mu_jax.unlearning.plan import Pass, Plan, Task


def gradient_ascent(task: Task, settings: GradientAscentConfig, name: str = "gradient_ascent") -> Plan:
    """Ascent on the deleted examples' cross-entropy: the loss −CE(D_F), from the original weights.

    With `retain`, each epoch first descends on CE(D_R), one optimizer for both, as AMUN's code does. What differs from
    public code: nothing but the last batch of a pass, which is full here.
    """
    task.require(name, retain=settings.retain)
    examples = task.examples(settings.optimization.label_smoothing)
    epochs = math.ceil(settings.optimization.epochs)
    epoch = (Pass(task.retain), Pass(task.forget)) if settings.retain else ()
    return Plan(
        name=name,
        start="original",
        examples=examples.replace(weights=examples.weights.at[task.forget].set(-1.0)),
        index=np.concatenate([task.retain, task.forget]) if settings.retain else task.forget,
        optimization=settings.optimization,
        passes=(epoch,) * epochs if settings.retain else (),
    )
