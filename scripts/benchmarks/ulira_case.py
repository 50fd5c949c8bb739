"""What one benchmark of class unlearning measures; without dependencies, so that any interpreter can read it."""

import dataclasses
import math
from typing import Any

METHOD_NAMES = ("finetune", "random_labels", "delete", "trw")
"""What both sides know."""
TRW_STEP = "trw_step"
FORGOTTEN = 8
"""The class, as `configs/class_unlearning.py:smoke` has it."""
EPOCHS, BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 5.0, 32, 0.01, 0.9, 5e-4
"""Of every method: fine-tuning's, without crops and mirroring, at a constant rate."""
TRAINING_LEARNING_RATE = 0.05
"""Of the originals, falling by a cosine."""


@dataclasses.dataclass(frozen=True)
class UliraCase:
    """A class forgotten by one method on each of `models` originals, ResNet-18 of `width`, of digits of 8×8.

    As `trw_step`: a step of TRW beside one of fine-tuning, on one original.
    """

    method: str
    """one of METHOD_NAMES, or TRW_STEP"""
    models: int
    width: int
    share: float = 1.0
    """of EPOCHS that the method runs, for a quick look"""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The method's own, besides its optimization."""
    training_epochs: float = 15.0
    """of the originals' own training, which is none of what is measured"""
    file: str = ""
    """An `.npz` of `x_train`, `x_test` uint8[·,H,W,D], `y_train`, `y_test` int32[·] and `class_names` [C]."""
    weights: str = ""
    """An `.npz` of the originals, by the names of `torch_resnet` behind `NUMBER/`; of TRW_STEP by these alone."""

    @property
    def name(self) -> str:
        """As the tables have it."""
        if self.method == TRW_STEP:
            return TRW_STEP
        return f"ulira_{self.method}_k{self.models}{'' if self.share == 1 else f'_x{self.share:g}'}"

    @property
    def epochs(self) -> float:
        """Of the method."""
        return self.share * EPOCHS

    def steps(self, examples: int) -> int:
        """Steps of one model that visits so many examples for all epochs."""
        return math.ceil(round(self.epochs * examples / BATCH, 9))
