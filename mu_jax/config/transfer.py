"""Settings of forgetting from a fine-tuned model whose pretrained weights stay: transfer learning."""

import dataclasses

from mu_jax.config.class_methods import ClassMethodsConfig
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
class PretrainedConfig:
    """Where the weights come from that every model here starts from."""

    checkpoint: str = ""
    """The folder of a finished run, or a file of a network's PyTorch state_dict (.safetensors, .pth or .pt); empty
    trains them here, on `data`."""
    checkpoint_model: str = "original"
    """Which of a run's models."""
    data: DataConfig = DataConfig()
    """Without a checkpoint: what pretraining learns. Nothing of it is ever to be forgotten."""
    train: OptimizationConfig = OptimizationConfig()
    """Without a checkpoint: how it is learned."""


@dataclasses.dataclass(frozen=True)
class TransferUnlearning:
    """Fine-tune a pretrained network, forget by each method, fine-tune again without the data (twice), compare."""

    experiment: str = "transfer_unlearning"
    seed: int = 0
    """Draws the data split, the forget set, new heads, batches and augmentation."""
    pretrained: PretrainedConfig = PretrainedConfig()
    """What every model starts from, but for its head."""
    data: DataConfig = DataConfig()
    """What the network is fine-tuned on, and is to forget a part of."""
    forget: ForgetConfig = ForgetConfig()
    model: ModelConfig = ModelConfig()
    """A checkpoint's own where that is a run's folder; how it is computed may differ."""
    train: OptimizationConfig = OptimizationConfig(epochs=10.0, learning_rate=0.01)
    """Fine-tuning: of the original model, and of both retrained ones."""
    names: tuple[str, ...] = ("finetune", "gradient_ascent", "random_labels", "salun")
    """The methods to compare, of those in `mu_jax/unlearning/methods.py` that need no adversarial set."""
    methods: ClassMethodsConfig = ClassMethodsConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
        require(
            len(set(self.names)) == len(self.names) > 0,
            "names",
            self.names,
            "at least one method, and none twice",
        )
