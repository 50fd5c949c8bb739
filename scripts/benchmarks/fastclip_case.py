"""What one benchmark of FastClip measures; without dependencies, for any interpreter."""

import dataclasses

TRAINING, MEASURING = "fastclip", "measure"
SIDE = 32
CHUNK_STEPS = 100
"""Steps of training between two looks at the clock: the published schedule's period."""
CLIP = 1.0
EVERY, STEPS, STEP_SIZE = 50, 5, 0.35
COMPOSED_EVERY, COMPOSED_STEPS, COMPOSED_STEP_SIZE = 100, 1, 0.01
POWER_ITERATIONS, CLIP_ITERATIONS = 100, 10
"""The published schedule with batch-norm, which is `ClippingConfig()`: of layers by themselves; composed with
batch-norm; iterations before a training's first step, and before and after each clipping."""
TOLERANCE = 1e-6
AGREED = 1e-4
"""The most by which the two sides' norms may differ, relative to PyTorch's."""


@dataclasses.dataclass(frozen=True)
class FastclipCase:
    """ResNet-18 of `width` with batch-norm, on images of `side`×`side`×3: trained, or its layers measured."""

    kind: str
    """TRAINING or MEASURING"""
    width: int
    side: int = SIDE
    weights: str = ""
    """MEASURING: an `.npz` of the network's variables, by the names of `torch_resnet`."""

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        side = f"_s{self.side}" if self.side != SIDE else ""
        return f"{self.kind}_w{self.width}{side}"

    @property
    def batch(self) -> int:
        """Images in a step of training: 64 from 32×32 pixels on, 32 below, as `bench_ops.py` has it."""
        return 64 if self.side >= 32 else 32
