"""Settings of the methods that forget whole classes; of those that tilt, see `mu_jax/config/trw.py`.

Defaults are the published ones for ResNet-18 on CIFAR-10; where a paper and its code are silent, the docstring says so.
"""

import dataclasses

from mu_jax.config.errors import one_of, require
from mu_jax.config.methods import MethodsConfig
from mu_jax.config.shared import OptimizationConfig
from mu_jax.config.trw import DeleteConfig, TrwConfig, TrwHeadConfig

_BOUNDARY_EXPANDING = OptimizationConfig(
    epochs=10.0, batch_size=64, learning_rate=1e-5, weight_decay=0.0, schedule="constant"
)
_SCAR = OptimizationConfig(
    epochs=10.0, batch_size=1024, optimizer="adam", learning_rate=1e-3, weight_decay=0.0, schedule="constant"
)


@dataclasses.dataclass(frozen=True)
class BoundaryExpandingConfig:
    """Deleted examples are learned as a class of their own, which is taken away again."""

    optimization: OptimizationConfig = _BOUNDARY_EXPANDING
    """Epochs, learning rate and momentum of the authors' code; the batch size is ours."""
    retain: bool = False
    """Visit the retained examples too, in each epoch after the deleted ones; the authors' code does not."""


@dataclasses.dataclass(frozen=True)
class SvdProjectionConfig:
    """Directions of the layers' inputs that deleted examples use and retained ones do not are projected out."""

    samples: int = 900
    """Images of either kind that the network is asked about, drawn at random; all where there are fewer."""
    alpha_retain: float = 100.0
    """How soon a direction counts as used by the retained examples (α_r): at a share of their inputs' energy of about
    1/α_r; CIFAR-100's is 1000."""
    alpha_forget: float = 3.0
    """The same of the deleted examples (α_f); CIFAR-100's is 30."""

    def __post_init__(self) -> None:
        require(self.samples >= 1, "samples", self.samples, "a positive number")
        for key in ("alpha_retain", "alpha_forget"):
            require(getattr(self, key) > 0, key, getattr(self, key), "a positive number")


@dataclasses.dataclass(frozen=True)
class ScarConfig:
    """Features of deleted examples are pulled into the nearest wrong class, under distillation from the original."""

    optimization: OptimizationConfig = _SCAR
    """An epoch visits the deleted examples once, and as many retained ones as `retained_per_deleted` says. The authors'
    code stops within these epochs once less than 1% of the deleted examples are right; a compiled run cannot."""
    retained_per_deleted: float = 1.0
    """Retained examples in an epoch, drawn anew for each, as a multiple of the deleted ones; at most all there are."""
    distance_weight: float = 1.0
    """The squared Mahalanobis distance's part of the loss (λ₁)."""
    teacher_weight: float = 0.1
    """The distillation's part (λ₂)."""
    temperature: float = 2.0
    """T, by which the logits are divided before the divergence is taken."""
    power: float = 0.5
    """Exponent of the features before anything else is done with them (Tukey's ladder), in (0, 1]."""
    shrinkage: tuple[float, ...] = (3.0, 3.0)
    """γ₁ and γ₂: so many times the mean variance is added to a covariance's diagonal, and so many times the mean
    covariance to all else; γ₁ ≥ γ₂ keeps it positive."""

    def __post_init__(self) -> None:
        require(
            self.retained_per_deleted > 0,
            "retained_per_deleted",
            self.retained_per_deleted,
            "a positive number",
        )
        for key in ("distance_weight", "teacher_weight"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or a positive number")
        require(self.temperature > 0, "temperature", self.temperature, "a positive number")
        require(0 < self.power <= 1, "power", self.power, "an exponent in (0, 1]")
        require(
            len(self.shrinkage) == 2 and self.shrinkage[0] >= self.shrinkage[1] >= 0,
            "shrinkage",
            self.shrinkage,
            "two numbers γ₁ ≥ γ₂ ≥ 0",
        )


@dataclasses.dataclass(frozen=True)
class LinearFiltrationConfig:
    """A class is hidden by one matrix on the logits."""

    mode: str = "normalization"
    """What deleted classes' mean logits become: `naive`, `normalization`, `randomization` or `zeroing`."""
    margin: float = 30.0
    """How far a deleted class's logit lies below the mean of the retained ones."""

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("naive", "normalization", "randomization", "zeroing"))
        require(0 < self.margin < float("inf"), "margin", self.margin, "a positive finite number of nats")


@dataclasses.dataclass(frozen=True)
class ClassMethodsConfig(MethodsConfig):
    """Each method's settings, by its name in tables: those of single examples, and those of whole classes."""

    boundary_expanding: BoundaryExpandingConfig = BoundaryExpandingConfig()
    delete: DeleteConfig = DeleteConfig()
    svd_projection: SvdProjectionConfig = SvdProjectionConfig()
    scar: ScarConfig = ScarConfig()
    linear_filtration: LinearFiltrationConfig = LinearFiltrationConfig()
    trw: TrwConfig = TrwConfig()
    trw_head: TrwHeadConfig = TrwHeadConfig()
