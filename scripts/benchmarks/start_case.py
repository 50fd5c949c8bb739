"""What one benchmark of the start measures; without dependencies, for any interpreter."""

import dataclasses

BATCH = 32
LEARNING_RATE, MOMENTUM = 0.1, 0.9
CLASSES, LEVELS = 10, 16.0
"""Of scikit-learn's digits: classes, and the brightest pixel."""
FIRST_STEP = "first step"
"""What PyTorch's script says after it."""
BEGAN = "MU_JAX_START_BEGAN"
"""The environment variable that tells a watched command when it was started, in seconds since the epoch."""


@dataclasses.dataclass(frozen=True)
class StartCase:
    """A ResNet-18 of `width` on 8×8 digits, started by a shipped config."""

    kind: str
    """`quickstart`, one model; `sweep`, 16 shadow models side by side"""
    width: int

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        return f"{self.kind}_w{self.width}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of `python -m mu_jax.main`, but for the folder; a chunk of one step is reported after its first step."""
        config = {"quickstart": "configs/quickstart.py", "sweep": "configs/shadow_sweep.py:smoke"}[self.kind]
        return (f"--config={config}", f"--config.model.width={self.width}", "--config.loop.chunk_steps=1")
