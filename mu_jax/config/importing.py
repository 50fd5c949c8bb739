"""Settings of bringing a PyTorch checkpoint into a folder that all other commands read."""

import dataclasses

from mu_jax.config.errors import require
from mu_jax.config.shared import DataConfig, EvaluationConfig, ModelConfig


@dataclasses.dataclass(frozen=True)
class ImportCheckpoint:
    """Read a network's PyTorch weights, say how well they classify, keep them as a finished run's."""

    experiment: str = "import_checkpoint"
    checkpoint: str = ""
    """The file: a state_dict of a ResNet-18, VGG or ViT (.safetensors, .pth or .pt)."""
    seed: int = 0
    """Draws the data, where a part of it is drawn, and the attack's resamples."""
    data: DataConfig = DataConfig()
    """What the model was trained on, normalised as it was then."""
    model: ModelConfig = ModelConfig()
    """Its architecture: the file does not say it."""
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
