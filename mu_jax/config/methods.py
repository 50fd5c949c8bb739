"""Settings of the unlearning methods that one run of gradient descent carries out.

Defaults are the published ones for ResNet-18 on CIFAR-10 with 10% of the training images deleted, augmentation and all;
where a paper and its code are silent, the docstring says so. Other data need their own: digits must not be mirrored.
"""

import dataclasses
import math

from mu_jax.config.errors import one_of, require
from mu_jax.config.shared import OptimizationConfig

# What SalUn's public code shares among its baselines; no run is long enough for its steps of the learning rate.
_SALUN_BASELINES = OptimizationConfig(
    epochs=10.0, batch_size=256, learning_rate=0.013, schedule="constant", crop_padding=4, flip=True
)
_GRADIENT_ASCENT = dataclasses.replace(_SALUN_BASELINES, epochs=5.0, learning_rate=1e-4)
_BOUNDARY_SHRINK = dataclasses.replace(_SALUN_BASELINES, learning_rate=1e-4)
_L1_SPARSE = dataclasses.replace(_SALUN_BASELINES, learning_rate=0.01)
_NEGATIVE_GRADIENT_PLUS = dataclasses.replace(
    _SALUN_BASELINES, epochs=5.0, batch_size=128, learning_rate=0.01
)
_AMUN = OptimizationConfig(
    epochs=10.0,
    batch_size=128,
    learning_rate=0.01,
    schedule="step",
    step_epochs=1.0,
    crop_padding=4,
    flip=True,
)
# Its code divides the learning rate after the third epoch, which is its last.
_SCRUB = OptimizationConfig(epochs=3.0, batch_size=128, learning_rate=5e-4, schedule="constant")


@dataclasses.dataclass(frozen=True)
class GradientAscentConfig:
    """Ascent on the deleted examples' loss."""

    optimization: OptimizationConfig = _GRADIENT_ASCENT
    """SalUn's code; its maintainers advise a learning rate of 5e-4 to 1e-3."""
    retain: bool = False
    """Descend on the retained examples in each epoch before the ascent, as AMUN's code does."""


@dataclasses.dataclass(frozen=True)
class RandomLabelsConfig:
    """Deleted examples are learned with wrong labels."""

    optimization: OptimizationConfig = _SALUN_BASELINES
    """That of SalUn, which is this method with a mask: of its own only the range of its search is published."""
    retain: bool = True
    """Visit the retained examples too; without, nothing but the deleted ones is needed."""
    redraw: bool = True
    """As if the label were drawn anew at each visit: the target is the mean over draws. Else one draw for good."""


@dataclasses.dataclass(frozen=True)
class BoundaryShrinkConfig:
    """Deleted examples are learned with the label of the nearest other class."""

    optimization: OptimizationConfig = _BOUNDARY_SHRINK
    """The learning rate is a guess: public searches run over all of 1e-8 to 1e-1."""
    retain: bool = True
    """Visit the retained examples in each epoch after the deleted ones, as AMUN's code does; SalUn's does not."""
    epsilon: float = 0.1
    """The one step's length in each pixel, whose range is [0, 1]."""

    def __post_init__(self) -> None:
        require(0 < self.epsilon <= 1, "epsilon", self.epsilon, "a share of the pixels' range, in (0, 1]")


@dataclasses.dataclass(frozen=True)
class L1SparseConfig:
    """Fine-tuning with a penalty on the weights' absolute values."""

    optimization: OptimizationConfig = _L1_SPARSE
    """Of the retained examples."""
    alpha: float = 5e-4
    """The penalty's coefficient at the start."""
    decay: bool = True
    """Let the coefficient fall linearly, to 0 at the end; else it stays."""

    def __post_init__(self) -> None:
        require(self.alpha >= 0, "alpha", self.alpha, "0 or a positive number")


@dataclasses.dataclass(frozen=True)
class SalunConfig:
    """Random labels, with only the weights that matter to the deleted examples free to move."""

    optimization: OptimizationConfig = _SALUN_BASELINES
    """SalUn's README."""
    retain: bool = True
    """Visit the retained examples too; without, nothing but the deleted ones is needed."""
    redraw: bool = True
    """As for random labels."""
    share: float = 0.5
    """Of all weights, how many may move; in (0, 1]."""

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", self.share, "a share of the weights, in (0, 1]")


