"""Settings of the experiment that attacks pairs of models: one from before a deletion, one from after it."""

import dataclasses

from mu_jax.config.errors import one_of, require
from mu_jax.config.methods import MethodsConfig, NeighboursConfig
from mu_jax.config.shared import DataConfig, EvaluationConfig, LoopConfig, ModelConfig, OptimizationConfig

FEATURES = ("direct_concat", "sorted_concat", "direct_difference", "sorted_difference", "l2")
CLASSIFIERS = ("logistic_regression", "decision_tree", "random_forest", "mlp")
SCENARIOS = ("single", "group", "intermediates", "online", "remaining")
SHARES = ("nothing", "start")


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """A kind of model under attack, as a row of `leaks.targets` changes it."""

    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()


@dataclasses.dataclass(frozen=True)
class LeaksConfig:
    """Which pairs there are, and how they are attacked."""

    originals: int = 10
    """Original models of each side, shadow and target; each learns examples of its own."""
    unlearned: int = 20
    """Unlearned models that each original has in the scenario `single`; pairs that each has in the others."""
    training_examples: int = 2000
    """That an original learns, drawn from its side's members."""
    targets: tuple[str, ...] = ("cnn",)
    """Kinds of models: `cnn`, `resnet18`, `mlp`, `logistic_regression`, `decision_tree`, … by themselves or with
    settings of their own behind a colon, as `cnn:train.epochs=60.0,model.width=32`."""
    methods: tuple[str, ...] = ("retrain",)
    """How a deletion is carried out: `retrain`, `sisa`, or any method of `mu_jax/unlearning/methods.py`."""
    shares: tuple[str, ...] = ("nothing",)
    """What a retrained model has in common with its original: `nothing` (a real retraining), or `start`: initial
    weights, augmentation and order of batches, another example in each deleted one's place."""
    scenarios: tuple[str, ...] = ("single",)
    """`single`: one example is deleted; `group`: k at once; `intermediates`: one after another, and the attacker holds
    two of the models at random; `online`: k are deleted and k others learned; `remaining`: the members asked about are
    in both models."""
    group_sizes: tuple[int, ...] = (10,)
    """k of `group`."""
    intermediates: tuple[int, ...] = (5,)
    """Deletions, one after another, in `intermediates`."""
    online_sizes: tuple[int, ...] = (10,)
    """k of `online`."""
    sisa_shards: int = 10
    """Of an original under `sisa`; one slice, mean posterior."""
    features: tuple[str, ...] = FEATURES
    """How a pair's posteriors become what the attacker's classifier reads."""
    classifiers: tuple[str, ...] = CLASSIFIERS
    """The attacker's, by scikit-learn."""
    defenses: tuple[str, ...] = ("none",)
    """What is released or trained in place: `none`, `top_k:k=3`, `label_only`, `temperature:t=4.0`,
    `dp_sgd:noise_multiplier=1.2,clip_norm=1.0`; shadow models have it too."""
    other_source: str = ""
    """Another source of data with as many classes, whose models train the attacker for transfer; empty: none."""
    models_per_device: int = 0
    """That train together on one device; 0 takes what suits the backend and fits into memory."""

    def __post_init__(self) -> None:
        require(
            self.originals >= 2,
            "leaks.originals",
            self.originals,
            "at least 2, because intervals resample originals",
        )
        require(self.unlearned >= 1, "leaks.unlearned", self.unlearned, "a positive number")
        require(self.training_examples >= 2, "leaks.training_examples", self.training_examples, "at least 2")
        for key, known in (
            ("scenarios", SCENARIOS),
            ("shares", SHARES),
            ("features", FEATURES),
            ("classifiers", CLASSIFIERS),
        ):
            values = getattr(self, key)
            for value in values:
                one_of(f"leaks.{key}", value, known)
        for key in ("targets", "methods", "shares", "scenarios", "features", "classifiers", "defenses"):
            values = getattr(self, key)
            require(
                len(values) > 0 and len(set(values)) == len(values),
                f"leaks.{key}",
                values,
                "one entry or more, none twice",
            )
        for key in ("group_sizes", "intermediates", "online_sizes"):
            values = getattr(self, key)
            require(
                all(1 <= value < self.training_examples for value in values)
                and len(set(values)) == len(values),
                f"leaks.{key}",
                values,
                "positive numbers below leaks.training_examples, none twice",
            )
        require(self.sisa_shards >= 2, "leaks.sisa_shards", self.sisa_shards, "at least 2")
        require(
            self.models_per_device >= 0,
            "leaks.models_per_device",
            self.models_per_device,
            "0 (chosen) or a positive number",
        )


@dataclasses.dataclass(frozen=True)
class UnlearningLeaks:
    """Train pairs of models in bulk, and attack those of the target side by those of the shadow side."""

    experiment: str = "unlearning_leaks"
    seed: int = 0
    """Draws the sides, the deletions, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig(name="cnn", width=16)
    """What a row of `leaks.targets` changes; its name is the row's."""
    train: OptimizationConfig = OptimizationConfig()
    """What a row of `leaks.targets` changes."""
    leaks: LeaksConfig = LeaksConfig()
    methods: MethodsConfig = MethodsConfig()
    """Of the unlearning methods among `leaks.methods`."""
    neighbours: NeighboursConfig = NeighboursConfig()
    """How AMUN's adversarial sets are made."""
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
