"""Every setting of every experiment: its default, its unit and its check.

Config files (`configs/*.py`) hold an `ml_collections.ConfigDict` made by `default_config`, so that flags can
override any key; `from_config_dict` turns it into the frozen dataclasses below, and nothing further inside ever
sees a ConfigDict. The checks run when a dataclass is made, so a bad value never reaches an experiment.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from typing import Any

import ml_collections


class InputError(ValueError):
    """Bad input from outside: the message is one sentence saying what was got, what was expected, and the fix."""


def _require(condition: bool, key: str, got: object, expected: str) -> None:
    if not condition:
        raise InputError(f"{key} is {got!r}, but expected {expected}; change it with --config.{key}=VALUE.")


def _one_of(key: str, got: str, choices: tuple[str, ...]) -> None:
    close = difflib.get_close_matches(str(got), choices, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close and got not in choices else ""
    _require(got in choices, key, got, "one of " + ", ".join(choices) + hint)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and which of them are used."""

    source: str = "digits"
    """`digits`, `npz:FILE`, `cifar:FOLDER`, `folder:PATH`, `tfds:NAME` or `synthetic:H,W,D,CLASSES,TRAIN,TEST`."""
    train_examples: int = 0
    """Keep this many training examples, drawn at random by the seed; 0 keeps all."""
    test_examples: int = 0
    """Keep this many test examples, drawn at random by the seed; 0 keeps all."""
    validation_fraction: float = 0.0
    """Share of the training examples set aside for validation, in [0, 1)."""
    label_noise: float = 0.0
    """Probability that a label, of training and test examples alike, becomes another class; in [0, 1)."""
    image_size: int = 0
    """Side in pixels that `folder` and `tfds` images are resized to; 0 keeps their own size."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from pixels in [0, 1]: one value, or one a channel. A constant: statistics of the data would
    remember deleted images."""
    std: tuple[float, ...] = (0.25,)
    """Divides the centred pixels: one value, or one a channel."""

    def __post_init__(self) -> None:
        _require(
            self.train_examples >= 0,
            "data.train_examples",
            self.train_examples,
            "0 (all) or a positive number",
        )
        _require(
            self.test_examples >= 0, "data.test_examples", self.test_examples, "0 (all) or a positive number"
        )
        _require(
            0 <= self.validation_fraction < 1,
            "data.validation_fraction",
            self.validation_fraction,
            "a value in [0, 1)",
        )
        _require(0 <= self.label_noise < 1, "data.label_noise", self.label_noise, "a value in [0, 1)")
        _require(
            self.image_size >= 0, "data.image_size", self.image_size, "0 (as stored) or a side in pixels"
        )
        _require(len(self.mean) >= 1, "data.mean", self.mean, "one value, or one a channel")
        _require(len(self.std) >= 1 and min(self.std) > 0, "data.std", self.std, "positive values")


