"""Unlearning methods: each a pure function from a task to a plan, and one engine that carries plans out."""

from mu_jax.unlearning.finetune import finetune
from mu_jax.unlearning.plan import Outcome, Plan, Task, carry_out
from mu_jax.unlearning.retrain import retrain

__all__ = ["Outcome", "Plan", "Task", "carry_out", "finetune", "retrain"]
