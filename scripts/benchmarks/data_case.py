"""What one benchmark of data on its way into training measures; without dependencies, for any interpreter."""

import dataclasses

EPOCH, INPUT = "epoch", "input"
SIDE, EXAMPLES = 32, 2048
CROP_PADDING = 4


@dataclasses.dataclass(frozen=True)
class DataCase:
    """Of `examples` 8-bit images of `side`×`side`×3, an epoch's training of a ResNet-18, or its batches by themselves.

    Each epoch is in a new order; images are cropped at random from their selves padded by CROP_PADDING, mirrored with
    probability ½, and normalised.
    """

    kind: str
    """EPOCH or INPUT"""
    width: int = 0
    """Of the network; 0 for INPUT, which has none."""
    side: int = SIDE
    examples: int = EXAMPLES

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        width = f"_w{self.width}" if self.kind == EPOCH else ""
        side = f"_s{self.side}" if self.side != SIDE else ""
        examples = f"_n{self.examples}" if self.examples != EXAMPLES else ""
        return f"{self.kind}{width}{side}{examples}"

    @property
    def batch(self) -> int:
        """64 from 32×32 pixels on, 32 below, as `bench_ops.py` has it."""
        return 64 if self.side >= 32 else 32

    @property
    def batches(self) -> int:
        """In an epoch; all are full."""
        return self.examples // self.batch