@dataclasses.dataclass(frozen=True)
class ForgetConfig:
    """Which training examples are deleted: `indices` where given, else `classes` where given, else `fraction`."""

    fraction: float = 0.1
    """Share of the training examples, drawn at random by the seed; in (0, 1)."""
    classes: tuple[int, ...] = ()
    """Delete all training examples of these classes."""
    indices: str = ""
    """A `.npy` file of integer positions in the training set, after `data.train_examples` has cut it to size (which
    keeps the order, but draws by the seed: keep all examples where positions must mean the same under any seed)."""

    def __post_init__(self) -> None:
        _require(0 < self.fraction < 1, "forget.fraction", self.fraction, "a value in (0, 1)")
        _require(
            len(set(self.classes)) == len(self.classes), "forget.classes", self.classes, "no class twice"
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The classifier's architecture."""

    name: str = "resnet18"
    """`resnet18`, `cnn` or `mlp`."""
    width: int = 64
    """Channels of ResNet-18's first stage, of the CNN's first layer, or hidden units of the MLP."""
    halve_shortcut: bool = False
    """ResNet only: blocks with a projection shortcut halve the sum of both branches before the ReLU, as AMUN and
    FastClip do."""
    compute_dtype: str = "float32"
    """`float32` or `bfloat16`; parameters and the signals that attacks read are float32 either way."""
    convolution: str = "auto"
    """How convolutions are lowered: `auto` (the fastest measured), `xla`, `patches` or `winograd`."""

    def __post_init__(self) -> None:
        _one_of("model.name", self.name, ("resnet18", "cnn", "mlp"))
        _require(self.width >= 1, "model.width", self.width, "a positive number")
        _one_of("model.compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        _one_of("model.convolution", self.convolution, ("auto", "xla", "patches", "winograd"))


@dataclasses.dataclass(frozen=True)
class OptimizationConfig:
    """One run of gradient descent."""

    epochs: float = 30.0
    """Passes over the run's examples."""
    batch_size: int = 64
    optimizer: str = "sgd"
    """`sgd` (with momentum), `adam` (weight decay added to the gradient) or `adamw` (decoupled weight decay)."""
    learning_rate: float = 0.1
    """The peak, after warm-up, per step; not scaled by the batch size."""
    momentum: float = 0.9
    """Of SGD, in [0, 1)."""
    nesterov: bool = False
    weight_decay: float = 5e-4
    """Coefficient λ of λ·θ in the update."""
    decay_norm_and_bias: bool = True
    """Whether batch-norm's scales and biases, and all other biases, decay as well (PyTorch's default is yes)."""
    schedule: str = "cosine"
    """`constant`, `step`, `cosine` (to zero) or `fixmatch` (η·cos(7πt/16T), which LiRA's public code uses)."""
    warmup_epochs: float = 0.0
    """Linear rise of the learning rate from 0."""
    step_epochs: float = 40.0
    """`step` only: the learning rate is multiplied by `step_factor` every so many epochs."""
    step_factor: float = 0.1
    schedule_by_epoch: bool = False
    """Hold the learning rate within an epoch, as PyTorch loops that call `scheduler.step()` once an epoch do."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in [0, 1)."""
    crop_padding: int = 0
    """Pixels of zero padding before a random crop back to size; 0 turns cropping off."""
    flip: bool = False
    """Mirror each image left to right with probability one half."""

    def __post_init__(self) -> None:
        _require(math.isfinite(self.epochs) and self.epochs > 0, "epochs", self.epochs, "a positive number")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "a positive number")
        _one_of("optimizer", self.optimizer, ("sgd", "adam", "adamw"))
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "a value in [0, 1)")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or a positive number")
        _one_of("schedule", self.schedule, ("constant", "step", "cosine", "fixmatch"))
        _require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "0 or a positive number")
        _require(self.step_epochs > 0, "step_epochs", self.step_epochs, "a positive number")
        _require(self.step_factor > 0, "step_factor", self.step_factor, "a positive number")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "a value in [0, 1)")
        _require(self.crop_padding >= 0, "crop_padding", self.crop_padding, "0 or a number of pixels")


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How a run is cut into compiled chunks; changes no result beyond where a killed run resumes."""

    chunk_steps: int = 100
    """Steps in one compiled chunk; a checkpoint follows each, so a kill loses at most so many steps."""

    def __post_init__(self) -> None:
        _require(self.chunk_steps >= 1, "loop.chunk_steps", self.chunk_steps, "a positive number")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How models are queried and compared."""

    query_batch: int = 500
    """Images in one forward pass when signals are computed."""
    bootstrap_samples: int = 1000
    """Resamples behind every interval."""
    interval_level: float = 0.95
    """Coverage of the intervals, in (0, 1)."""
    fpr: tuple[float, ...] = (0.001, 0.01, 0.1)
    """False-positive rates at which the true-positive rate is reported."""
    attack_splits: int = 10
    """Stratified shuffle splits of the challenge kit's loss attack."""
    gallery_images: int = 24
    """Forgotten images shown in the report."""

    def __post_init__(self) -> None:
        _require(self.query_batch >= 1, "evaluation.query_batch", self.query_batch, "a positive number")
        _require(
            self.bootstrap_samples >= 100,
            "evaluation.bootstrap_samples",
            self.bootstrap_samples,
            "at least 100",
        )
        _require(
            0 < self.interval_level < 1, "evaluation.interval_level", self.interval_level, "a value in (0, 1)"
        )
        _require(all(0 <= f <= 1 for f in self.fpr), "evaluation.fpr", self.fpr, "rates in [0, 1]")
        _require(self.attack_splits >= 2, "evaluation.attack_splits", self.attack_splits, "at least 2")
        _require(self.gallery_images >= 1, "evaluation.gallery_images", self.gallery_images, "at least 1")


