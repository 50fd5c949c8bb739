"""Settings of the study of smooth models: what clipping the layers' norms does to a model, and to AMUN on it."""

import dataclasses

from mu_jax.config.errors import one_of, require
from mu_jax.config.methods import AmunConfig, NeighboursConfig
from mu_jax.config.shared import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
)
from mu_jax.config.smoothness import ClippingConfig
from mu_jax.config.unlearning import RobustConfig


@dataclasses.dataclass(frozen=True)
class SmoothnessConfig:
    """The kinds of models: each norm with each clip."""

    norms: tuple[str, ...] = ("batch", "none")
    """Of ResNet-18: `batch`, with batch-norm, and `none`, without; they take the place of model.norm."""
    clips: tuple[float, ...] = (0.0, 2.0, 1.0, 0.7)
    """The norms that layers are clipped at; 0 clips nothing."""
    models: int = 2
    """Of each kind, by other random numbers: originals, retrained ones, and AMUN's from each original."""
    models_per_device: int = 0
    """That train together on one device; 0 takes what suits the backend and fits into memory."""

    def __post_init__(self) -> None:
        require(len(self.norms) > 0, "smoothness.norms", self.norms, "batch, none or both")
        for norm in self.norms:
            one_of("smoothness.norms", norm, ("batch", "none"))
        require(len(set(self.norms)) == len(self.norms), "smoothness.norms", self.norms, "no norm twice")
        require(
            len(self.clips) > 0 and all(clip >= 0 for clip in self.clips),
            "smoothness.clips",
            self.clips,
            "0 (no clipping) or positive norms, one or more",
        )
        require(len(set(self.clips)) == len(self.clips), "smoothness.clips", self.clips, "no value twice")
        require(
            self.models >= 2,
            "smoothness.models",
            self.models,
            "2 or more, because adversarial examples are carried from one model of a kind to another",
        )
        require(
            self.models_per_device >= 0,
            "smoothness.models_per_device",
            self.models_per_device,
            "0 (chosen) or a positive number",
        )


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """How adversarial examples of one model fare on another of its kind: PGD on test images."""

    images: int = 500
    """The first so many test images."""
    norm: str = "linf"
    """`l2` or `linf`."""
    epsilon: float = 0.04
    """In units of a pixel's range; LOTOS's."""
    steps: int = 50
    """Of a tenth of ε each."""

    def __post_init__(self) -> None:
        require(self.images >= 1, "transfer.images", self.images, "a positive number")
        one_of("transfer.norm", self.norm, ("l2", "linf"))
        require(self.epsilon > 0, "transfer.epsilon", self.epsilon, "a positive radius")
        require(self.steps >= 1, "transfer.steps", self.steps, "a positive number")


@dataclasses.dataclass(frozen=True)
class SmoothAmun:
    """Train models whose layers are clipped at several norms, attack them, and let AMUN forget on each."""

    experiment: str = "smooth_amun"
    seed: int = 0
    """Draws the data split, the forget set, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    forget: ForgetConfig = ForgetConfig()
    model: ModelConfig = ModelConfig()
    """A ResNet-18."""
    train: OptimizationConfig = OptimizationConfig()
    """The originals and the retrained models of all kinds."""
    smoothness: SmoothnessConfig = SmoothnessConfig()
    """The kinds of models."""
    clipping: ClippingConfig = ClippingConfig()
    """The schedule of models with batch-norm."""
    clipping_without_norm: ClippingConfig = ClippingConfig(every=100, steps=1, composed_every=0)
    """The schedule of models without; the public code's."""
    amun: AmunConfig = AmunConfig()
    neighbours: NeighboursConfig = NeighboursConfig()
    robust: RobustConfig = RobustConfig()
    transfer: TransferConfig = TransferConfig()
    """From one original of a kind to another."""
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
        one_of("model.name", self.model.name, ("resnet18",))
        require(
            self.amun.saliency_share == 1.0 and self.amun.l1 == 0.0,
            "amun.saliency_share and amun.l1",
            (self.amun.saliency_share, self.amun.l1),
            "1 and 0: the study has AMUN as it is",
        )
