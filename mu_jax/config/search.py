"""Settings of the search for the unlearning methods' own settings."""

import dataclasses

from mu_jax.config.errors import require
from mu_jax.config.methods import MethodsConfig, NeighboursConfig
from mu_jax.config.shared import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
)
from mu_jax.config.unlearning import UnlearningMethods


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The grid: every method is tried with each learning rate, schedule and length, and each value of its own knob."""

    learning_rates: tuple[float, ...] = (1e-1, 5e-2, 1e-2, 5e-3, 1e-3, 1e-4, 1e-5)
    """That of AMUN's code (1e-1 to 1e-5, 0.05 and 0.005)."""
    step_epochs: tuple[float, ...] = (1.0, 5.0, 0.0)
    """The learning rate is multiplied by the method's `step_factor` every so many epochs; 0: never."""
    epochs: tuple[float, ...] = (0.0,)
    """Of each run; 0 takes the method's own."""
    saliency_shares: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Of all weights, how many may move; for `salun` and `amun_salun`. The literature has 0.1 to 0.9."""
    l1_alphas: tuple[float, ...] = (1e-4, 5e-4)
    """Coefficients of the weights' absolute values; for `l1_sparse`."""
    negative_gradient_alphas: tuple[float, ...] = (0.95, 0.99, 0.999)
    """The retained examples' part of the loss; for `negative_gradient_plus`."""
    models_per_device: int = 0
    """Settings that train together on one device; 0 takes what suits the backend and fits into memory."""

    def __post_init__(self) -> None:
        checks = {
            "learning_rates": (lambda value: value > 0, "positive numbers"),
            "step_epochs": (lambda value: value >= 0, "0 (never) or positive numbers"),
            "epochs": (lambda value: value >= 0, "0 (the method's own) or positive numbers"),
            "saliency_shares": (lambda value: 0 < value <= 1, "shares in (0, 1]"),
            "l1_alphas": (lambda value: value >= 0, "0 or positive numbers"),
            "negative_gradient_alphas": (lambda value: 0 <= value <= 1, "values in [0, 1]"),
        }
        for key, (holds, expected) in checks.items():
            values = getattr(self, key)
            require(
                len(values) > 0 and all(map(holds, values)),
                f"search.{key}",
                values,
                f"one value or more, {expected}",
            )
            require(len(set(values)) == len(values), f"search.{key}", values, "no value twice")
        require(
            self.models_per_device >= 0,
            "search.models_per_device",
            self.models_per_device,
            "0 (chosen) or a positive number",
        )


@dataclasses.dataclass(frozen=True)
class UnlearningSearch:
    """Try every method with many settings on a forget set of the search's own, and name the best of each."""

    experiment: str = "unlearning_search"
    seed: int = 0
    """Draws the data split, both forget sets, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    forget: ForgetConfig = ForgetConfig()
    """The set that methods will be scored on: the search's own is as large, and drawn from the other examples."""
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """The original model, and both retrained ones."""
    names: tuple[str, ...] = UnlearningMethods.names
    """The methods to search for, of those in `mu_jax/unlearning/methods.py`."""
    methods: MethodsConfig = MethodsConfig()
    """What of their settings is not searched."""
    neighbours: NeighboursConfig = NeighboursConfig()
    """How adversarial sets are made, once for all settings."""
    search: SearchConfig = SearchConfig()
    """The grid."""
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
        require(len(self.names) > 0, "names", self.names, "one method or more")
        require(len(set(self.names)) == len(self.names), "names", self.names, "no method twice")