@dataclasses.dataclass(frozen=True)
class UnlearningComparison:
    """Train, delete by each method, retrain without the data (twice), attack all of them, compare."""

    experiment: str = "unlearning_comparison"
    seed: int = 0
    """Draws the data split, the forget set, initial weights, batches and augmentation."""
    data: DataConfig = DataConfig()
    forget: ForgetConfig = ForgetConfig()
    model: ModelConfig = ModelConfig()
    train: OptimizationConfig = OptimizationConfig()
    """The original model, and both retrained ones."""
    finetune: OptimizationConfig = OptimizationConfig(epochs=5.0)
    """Fine-tuning on the retained examples."""
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")


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
        _require(self.models >= 2, "sweep.models", self.models, "at least 2")
        _one_of("sweep.membership", self.membership, ("half", "pairs", "file"))
        _require(
            bool(self.membership_file) == (self.membership == "file"),
            "sweep.membership_file",
            self.membership_file,
            "a .npy file with --config.sweep.membership=file"
            if self.membership == "file"
            else f"none with the membership {self.membership!r}",
        )
        _one_of("sweep.candidates", self.candidates, ("train", "train+test"))
        _one_of(
            "sweep.mapping",
            self.mapping,
            ("auto", "map", "vmap", "one", "pmap_map", "pmap_vmap", "pmap_one"),
        )
        _require(self.devices >= 0, "sweep.devices", self.devices, "0 (by the mapping) or a positive number")
        _require(
            self.models_per_device >= 0,
            "sweep.models_per_device",
            self.models_per_device,
            "0 (chosen) or a positive number",
        )
        _require(self.memory_gib >= 0, "sweep.memory_gib", self.memory_gib, "0 (what is free) or GiB")


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
        _require(self.shift >= 0, "query.shift", self.shift, "0 or a number of pixels")
        _require(
            self.stride >= 1 and self.shift % self.stride == 0,
            "query.stride",
            self.stride,
            f"a positive divisor of query.shift, which is {self.shift}",
        )
        _require(self.batch >= 0, "query.batch", self.batch, "0 (chosen) or a positive number")


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
                _one_of(f"attack.{key}", name, known)
            _require(len(set(given)) == len(given), f"attack.{key}", given, "nothing twice")
            _require(bool(given) or key == "names", f"attack.{key}", given, "at least one")
        _one_of("attack.probability", self.probability, ("softmax", "taylor_softmax"))
        _require(self.gamma > 0, "attack.gamma", self.gamma, "a positive number")
        _require(
            0 <= self.offline_a <= 1 or self.offline_a == -1,
            "attack.offline_a",
            self.offline_a,
            "a value in [0, 1], or -1 (searched)",
        )
        _one_of("attack.vote", self.vote, ("majority", "mean"))
        _require(
            self.population == 0 or self.population >= 2,
            "attack.population",
            self.population,
            "0 (all) or at least 2",
        )
        _require(self.targets >= 0, "attack.targets", self.targets, "0 (all) or a positive number")
        _require(all(0 <= f <= 1 for f in self.fpr), "attack.fpr", self.fpr, "rates in [0, 1]")
        _require(
            self.bootstrap_samples >= 100, "attack.bootstrap_samples", self.bootstrap_samples, "at least 100"
        )
        _require(
            0 < self.interval_level < 1, "attack.interval_level", self.interval_level, "a value in (0, 1)"
        )
        _require(self.gallery_images >= 1, "attack.gallery_images", self.gallery_images, "at least 1")


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
        _require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2³¹)")


