"""Every setting of every experiment: its default, its unit and its check.

Config files (`configs/*.py`) hold an `ml_collections.ConfigDict` made by `default_config`, so that flags can
override any key; `from_config_dict` turns it into the frozen dataclasses of this package, and nothing further inside
ever sees a ConfigDict. The checks run when a dataclass is made, so a bad value never reaches an experiment.
"""

from mu_jax.config.class_unlearning import ClassUnlearning
from mu_jax.config.comparison import UnlearningComparison
from mu_jax.config.errors import InputError
from mu_jax.config.importing import ImportCheckpoint
from mu_jax.config.leaks import UnlearningLeaks
from mu_jax.config.methods import MethodsConfig, NeighboursConfig
from mu_jax.config.resolve import (
    EXPERIMENTS,
    default_config,
    first_difference,
    from_config_dict,
    to_dict,
    unknown_variant,
    with_settings,
    with_values,
)
from mu_jax.config.saved import UnlearnSaved
from mu_jax.config.search import SearchConfig, UnlearningSearch
from mu_jax.config.shared import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
)
from mu_jax.config.sisa import AdversaryConfig, SisaConfig, SisaDelete, SisaPosterior
from mu_jax.config.smooth import SmoothAmun
from mu_jax.config.smoothness import ClippingConfig
from mu_jax.config.spectra import Spectra
from mu_jax.config.sweep import ATTACKS, AttackConfig, QueryConfig, ShadowSweep, SweepConfig
from mu_jax.config.transfer import PretrainedConfig, TransferUnlearning
from mu_jax.config.unlearning import UnlearningMethods

__all__ = [
    "ATTACKS",
    "EXPERIMENTS",
    "AdversaryConfig",
    "AttackConfig",
    "ClassUnlearning",
    "ClippingConfig",
    "DataConfig",
    "EvaluationConfig",
    "ForgetConfig",
    "ImportCheckpoint",
    "InputError",
    "LoopConfig",
    "MethodsConfig",
    "ModelConfig",
    "NeighboursConfig",
    "OptimizationConfig",
    "PretrainedConfig",
    "QueryConfig",
    "SearchConfig",
    "ShadowSweep",
    "SisaConfig",
    "SisaDelete",
    "SisaPosterior",
    "SmoothAmun",
    "Spectra",
    "SweepConfig",
    "TransferUnlearning",
    "UnlearnSaved",
    "UnlearningComparison",
    "UnlearningLeaks",
    "UnlearningMethods",
    "UnlearningSearch",
    "default_config",
    "first_difference",
    "from_config_dict",
    "to_dict",
    "unknown_variant",
    "with_settings",
    "with_values",
]