@dataclasses.dataclass(frozen=True)
class NegativeGradientPlusConfig:
    """Descent on the retained examples and ascent on the deleted ones at once."""

    optimization: OptimizationConfig = _NEGATIVE_GRADIENT_PLUS
    """Epochs and learning rate are a guess: they are published for smaller data only."""
    alpha: float = 0.95
    """The retained examples' part of the loss, in [0, 1]; published from 0.95 to 0.9999."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "a value in [0, 1]")


@dataclasses.dataclass(frozen=True)
class ScrubConfig:
    """A student that obeys the original model on retained examples and departs from it on deleted ones."""

    optimization: OptimizationConfig = _SCRUB
    """Without augmentation: the student sees what the teacher saw."""
    ascent_epochs: int = 2
    """The first so many epochs begin with a pass over the deleted examples (`msteps`)."""
    forget_batch: int = 32
    """Deleted examples in a step; it divides the batch size."""
    temperature: float = 4.0
    """T, by which the logits are divided before the divergence is taken."""
    label_weight: float = 0.99
    """The labels' cross-entropy on retained examples (`gamma`)."""
    teacher_weight: float = 0.001
    """The divergence from the original model on retained examples (`alpha`)."""

    def __post_init__(self) -> None:
        require(
            0 <= self.ascent_epochs <= math.ceil(self.optimization.epochs),
            "ascent_epochs",
            self.ascent_epochs,
            f"0 to optimization.epochs, which is {self.optimization.epochs:g}",
        )
        require(
            self.forget_batch >= 1 and self.optimization.batch_size % self.forget_batch == 0,
            "forget_batch",
            self.forget_batch,
            f"a divisor of optimization.batch_size, which is {self.optimization.batch_size}",
        )
        require(self.temperature > 0, "temperature", self.temperature, "a positive number")
        for key in ("label_weight", "teacher_weight"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or a positive number")


NEIGHBOURS = (
    "adversarial",
    "random_shift",
    "random_label",
    "original",
    "original_random",
    "original_adversarial",
)


@dataclasses.dataclass(frozen=True)
class NeighboursConfig:
    """The search for the adversarial neighbours of the examples to delete."""

    attack: str = "pgd"
    """`pgd`, in the norm below, or `fgsm`, one step in ℓ∞."""
    norm: str = "l2"
    """`l2` or `linf`; of `pgd`."""
    epsilon: float = 0.0
    """The first radius, in units of a pixel's range; 0 finds it by a probe of 100 examples."""
    max_epsilon: float = 0.0
    """The radius is doubled up to here, and what has not flipped then is left out; 0 reaches from the middle grey to a
    corner of the cube of images."""
    steps: int = 50
    """Of `pgd`, at each radius."""
    step_ratio: float = 0.1
    """A step's length as a share of the radius; of `pgd`."""
    batch_size: int = 128
    """Images under attack at a time."""

    def __post_init__(self) -> None:
        one_of("attack", self.attack, ("pgd", "fgsm"))
        one_of("norm", self.norm, ("l2", "linf"))
        require(self.epsilon >= 0, "epsilon", self.epsilon, "0 (found by a probe) or a positive radius")
        require(
            self.max_epsilon >= 0,
            "max_epsilon",
            self.max_epsilon,
            "0 (as far as there is) or a positive radius",
        )
        require(
            self.max_epsilon == 0 or self.epsilon <= self.max_epsilon,
            "epsilon",
            self.epsilon,
            f"at most max_epsilon, which is {self.max_epsilon:g}",
        )
        require(self.steps >= 1, "steps", self.steps, "a positive number")
        require(self.step_ratio > 0, "step_ratio", self.step_ratio, "a positive share of the radius")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a positive number")


@dataclasses.dataclass(frozen=True)
class AmunConfig:
    """Fine-tuning on adversarial neighbours of the deleted examples, with the labels that the original gives them."""

    optimization: OptimizationConfig = _AMUN
    """Of the paper's search (1e-6 to 1e-1, divided by 10 every one or five epochs, or never) its code ships this."""
    retain: bool = True
    """Visit the retained examples too; without, nothing but the deleted ones is needed."""
    forget: bool = True
    """Visit the deleted examples with their true labels too; without, it is the code's `advonly`, better for very large
    forget sets."""
    neighbours: str = "adversarial"
    """What is visited besides: `adversarial`, the neighbours with the original's label; or an ablation of the paper's:
    `random_shift` (points as far away in a random direction, with the neighbours' labels: Adv-RS), `random_label`
    (neighbours with a random third label: Adv-RL), `original` (deleted examples as they are: Orig), `original_random`
    (deleted examples with a random third label: Orig-RL), `original_adversarial` (deleted examples with the neighbours'
    labels: Orig-AdvL)."""
    augment_neighbours: bool = False
    """Crop and mirror what is visited besides, too (the code's `amun_rand`)."""
    saliency_share: float = 1.0
    """Of all weights, how many may move, SalUn's most salient first; 1 frees all."""
    l1: float = 0.0
    """Coefficient of the weights' absolute values in the loss; the code's `amun_l1` has 5e-4."""

    def __post_init__(self) -> None:
        one_of("neighbours", self.neighbours, NEIGHBOURS)
        require(
            0 < self.saliency_share <= 1,
            "saliency_share",
            self.saliency_share,
            "a share of the weights, in (0, 1]",
        )
        require(self.l1 >= 0, "l1", self.l1, "0 or a positive number")


@dataclasses.dataclass(frozen=True)
class MethodsConfig:
    """Each method's settings, by its name in tables."""

    finetune: OptimizationConfig = dataclasses.replace(_L1_SPARSE)
    """SalUn's code; the paper's own search goes from 1e-3 to 1e-1."""
    gradient_ascent: GradientAscentConfig = GradientAscentConfig()
    random_labels: RandomLabelsConfig = RandomLabelsConfig()
    boundary_shrink: BoundaryShrinkConfig = BoundaryShrinkConfig()
    l1_sparse: L1SparseConfig = L1SparseConfig()
    salun: SalunConfig = SalunConfig()
    scrub: ScrubConfig = ScrubConfig()
    negative_gradient_plus: NegativeGradientPlusConfig = NegativeGradientPlusConfig()
    amun: AmunConfig = AmunConfig()
    amun_salun: AmunConfig = AmunConfig(saliency_share=0.5)