EXPERIMENTS: Mapping[str, type] = types.MappingProxyType(
    {"unlearning_comparison": UnlearningComparison, "shadow_sweep": ShadowSweep}
)


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain dicts, lists and scalars, ready for JSON."""
    return {
        key: to_dict(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in vars(config).items()
    }


def default_config(experiment: str) -> ml_collections.ConfigDict:
    """All settings of an experiment at their defaults, for a config file to change and flags to override."""
    _one_of("experiment", experiment, tuple(EXPERIMENTS))

    def build(dataclass: Any) -> ml_collections.ConfigDict:
        fields = vars(dataclass).items()
        return ml_collections.ConfigDict(
            {k: build(v) if dataclasses.is_dataclass(v) else v for k, v in fields}
        )

    return build(EXPERIMENTS[experiment]()).lock()


def from_config_dict(values: Mapping[str, Any]) -> Any:
    """The experiment's frozen dataclass; an unknown key or a value of the wrong type is an InputError."""
    experiment = values.get("experiment")
    _one_of("experiment", experiment, tuple(EXPERIMENTS))
    return _build(EXPERIMENTS[experiment], values, prefix="")


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = (
                f"did you mean {prefix + close[0]!r}?"
                if close
                else "known here: " + ", ".join(sorted(fields)) + "."
            )
            raise InputError(f"{prefix + key!r} is not a setting; {hint}")
    built = {key: _convert(fields[key], value, prefix + key) for key, value in values.items()}
    try:
        return cls(**built)
    except InputError as error:
        # Checks of a dataclass that stands in several places name their key without the place.
        message = str(error)
        raise InputError(message if message.startswith(prefix) else _with_prefix(message, prefix)) from None


def _with_prefix(message: str, prefix: str) -> str:
    return prefix + message.replace("--config.", "--config." + prefix, 1)


def _convert(field: dataclasses.Field, value: Any, key: str) -> Any:
    default = field.default
    if dataclasses.is_dataclass(default):
        if not isinstance(value, Mapping):
            raise InputError(
                f"{key} is {value!r}, but expected a group of settings; change one of its keys instead."
            )
        return _build(type(default), value, key + ".")
    if isinstance(default, tuple):
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            value = (value,)
        # Of an empty default the elements' type cannot be seen: those are lists of classes.
        kind = type(default[0]) if default else int
        return tuple(_scalar(item, kind, key) for item in value)
    return _scalar(value, type(default), key)


def _scalar(value: Any, kind: type, key: str) -> Any:
    integral = isinstance(value, int) and not isinstance(value, bool)
    if (kind is float and (integral or isinstance(value, float))) or (kind is int and integral):
        _require(math.isfinite(value), key, value, "a finite number")
        return kind(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise InputError(
        f"{key} is {value!r}, but expected a value of type {kind.__name__}; change it with --config.{key}=VALUE."
    )


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str | None:
    """One sentence naming the first key in which two resolved configs differ, or None where none does."""
    for key in list(new) + [key for key in old if key not in new]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            inner = first_difference(a, b, f"{prefix}{key}.")
            if inner:
                return inner
        elif a != b:
            return f"{prefix}{key} was {a!r} and is now {b!r}"
    return None


def unknown_variant(variant: str, known: tuple[str, ...]) -> None:
    """Refuse the part after the colon of `--config=FILE.py:VARIANT`; config files call it last."""
    close = difflib.get_close_matches(variant, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(known)}, or none."
    raise InputError(f"The config has no variant {variant!r}; {hint}")
