"""Settings of deleting from a saved model by one method."""

import dataclasses

from mu_jax.config.class_methods import ClassMethodsConfig
from mu_jax.config.errors import require
from mu_jax.config.methods import NeighboursConfig
from mu_jax.config.shared import DataConfig, EvaluationConfig, ForgetConfig, LoopConfig, ModelConfig


@dataclasses.dataclass(frozen=True)
class UnlearnSaved:
    """Take a trained model from a finished run or a PyTorch file, delete by one method, attack before and after."""

    experiment: str = "unlearn_saved"
    checkpoint: str = ""
    """The folder of a finished run (unlearning_comparison, unlearning_methods, unlearn_saved or class_unlearning), or a
    file of a network's PyTorch state_dict (.safetensors, .pth or .pt)."""
    checkpoint_model: str = "original"
    """Which of a run's models. What a model other than `original` was to forget stays forgotten. A run of
    class_unlearning keeps its originals alone, `original_0`, `original_1` and so on; `original` is the first of them.
    """
    method: str = "amun"
    """One of those in `mu_jax/unlearning/methods.py`; some forget whole classes alone, those of `forget.classes`."""
    seed: int = 0
    """Draws the method's and the attacks' random numbers; data and splits only where the checkpoint is a file: those of
    a run were drawn by its own seed."""
    data: DataConfig = DataConfig()
    """A run's own, unless its source is to be found elsewhere."""
    forget: ForgetConfig = ForgetConfig()
    """Of the examples that the model was trained on, and that are not deleted already."""
    model: ModelConfig = ModelConfig()
    """A run's own; how it is computed may differ."""
    methods: ClassMethodsConfig = ClassMethodsConfig()
    """Of the method's run, less the crops and mirroring that the run of the checkpoint had not; flags overrule that."""
    neighbours: NeighboursConfig = NeighboursConfig()
    """For methods that need an adversarial set."""
    neighbours_file: str = ""
    """A ready adversarial set (`neighbours.npz` of another folder); `amun_transferred` needs one of another model."""
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
