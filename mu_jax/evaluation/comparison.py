"""How far a model that was made to forget still is from one retrained without the data."""

import dataclasses
import math

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What can be seen of a model from outside; fractions in [0, 1]."""

    unlearn_accuracy: float
    """On the examples to forget."""
    retain_accuracy: float
    """On the training examples that stay."""
    test_accuracy: float
    forget_vs_test_auc: float
    """Of an attack that tells forgotten from never-seen examples; ½ where it cannot."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise InputError(
                    f"{name} is {value}, but expected a fraction in [0, 1]; divide percentages by 100."
                )


@dataclasses.dataclass(frozen=True)
class Gap:
    """The mean distance to the retrained model, and what it is the mean of; fractions."""

    gap: float
    parts: dict[str, float]


def gap_to_retrain(model: Behaviour, retrain: Behaviour) -> Gap:
    """The mean absolute difference over unlearn, retain and test accuracy and the forget-against-test AUC.

    Called average gap in AMUN (2025) and Unlearn-Sparse (2023). It weighs both directions alike: a model that
    fails on forgotten examples more often than the retrained one has not forgotten better.
    """
    parts = {
        "unlearn": abs(model.unlearn_accuracy - retrain.unlearn_accuracy),
        "retain": abs(model.retain_accuracy - retrain.retain_accuracy),
        "test": abs(model.test_accuracy - retrain.test_accuracy),
        "forget_vs_test_auc": abs(model.forget_vs_test_auc - retrain.forget_vs_test_auc),
    }
    return Gap(sum(parts.values()) / len(parts), parts)
