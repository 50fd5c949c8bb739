"""SISA: an ensemble of shards and slices that deletes exactly (Bourtoule et al., "Machine Unlearning", 2021)."""

from mu_jax.unlearning.sisa.aggregation import majority_vote, mean_logits, mean_posterior
from mu_jax.unlearning.sisa.cost import expected_cost, simulate_cost, speed_up_table
from mu_jax.unlearning.sisa.ensemble import AGGREGATIONS, Sisa
from mu_jax.unlearning.sisa.shard_models import ShardModels, train_together
from mu_jax.unlearning.sisa.sharding import Sharding, distribution_aware_sharding, uniform_sharding

__all__ = [
    "AGGREGATIONS",
    "ShardModels",
    "Sharding",
    "Sisa",
    "distribution_aware_sharding",
    "expected_cost",
    "majority_vote",
    "mean_logits",
    "mean_posterior",
    "simulate_cost",
    "speed_up_table",
    "train_together",
    "uniform_sharding",
]
