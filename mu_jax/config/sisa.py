"""Settings of SISA: an ensemble in which deleting is cheap, and what an attacker sees of it."""

import dataclasses

from mu_jax.config.errors import one_of, require
from mu_jax.config.shared import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
)


@dataclasses.dataclass(frozen=True)
class SisaConfig:
    """How the examples are cut into shards and slices, and how the shards' models become one answer."""

    shards: int = 10
    """S: isolated models. Under `distribution_aware` the rule finds the number, and this one is not read."""
    slices: int = 20
    """R of each shard: a deletion repeats a shard's training from the slice that held the example."""
    sharding: str = "uniform"
    """`uniform` (drawn by the seed), or `distribution_aware`: examples likely to be deleted lie together."""
    probabilities: str = ""
    """`distribution_aware` only: a `.npy` file float[N] of how likely each training example is to be deleted."""
    capacity: float = 1.0
    """`distribution_aware` only: C, the expected deletions that a shard stays below; in (0, 1]."""
    aggregation: str = "mean_posterior"
    """`mean_posterior`, `majority_vote` or `mean_logits`."""
    mapping: str = "auto"
    """How the shards of a group advance: `auto` (the fastest measured), `map`, `vmap` or `one` on one device, or
    `pmap_map`, `pmap_vmap` or `pmap_one` on all of them. Changes bits, as the next two do."""
    devices: int = 0
    """Devices used; 0 leaves it to the mapping. On a CPU they are virtual, one a core."""
    models_per_device: int = 0
    """Shards of a group on each device; 0 takes as many as there are, as far as memory goes."""

    def __post_init__(self) -> None:
        require(self.shards >= 1, "sisa.shards", self.shards, "a positive number")
        require(self.slices >= 1, "sisa.slices", self.slices, "a positive number")
        one_of("sisa.sharding", self.sharding, ("uniform", "distribution_aware"))
        aware = self.sharding == "distribution_aware"
        require(
            bool(self.probabilities) == aware,
            "sisa.probabilities",
            self.probabilities,
            "a .npy file with --config.sisa.sharding=distribution_aware"
            if aware
            else "none with uniform shards",
        )
        require(0 < self.capacity <= 1, "sisa.capacity", self.capacity, "a value in (0, 1]")
        one_of("sisa.aggregation", self.aggregation, ("mean_posterior", "majority_vote", "mean_logits"))
        one_of(
            "sisa.mapping",
            self.mapping,
            ("auto", "map", "vmap", "one", "pmap_map", "pmap_vmap", "pmap_one"),
        )
        require(self.devices >= 0, "sisa.devices", self.devices, "0 (by the mapping) or a positive number")
        require(
            self.models_per_device >= 0,
            "sisa.models_per_device",
            self.models_per_device,
            "0 (chosen) or a positive number",
        )


@dataclasses.dataclass(frozen=True)
class AdversaryConfig:
    """ML-Leaks' adversaries, who see posteriors alone. Their own images are those of `data.validation_fraction`."""

    classifier: str = "logistic"
    """`logistic`, `forest`, `tree` or `mlp`, fitted on the shadow model's posteriors."""
    top: int = 3
    """How many of the largest posteriors are features; 0 takes all."""
    other_source: str = ""
    """Adversary 2's data, as `data.source`: a shadow model of another task; none where this is empty."""

    def __post_init__(self) -> None:
        one_of("adversary.classifier", self.classifier, ("logistic", "forest", "tree", "mlp"))
        require(self.top >= 0, "adversary.top", self.top, "0 (all) or a positive number")


@dataclasses.dataclass(frozen=True)
class SisaPosterior:
    """One model beside a SISA ensemble: accuracy, cost of deletion, and what posteriors give away before and after."""

    experiment: str = "sisa_posterior"
    seed: int = 0
    """Draws splits, shards, slices, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig(validation_fraction=0.4)
    """Images set aside for validation are the adversary's: half of them trains the shadow models."""
    forget: ForgetConfig = ForgetConfig()
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """The single models; its epochs are e₀ of the ensembles, whose slices have 2e₀/(R + 1) each."""
    sisa: SisaConfig = SisaConfig()
    compare_shards: tuple[int, ...] = (2, 5, 20)
    """Further ensembles, without slices, for the accuracy by number of shards."""
    cost_requests: tuple[int, ...] = (1, 5, 20, 100)
    """Numbers of deletions, drawn at random, whose retraining is counted on the ensemble's own shards and steps."""
    adversary: AdversaryConfig = AdversaryConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
        require(
            self.data.validation_fraction > 0,
            "data.validation_fraction",
            self.data.validation_fraction,
            "a share of the training images for the adversary, such as 0.4",
        )
        for key in ("compare_shards", "cost_requests"):
            values = getattr(self, key)
            require(all(n >= 1 for n in values), key, values, "positive numbers")
            require(len(set(values)) == len(values), key, values, "nothing twice")


@dataclasses.dataclass(frozen=True)
class SisaDelete:
    """Fit a SISA ensemble in a folder, and delete from it on request, again and again."""

    experiment: str = "sisa_delete"
    seed: int = 0
    """Draws shards, slices, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    forget: ForgetConfig = ForgetConfig()
    """What is deleted by this call: `indices`, else `classes`, else nothing: `fraction` is not read."""
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """Its epochs are e₀: each of R slices has 2e₀/(R + 1)."""
    sisa: SisaConfig = SisaConfig()
    keep_measurements: bool = False
    """In a folder of `sisa_posterior`: keep what it measured on the deleted images, and its other models."""
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
