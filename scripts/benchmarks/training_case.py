"""What one training benchmark measures; without dependencies, so that any interpreter's worker can read it."""

import dataclasses

NUM_CLASSES = 10
EXAMPLES = 2048
CHUNK_STEPS = 10
"""Steps in one compiled chunk."""
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
MEAN, STD = 0.5, 0.25


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """ResNet-18 of `width` on `side`×`side`×3 images; each of `models` takes batches of its own."""

    side: int
    width: int
    mode: str
    """`single`: a call a step; `chunk`: many steps in one call; `many`: a chunk of `models` > 1 at once."""
    models: int
    dtype: str
    batch: int

    @property
    def default_batch(self) -> int:
        """64 from 32×32 pixels on, 32 below."""
        return 64 if self.side >= 32 else 32

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        mode = f"k{self.models}" if self.mode == "many" else self.mode
        dtype = "_bf16" if self.dtype == "bfloat16" else ""
        batch = f"_b{self.batch}" if self.batch != self.default_batch else ""
        return f"{self.side}x{self.side}_w{self.width}_{mode}{dtype}{batch}"

    @property
    def images_a_step(self) -> int:
        """Of all models together."""
        return self.batch * self.models
