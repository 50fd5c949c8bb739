"""Settings of the experiment that forgets whole classes and asks whether the classes that stay give it away."""

import dataclasses

from mu_jax.config.class_methods import ClassMethodsConfig
from mu_jax.config.errors import one_of, require
from mu_jax.config.shared import DataConfig, EvaluationConfig, LoopConfig, ModelConfig, OptimizationConfig

_NAMES = (
    "finetune",
    "random_labels",
    "gradient_ascent",
    "negative_gradient_plus",
    "salun",
    "l1_sparse",
    "scrub",
    "boundary_shrink",
    "boundary_expanding",
    "delete",
    "svd_projection",
    "scar",
    "linear_filtration",
    "rwft",
    "trw_head",
    "trw",
)


@dataclasses.dataclass(frozen=True)
class ForgetClassesConfig:
    """Which classes are forgotten, one at a time."""

    classes: tuple[int, ...] = ()
    """Each of these in turn, from the same originals; empty: every class of the data."""

    def __post_init__(self) -> None:
        require(len(set(self.classes)) == len(self.classes), "forget.classes", self.classes, "no class twice")
        require(
            all(label >= 0 for label in self.classes),
            "forget.classes",
            self.classes,
            "numbers of classes from 0",
        )


@dataclasses.dataclass(frozen=True)
class ShadowsConfig:
    """The pool that stands behind every figure."""

    models: int = 8
    """Originals, which every method unlearns; and for each class as many models retrained without it."""
    models_per_device: int = 0
    """That train together on one device; 0 takes what suits the backend and fits into memory."""

    def __post_init__(self) -> None:
        require(
            self.models >= 4,
            "shadows.models",
            self.models,
            "at least 4: a model under test leaves its side, a side wants two for a spread, and the retrained ones "
            "are halved for their own row",
        )
        require(
            self.models_per_device >= 0,
            "shadows.models_per_device",
            self.models_per_device,
            "0 (chosen) or a positive number",
        )


@dataclasses.dataclass(frozen=True)
class NearestNeighbourConfig:
    """The attack that tells the forgotten class from its nearest neighbour (MIA-NN)."""

    features: str = "logits"
    """`logits` or `posteriors`, both without the forgotten class."""
    against: str = "nearest"
    """`nearest`, the retained class that retrained models take the forgotten one's inputs for, or `every` class in
    turn."""
    trained_on: str = "own"
    """Whose outputs the attacker's classifier learns from: the model's `own`, or a `retrained` model's."""
    max_each_side: int = 1000
    """Training images of each class at most, and test images, the same for all models."""

    def __post_init__(self) -> None:
        one_of("nearest_neighbour.features", self.features, ("logits", "posteriors"))
        one_of("nearest_neighbour.against", self.against, ("nearest", "every"))
        one_of("nearest_neighbour.trained_on", self.trained_on, ("own", "retrained"))
        require(
            self.max_each_side >= 2,
            "nearest_neighbour.max_each_side",
            self.max_each_side,
            "at least 2 images",
        )


@dataclasses.dataclass(frozen=True)
class UliraConfig:
    """The attack that tells unlearned from retrained models by what they say of the forgotten class (U-LiRA)."""

    images: str = "train"
    """The images of the forgotten class that both sides are asked about: `train`, the deleted ones, or `test`."""
    variance: str = "per_example"
    """Of the Gaussians: `per_example` or `global`."""

    def __post_init__(self) -> None:
        one_of("ulira.images", self.images, ("train", "test"))
        one_of("ulira.variance", self.variance, ("per_example", "global"))


@dataclasses.dataclass(frozen=True)
class ClassUnlearning:
    """Train originals and models without a class, forget it by each method, and ask who can tell them apart."""

    experiment: str = "class_unlearning"
    seed: int = 0
    """Draws the data split, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    forget: ForgetClassesConfig = ForgetClassesConfig()
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """The originals and the retrained models."""
    names: tuple[str, ...] = _NAMES
    """The rows of the table: methods of `mu_jax/unlearning/methods.py`, each by itself or with settings of its own
    behind a colon, as `trw:temperature=0.5,optimization.epochs=5`."""
    methods: ClassMethodsConfig = ClassMethodsConfig()
    shadows: ShadowsConfig = ShadowsConfig()
    nearest_neighbour: NearestNeighbourConfig = NearestNeighbourConfig()
    ulira: UliraConfig = UliraConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
        require(len(set(self.names)) == len(self.names), "names", self.names, "no row twice")
        require(len(self.names) > 0, "names", self.names, "one method or more")
