"""What one benchmark of SISA measures; without dependencies, so that any interpreter's worker can read it."""

import dataclasses
import math
from collections.abc import Sequence

from benchmarks import sweep_case

EXAMPLES = {"digits": 1797, "cifar": sweep_case.EXAMPLES}
EPOCHS = {"digits": 20.0, "cifar": 10.0}
SHARDS, SLICES, WIDTH = 10, 4, 16


@dataclasses.dataclass(frozen=True)
class SisaCase:
    """A SISA ensemble of ResNet-18s of `width` on all of the data, fitted, or deleted from one by one.

    Gradient descent is that of `sweep_case`, its cosine beginning anew with every slice.
    """

    what: str
    """`fit` or `delete_one`"""
    data: str
    """`digits` or `cifar`"""
    shards: int
    slices: int
    width: int
    epochs: float
    """e₀, of a model without slices; each of R slices has 2e₀/(R + 1)"""
    file: str = ""
    """An `.npz` of `x_train` uint8[N,H,W,D], `y_train` int32[N], `class_names` [C], and of which of them lie in which
    slice of which shard: `positions` int64[N], shard by shard and slice by slice, and `sizes` int64[S,R]; `order`
    int64[N], in which positions are deleted. Its folder is where checkpoints go. (Its `x_test` and `y_test` are there
    for form's sake.)"""

    @property
    def batch(self) -> int:
        """Images a step."""
        return sweep_case.BATCH[self.data]

    @property
    def image_size(self) -> int:
        """The side in pixels."""
        return sweep_case.IMAGE_SHAPES[self.data][0]

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        data = "" if self.data == "digits" else f"{self.data}_"
        shards = f"_s{self.shards}" if self.what == "fit" or self.shards != SHARDS else ""
        slices = f"_r{self.slices}" if self.slices != SLICES else ""
        width = f"_w{self.width}" if self.width != WIDTH else ""
        epochs = f"_e{self.epochs:g}" if self.epochs != EPOCHS[self.data] else ""
        return f"{data}{self.what}{shards}{slices}{width}{epochs}"

    def steps(self, sizes: Sequence[int]) -> list[int]:
        """Steps of gradient descent in each slice of a shard whose slices have these sizes.

        As `mu_jax.unlearning.sisa.shard_models` counts them: up to each slice Σ a·mᵢ/B to the nearest, where a =
        2e₀/(R + 1), B is the batch, and step i sees the mᵢ examples of slices 0 … i.
        """
        epochs = 2 * self.epochs / (self.slices + 1)
        steps, seen, exact, before = [], 0, 0.0, 0
        for size in sizes:
            seen += size
            exact += epochs * seen / self.batch
            steps.append(math.floor(exact + 0.5) - before)
            before += steps[-1]
        return steps


def learning_rates(steps: int) -> list[float]:
    """Of each step of a slice: half a cosine, from LEARNING_RATE to 0."""
    return [
        0.5 * sweep_case.LEARNING_RATE * (1.0 + math.cos(math.pi * step / steps)) for step in range(steps)
    ]
