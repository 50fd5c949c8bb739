"""What one point of the benchmark of scale measures; without dependencies, so that any process can read it."""

import dataclasses

LEARNING_RATE, MOMENTUM = 0.01, 0.9
MEAN, STD = 0.5, 0.25
CHUNK_STEPS = 500
"""As sweeps have it by default."""
VIEWS = 2
"""Of each image in a query: as it is, and mirrored."""


@dataclasses.dataclass(frozen=True)
class ScaleCase:
    """A sweep of K `models`, all of them side by side in one group a process, on halves of synthetic images.

    Each model starts from fresh weights, trains, and is queried on all images; then the sweep's own second opinion on
    its signals is taken, as the experiment `shadow_sweep` does it.
    """

    models: int = 8
    """K, of all processes together; a multiple of `devices` · `processes`"""
    examples: int = 1024
    """N; each model trains on half of them"""
    width: int = 8
    side: int = 8
    """of the images, in pixels; they have 3 channels"""
    devices: int = 2
    """virtual CPU devices of each process"""
    processes: int = 1
    one_core: bool = False
    """whether each process is held on one core of its own, as if it were a host of one core"""
    network: str = "resnet18"
    epochs: float = 2.0

    def __post_init__(self) -> None:
        if self.models % 2 or self.models % (self.devices * self.processes):
            raise ValueError(
                f"A point has {self.models} models, but expected an even number, the same on each of "
                f"{self.devices * self.processes} devices; change it."
            )

    @property
    def name(self) -> str:
        """As rows are called; `c1` is a core a process."""
        processes = f"_p{self.processes}" if self.processes > 1 else ""
        core = "_c1" if self.one_core else ""
        return (
            f"k{self.models}_n{self.examples}_w{self.width}_{self.side}x{self.side}_d{self.devices}"
            f"{processes}{core}"
        )

    @property
    def batch(self) -> int:
        """Images a step: 64 from 32×32 pixels on, 32 below, as `bench_ops.py` has it."""
        return 64 if self.side >= 32 else 32

    @property
    def models_per_device(self) -> int:
        """Of the one group that each process trains."""
        return self.models // (self.devices * self.processes)

    @property
    def model_epochs(self) -> float:
        """Of all models together: what a cost is divided by."""
        return self.models * self.epochs
