"""Unlearning methods: each a pure function from a task to a plan, and one engine that carries plans out."""

from mu_jax.unlearning.boundary_shrink import boundary_shrink
from mu_jax.unlearning.finetune import finetune
from mu_jax.unlearning.gradient_ascent import gradient_ascent
from mu_jax.unlearning.l1_sparse import l1_sparse
from mu_jax.unlearning.negative_gradient_plus import negative_gradient_plus
from mu_jax.unlearning.plan import Outcome, Pass, Plan, Task, carry_out, training_run
from mu_jax.unlearning.random_labels import random_labels
from mu_jax.unlearning.retrain import retrain
from mu_jax.unlearning.salun import salun
from mu_jax.unlearning.scrub import scrub

__all__ = [
    "Outcome",
    "Pass",
    "Plan",
    "Task",
    "boundary_shrink",
    "carry_out",
    "finetune",
    "gradient_ascent",
    "l1_sparse",
    "negative_gradient_plus",
    "random_labels",
    "retrain",
    "salun",
    "scrub",
    "training_run",
]
