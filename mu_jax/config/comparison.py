"""Settings of the comparison of unlearning methods on one model."""

import dataclasses

from mu_jax.config.errors import require
from mu_jax.config.shared import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
)


@dataclasses.dataclass(frozen=True)
class UnlearningComparison:
    """Train, delete by each method, retrain without the data (twice), attack all of them, compare."""

    experiment: str = "unlearning_comparison"
    seed: int = 0
    """Draws the data split, the forget set, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    forget: ForgetConfig = ForgetConfig()
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """The original model, and both retrained ones."""
    finetune: OptimizationConfig = OptimizationConfig(epochs=5.0)
    """Fine-tuning on the retained examples."""
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
