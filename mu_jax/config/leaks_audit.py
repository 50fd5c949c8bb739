"""Settings of an audit of posteriors from before and after a deletion, which any framework produced."""

import dataclasses

from mu_jax.config.errors import one_of, require
from mu_jax.config.leaks import CLASSIFIERS, FEATURES
from mu_jax.config.shared import EvaluationConfig


@dataclasses.dataclass(frozen=True)
class LeaksAudit:
    """Which files are attacked, and how; flags of `mu_jax.audit` have the same names."""

    before: str
    """An `.npz` file of what models say of examples before a deletion (see `experiments/leaks_audit_files.py`)."""
    after: str
    """The same examples in the same order, asked of the models after it."""
    seed: int = 0
    """Draws the resamples behind the intervals, the halves that choose an attack, and what classifiers draw."""
    features: tuple[str, ...] = FEATURES
    """How a pair's posteriors become what a classifier reads."""
    classifiers: tuple[str, ...] = CLASSIFIERS
    """scikit-learn's, which learn on the shadow pairs."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Of it `fpr`, `bootstrap_samples` and `interval_level`."""
    experiment: str = "leaks_audit"

    def __post_init__(self) -> None:
        for key, values, known in (
            ("features", self.features, FEATURES),
            ("classifiers", self.classifiers, CLASSIFIERS),
        ):
            for value in values:
                one_of(f"audit.{key}", value, known)
            require(
                bool(values) and len(set(values)) == len(values),
                f"audit.{key}",
                values,
                "one entry or more, none twice",
            )
        require(0 <= self.seed < 2**31, "audit.seed", self.seed, "a number in [0, 2³¹)")
