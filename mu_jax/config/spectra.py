"""Settings of the table of a saved model's layers: their norms, and what other methods claim them to be."""

import dataclasses

from mu_jax.config.errors import require


@dataclasses.dataclass(frozen=True)
class Spectra:
    """Measure the operator norm of each layer of a saved model, beside the norms that other methods claim."""

    experiment: str = "spectra"
    checkpoint: str = ""
    """The folder of a finished run that keeps its models (unlearning_comparison, unlearning_methods, unlearn_saved, or
    shadow_sweep with sweep.keep_models), or a file of a ResNet-18's PyTorch state_dict (.safetensors, .pth or .pt)."""
    checkpoint_model: str = "original"
    """Which of a run's models."""
    module: str = ""
    """Of a run whose network is the user's own: its code, `FILE.py:NAME`, which is run (`model.module` of that run)."""
    image_size: int = 0
    """Pixels of a side of the images that a file's network sees, because its weights do not say; 0 for a run, which
    does."""
    seed: int = 0
    """Draws the vectors that power iterations start from."""
    tolerance: float = 1e-6
    """Relative error, by its estimate, of norms that are iterated until they have converged."""
    miyato_iterations: int = 1
    """Of the reshaped kernel, from a random vector; as many as Miyato takes at one training step."""
    gouk_iterations: int = 5
    """Of the convolution, from a random vector; as many as FastClip's authors give Gouk at one training step."""
    repeats: int = 3
    """Calls of each method on each layer, after one that compiles; their median is the time."""

    def __post_init__(self) -> None:
        require(self.image_size >= 0, "image_size", self.image_size, "zero (of a run) or a positive number")
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
        require(self.tolerance > 0, "tolerance", self.tolerance, "a positive number, such as 1e-6")
        for name in ("miyato_iterations", "gouk_iterations", "repeats"):
            value = getattr(self, name)
            require(value >= 1, name, value, "a positive number")
