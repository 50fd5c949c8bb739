"""Settings of FastClip: how layers' norms are followed and clipped while a model trains."""

import dataclasses
import math

from mu_jax.config.errors import one_of, require


@dataclasses.dataclass(frozen=True)
class ClippingConfig:
    """The schedule of tracking and clipping; defaults are the public code's for networks with batch-norm."""

    every: int = 50
    """Steps from one clipping of the layers by themselves to the next; 0: never. The public code's without batch-norm
    is 100."""
    steps: int = 5
    """Gradient steps of one clipping, on one singular vector of each layer (without batch-norm: 1)."""
    step_size: float = 0.35
    """Of these, for a loss that sums over channels and rows and is a mean over columns; 0: each time the best along the
    gradient."""
    composed_every: int = 100
    """The same for layers with the batch-norm behind them, in eval mode; 0: never."""
    composed_by: str = "kernel"
    """What is moved then: `kernel`, as published (batch-norm divides by the batch's deviation, which shrinks with the
    kernel, so that the norm comes back), or `scale`: batch-norm's scale γ is multiplied by c over the norm tracked."""
    composed_steps: int = 1
    """`kernel` only, as `steps`."""
    composed_step_size: float = 0.01
    """`kernel` only, as `step_size`."""
    first_iterations: int = 100
    """Power iterations before the first step's; every step takes one more, from the last one's vectors."""
    iterations: int = 10
    """Power iterations just before and just after a clipping."""

    def __post_init__(self) -> None:
        for name in ("every", "composed_every"):
            value = getattr(self, name)
            require(value >= 0, f"clipping.{name}", value, "zero (never) or a positive number of steps")
        one_of("clipping.composed_by", self.composed_by, ("kernel", "scale"))
        for name in ("steps", "composed_steps", "first_iterations", "iterations"):
            value = getattr(self, name)
            require(value >= 1, f"clipping.{name}", value, "a positive number")
        for name in ("step_size", "composed_step_size"):
            value = getattr(self, name)
            require(
                0 <= value < math.inf,
                f"clipping.{name}",
                value,
                "zero (the best along the gradient) or a positive number",
            )
