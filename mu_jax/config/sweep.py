"""Settings of shadow models by the dozen, and of the attacks that use them."""

import dataclasses

from mu_jax.config.errors import one_of, require
from mu_jax.config.shared import DataConfig, LoopConfig, ModelConfig, OptimizationConfig


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """How many shadow models, who is a member of which, and how they lie on the devices."""

    models: int = 64
    """K. A finished pool grows when the same command is given again with more."""
    membership: str = "half"
    """`half`: each example in exactly half of the models, drawn example by example; `pairs`: models 2j and 2j+1
    are complementary halves; `file`: as `membership_file` says."""
    membership_file: str = ""
    """`file` only: a `.npy` file bool[K,M] of the M candidates, in the order of the data."""
    candidates: str = "train+test"
    """Which examples may be members: `train`, or `train+test`, training examples first. Those set aside by
    `data.validation_fraction` are none."""
    mapping: str = "auto"
    """How the models of a group advance: `auto` (the fastest measured), `map`, `vmap` or `one` on one device, or
    `pmap_map`, `pmap_vmap` or `pmap_one` on all of this process's. Changes bits, as the next two do."""
    devices: int = 0
    """Devices a process uses; 0 leaves it to the mapping. On a CPU they are virtual, one a core."""
    models_per_device: int = 0
    """Models of a group on each device; 0 chooses by the length of a run and the memory there is."""
    memory_gib: float = 0.0
    """Memory that a device may use, in GiB; 0 takes what is free."""
    keep_models: bool = False
    """Keep each model's weights (`checkpoints/`); else only its signals are."""

    def __post_init__(self) -> None:
        require(self.models >= 2, "sweep.models", self.models, "at least 2")
        one_of("sweep.membership", self.membership, ("half", "pairs", "file"))
        require(
            bool(self.membership_file) == (self.membership == "file"),
            "sweep.membership_file",
            self.membership_file,
            "a .npy file with --config.sweep.membership=file"
            if self.membership == "file"
            else f"none with the membership {self.membership!r}",
        )
        one_of("sweep.candidates", self.candidates, ("train", "train+test"))
        one_of(
            "sweep.mapping",
            self.mapping,
            ("auto", "map", "vmap", "one", "pmap_map", "pmap_vmap", "pmap_one"),
        )
        require(self.devices >= 0, "sweep.devices", self.devices, "0 (by the mapping) or a positive number")
        require(
            self.models_per_device >= 0,
            "sweep.models_per_device",
            self.models_per_device,
            "0 (chosen) or a positive number",
        )
        require(self.memory_gib >= 0, "sweep.memory_gib", self.memory_gib, "0 (what is free) or GiB")


@dataclasses.dataclass(frozen=True)
class QueryConfig:
    """Under which views of each image signals are read. The first view is the image as it is."""

    flip: bool = True
    """Read the mirrored image too."""
    shift: int = 0
    """Read the image moved by up to so many pixels, each way; what enters is black."""
    stride: int = 1
    """Pixels from one shift to the next; it divides `shift`. Flip, shift 4 and stride 4 make 18 views."""
    logits: bool = False
    """Store all logits too, not only the true class's margin and probability."""
    batch: int = 0
    """Images in one forward pass; 0 takes 100 on a CPU (whose caches hold no more), else 500."""

    def __post_init__(self) -> None:
        require(self.shift >= 0, "query.shift", self.shift, "0 or a number of pixels")
        require(
            self.stride >= 1 and self.shift % self.stride == 0,
            "query.stride",
            self.stride,
            f"a positive divisor of query.shift, which is {self.shift}",
        )
        require(self.batch >= 0, "query.batch", self.batch, "0 (chosen) or a positive number")


