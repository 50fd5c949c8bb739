"""Settings of the experiment that puts all unlearning methods side by side."""

import dataclasses

from mu_jax.config.errors import one_of, require
from mu_jax.config.methods import MethodsConfig, NeighboursConfig
from mu_jax.config.shared import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
)

_NAMES = (
    "finetune",
    "gradient_ascent",
    "random_labels",
    "boundary_shrink",
    "l1_sparse",
    "salun",
    "scrub",
    "negative_gradient_plus",
    "amun",
    "amun_salun",
)


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """How often everything is repeated, for means and standard deviations."""

    base_models: int = 1
    """Original models, by other random numbers."""
    forget_sets: int = 1
    """Random forget sets, each with retrained models of its own for each base model."""
    runs: int = 1
    """Runs of each method on each base model and forget set."""

    def __post_init__(self) -> None:
        for key in ("base_models", "forget_sets", "runs"):
            require(getattr(self, key) >= 1, f"study.{key}", getattr(self, key), "a positive number")


@dataclasses.dataclass(frozen=True)
class PoolConfig:
    """The reference models behind RMIA: each of half of all training and test images, by the original's recipe."""

    models: int = 8
    """References; 0 leaves RMIA out, and the gap then has the loss attack's AUC."""
    folder: str = ""
    """A finished sweep over `train+test` of the same data, to use in place of references of its own."""
    epochs: float = 0.0
    """Of each reference; 0 takes the original's."""
    probability: str = "taylor_softmax"
    """`taylor_softmax` (T = 2, m = 0.6, cut after the cubic term), as AMUN's evaluation has it, or `softmax`."""
    gamma: float = 2.0
    """RMIA's γ."""
    draws: int = 3
    """Times that the larger of two sets is cut to the smaller one's size."""

    def __post_init__(self) -> None:
        require(
            self.models == 0 or self.models >= 2,
            "pool.models",
            self.models,
            "0 (none) or at least 2",
        )
        require(self.epochs >= 0, "pool.epochs", self.epochs, "0 (the original's) or a positive number")
        one_of("pool.probability", self.probability, ("softmax", "taylor_softmax"))
        require(self.gamma > 0, "pool.gamma", self.gamma, "a positive number")
        require(self.draws >= 1, "pool.draws", self.draws, "a positive number")


@dataclasses.dataclass(frozen=True)
class RobustConfig:
    """Robust accuracy, by PGD on test images."""

    images: int = 500
    """The first so many test images; 0 leaves it out."""
    norm: str = "linf"
    """`l2` or `linf`."""
    epsilon: float = 0.02
    """In units of a pixel's range."""
    steps: int = 50
    """Of a tenth of ε each."""

    def __post_init__(self) -> None:
        require(self.images >= 0, "robust.images", self.images, "0 (not measured) or a positive number")
        one_of("robust.norm", self.norm, ("l2", "linf"))
        require(self.epsilon > 0, "robust.epsilon", self.epsilon, "a positive radius")
        require(self.steps >= 1, "robust.steps", self.steps, "a positive number")


@dataclasses.dataclass(frozen=True)
class RequestsConfig:
    """Requests to forget that come one after another, met by AMUN on the first base model."""

    number: int = 0
    """Requests; 0 leaves them out. The paper has 5."""
    size: int = 0
    """Examples a request; the paper has 1,000 of CIFAR-10."""

    def __post_init__(self) -> None:
        require(self.number >= 0, "requests.number", self.number, "0 (none) or a positive number")
        require(
            self.size >= 1 or self.number == 0, "requests.size", self.size, "a positive number of examples"
        )


@dataclasses.dataclass(frozen=True)
class UnlearningMethods:
    """Train, delete by each method, retrain without the data (twice), attack all of them with a pool, compare."""

    experiment: str = "unlearning_methods"
    seed: int = 0
    """Draws the data split, the forget sets, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    forget: ForgetConfig = ForgetConfig()
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """The original models, the retrained ones, and the references."""
    names: tuple[str, ...] = _NAMES
    """The methods to compare, of those in `mu_jax/unlearning/methods.py`."""
    methods: MethodsConfig = MethodsConfig()
    neighbours: NeighboursConfig = NeighboursConfig()
    study: StudyConfig = StudyConfig()
    pool: PoolConfig = PoolConfig()
    robust: RobustConfig = RobustConfig()
    requests: RequestsConfig = RequestsConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
        require(len(set(self.names)) == len(self.names), "names", self.names, "no method twice")
        require(
            self.study.forget_sets == 1 or not (self.forget.indices or self.forget.classes),
            "study.forget_sets",
            self.study.forget_sets,
            "1 where the forget set is given by indices or classes",
        )
