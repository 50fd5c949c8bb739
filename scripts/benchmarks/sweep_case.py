"""What one benchmark of a sweep measures; without dependencies, so that any interpreter's worker can read it."""

import dataclasses
import math

EXAMPLES = 2048
"""Of `cifar`."""
IMAGE_SHAPES = {"digits": (8, 8, 1), "cifar": (32, 32, 3)}
BATCH = {"digits": 32, "cifar": 64}
EPOCHS = {"digits": 10.0, "cifar": 4.0}
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
MEAN, STD = 0.5, 0.25


@dataclasses.dataclass(frozen=True)
class SweepCase:
    """ResNet-18 of `width` on a random half of the data each, `models` times; then a query on all of the data.

    A query sees each image as it is, and mirrored.
    """

    data: str
    """`digits` or `cifar`"""
    width: int
    models: int
    dtype: str
    """in which training computes; queries are float32"""
    epochs: float
    file: str = ""
    """An `.npz` of `x_train`, `x_test` uint8[·,H,W,D], `y_train`, `y_test` int32[·], `class_names` [C] and `member`
    bool[K,N], N training and then test examples."""

    @property
    def batch(self) -> int:
        """Images a step."""
        return BATCH[self.data]

    @property
    def image_size(self) -> int:
        """The side in pixels."""
        return IMAGE_SHAPES[self.data][0]

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        dtype = "_bf16" if self.dtype == "bfloat16" else ""
        epochs = "" if self.epochs == EPOCHS[self.data] else f"_e{self.epochs:g}"
        return f"{self.data}_w{self.width}_k{self.models}{dtype}{epochs}"

    def learning_rates(self, members: int) -> list[float]:
        """Of each step of a model with so many members: half a cosine, from LEARNING_RATE to 0 after `epochs`."""
        steps = math.ceil(round(self.epochs * members / self.batch, 9))
        done = [min(step * self.batch / members / self.epochs, 1.0) for step in range(steps)]
        return [0.5 * LEARNING_RATE * (1.0 + math.cos(math.pi * part)) for part in done]