ATTACKS = ("lira", "rmia", "calibrated_loss", "loss")


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """Which attacks models are put to with the help of shadow models; changes no model and no signal."""

    names: tuple[str, ...] = ATTACKS
    """Of `lira`, `rmia`, `calibrated_loss` and `loss`; none of them: no attack at all."""
    modes: tuple[str, ...] = ("online", "offline")
    """LiRA's and RMIA's: `online` has references that were trained on an example beside those that were not, `offline`
    only the latter."""
    variances: tuple[str, ...] = ("per_example", "global")
    """LiRA's: of each example, or one for all, which wins below 64 models."""
    probability: str = "softmax"
    """The probabilities that RMIA compares: `softmax`, or `taylor_softmax` (T = 2, m = 0.6, cut after the cubic term,
    as its paper has it), which needs all logits."""
    gamma: float = 2.0
    """RMIA's γ: how many times as likely as another example an example has to be."""
    offline_a: float = 0.3
    """RMIA's a, by which offline scores guess the mean of the models trained on an example; −1 searches it, by attacks
    on shadow models alone."""
    vote: str = "majority"
    """RMIA's, over several query augmentations: `majority`, comparing pairs, or `mean` of scores, much faster."""
    population: int = 0
    """Of how many of a target's non-members RMIA makes its comparison, drawn by the seed; 0 takes all."""
    targets: int = 0
    """How many shadow models are attacked in turn, the first so many; 0 takes all."""
    fpr: tuple[float, ...] = (0.001, 0.01, 0.1)
    """False-positive rates at which the true-positive rate is reported."""
    bootstrap_samples: int = 500
    """Resamples behind every interval."""
    interval_level: float = 0.95
    """Coverage of the intervals, in (0, 1)."""
    gallery_images: int = 10
    """Most and least exposed examples in the report, each."""

    def __post_init__(self) -> None:
        for key, given, known in (
            ("names", self.names, ATTACKS),
            ("modes", self.modes, ("online", "offline")),
            ("variances", self.variances, ("per_example", "global")),
        ):
            for name in given:
                one_of(f"attack.{key}", name, known)
            require(len(set(given)) == len(given), f"attack.{key}", given, "nothing twice")
            require(bool(given) or key == "names", f"attack.{key}", given, "at least one")
        one_of("attack.probability", self.probability, ("softmax", "taylor_softmax"))
        require(self.gamma > 0, "attack.gamma", self.gamma, "a positive number")
        require(
            0 <= self.offline_a <= 1 or self.offline_a == -1,
            "attack.offline_a",
            self.offline_a,
            "a value in [0, 1], or -1 (searched)",
        )
        one_of("attack.vote", self.vote, ("majority", "mean"))
        require(
            self.population == 0 or self.population >= 2,
            "attack.population",
            self.population,
            "0 (all) or at least 2",
        )
        require(self.targets >= 0, "attack.targets", self.targets, "0 (all) or a positive number")
        require(all(0 <= f <= 1 for f in self.fpr), "attack.fpr", self.fpr, "rates in [0, 1]")
        require(
            self.bootstrap_samples >= 100, "attack.bootstrap_samples", self.bootstrap_samples, "at least 100"
        )
        require(
            0 < self.interval_level < 1, "attack.interval_level", self.interval_level, "a value in (0, 1)"
        )
        require(self.gallery_images >= 1, "attack.gallery_images", self.gallery_images, "at least 1")


@dataclasses.dataclass(frozen=True)
class ShadowSweep:
    """Train many shadow models on halves of the data, many at once, and store their signals on all examples."""

    experiment: str = "shadow_sweep"
    seed: int = 0
    """Draws the membership, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """Each shadow model."""
    sweep: SweepConfig = SweepConfig()
    query: QueryConfig = QueryConfig()
    loop: LoopConfig = LoopConfig(chunk_steps=500)
    """A kill repeats a whole group, so chunks are for progress alone, and longer ones are faster."""
    attack: AttackConfig = AttackConfig()
    """What the finished pool is put to, each model in turn the target and the others its references."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")
