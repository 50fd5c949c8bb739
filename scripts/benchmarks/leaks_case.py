"""What one benchmark of pair attacks measures; without dependencies, so that any interpreter's worker can read it."""

import dataclasses
import math

NETWORKS = ("mlp", "cnn")
WIDTH = {"mlp": 64, "cnn": 16}
"""Hidden units of each of two layers; channels of the first convolution."""
IMAGE_SIZE = 8
BLOCK = 20
"""Models of a block: an original, and those retrained without one of its examples."""
EXAMPLES = 400
"""That an original learns."""
EPOCHS, BATCH, LEARNING_RATE, MOMENTUM = 20.0, 32, 0.05, 0.9
"""SGD at a constant rate, without weight decay, crops and mirroring."""
MEAN, STD = 0.5, 0.25
SIDES = ("shadow", "target")


@dataclasses.dataclass(frozen=True)
class LeaksCase:
    """So many models of scikit-learn's digits in blocks of BLOCK, and what an attacker makes of their posteriors.

    Blocks are by turns of the shadow and of the target side, which have one half of the digits each.
    """

    network: str
    """one of NETWORKS"""
    models: int
    epochs: float = EPOCHS
    file: str = ""
    """The `.npz` that `leaks_data.write_plan` writes."""

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        network = "" if self.network == "mlp" else f"{self.network}_"
        epochs = "" if self.epochs == EPOCHS else f"_e{self.epochs:g}"
        return f"retrain_{network}k{self.models}{epochs}"

    @property
    def pairs(self) -> int:
        """Two of each retrained model: its deleted example, and one that neither model learned."""
        return 2 * (self.models - self.models // BLOCK)

    def steps(self, examples: int) -> int:
        """Of a model that learns so many examples: whole batches of one stream of epochs."""
        return math.ceil(round(self.epochs * examples / BATCH, 9))
