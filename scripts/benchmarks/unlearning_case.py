"""What one benchmark of an unlearning method measures; without dependencies, so that any interpreter can read it."""

import dataclasses
import math
from typing import Any

RETRAIN = "retrain"
TORCH_METHODS = ("finetune", "amun")
"""What PyTorch's side knows besides retraining."""


@dataclasses.dataclass(frozen=True)
class UnlearningCase:
    """A request to forget some of a trained ResNet-18's images, met by one method, or by retraining."""

    method: str
    width: int
    optimization: dict[str, Any]
    """The fields of the method's own `OptimizationConfig`."""
    neighbours: dict[str, Any]
    """The fields of `NeighboursConfig`."""
    file: str = ""
    """An `.npz` of `x_train` uint8[N,H,W,D], `y_train` int32[N] and `class_names` [C]. (Its `x_test` and `y_test` are
    there for form's sake.)"""
    forget: str = ""
    """An `.npy` of int64[F], rows of the training images."""
    weights: str = ""
    """An `.npz` of the trained model, by the names of `torch_resnet`."""
    epochs: float = 0.0
    """of the trained model's own training, which is none of what is measured"""
    share: float = 1.0
    """of its epochs that a method runs, for a quick look"""

    @property
    def name(self) -> str:
        """As the tables have it."""
        return self.method if self.share == 1 else f"{self.method}_x{self.share:g}"

    def steps(self, examples: int) -> int:
        """Steps that visit so many examples for the recipe's epochs."""
        exact = self.optimization["epochs"] * examples / self.optimization["batch_size"]
        return math.ceil(round(exact, 9))

    def learning_rate(self, step: int, examples: int) -> float:
        """Of one step: constant, or multiplied by a factor every so many epochs; ValueError for other schedules."""
        recipe = self.optimization
        if recipe["schedule"] == "constant":
            return recipe["learning_rate"]
        if recipe["schedule"] != "step":
            raise ValueError(f"The schedule is {recipe['schedule']!r}, but expected constant or step.")
        epoch = step * recipe["batch_size"] / examples
        drops = math.floor(epoch / recipe["step_epochs"] + 1e-9)
        return recipe["learning_rate"] * recipe["step_factor"] ** drops
