"""What one benchmark of the search for adversarial examples measures; without dependencies, for any interpreter."""

import dataclasses

EXAMPLES, EPOCHS = 2000, 15.0
TRAINING_EXAMPLES = 4096
"""The attacked model learns from so many, or from all where there are fewer."""
TRAINING_BATCH, LEARNING_RATE = 64, 0.1
EPSILON, STEP_RATIO = 0.04, 0.1
MEAN, STD = 0.5, 0.25


@dataclasses.dataclass(frozen=True)
class AdversarialCase:
    """AMUN's Algorithm 1 in ℓ2: rounds of PGD on ResNet-18 of `width`, ε doubled, each example to its first flip."""

    steps: int
    """of PGD, in one round; each of STEP_RATIO·ε"""
    width: int
    examples: int
    """under attack: the first so many of those that the model learned from"""
    epochs: float
    """of the model's own training"""
    epsilon: float = EPSILON
    """the first radius, in units of a pixel's range; EPSILON is that of AMUN's code"""
    file: str = ""
    """An `.npz` of `x_train` uint8[N,H,W,D], `y_train` int32[N] and `class_names` [C], of which the first `examples`
    are attacked. (Its `x_test` and `y_test` are there for form's sake.)"""
    weights: str = ""
    """An `.npz` of the trained model, by the names of `torch_resnet`."""
    found: str = ""
    """The folder where the workers leave what they found, as `SIDE.npz`."""

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        examples = f"_n{self.examples}" if self.examples != EXAMPLES else ""
        epochs = f"_e{self.epochs:g}" if self.epochs != EPOCHS else ""
        return f"pgd{self.steps}_w{self.width}{examples}{epochs}"


def largest_epsilon(shape: tuple[int, ...]) -> float:
    """½√(H·W·D), from the middle grey to a corner of the cube of images: the search goes no further."""
    size = 1
    for length in shape:
        size *= length
    return 0.5 * size**0.5
