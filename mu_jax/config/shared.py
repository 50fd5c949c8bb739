"""Settings that several experiments share: data, forget set, model, optimization, loop, evaluation."""

import dataclasses
import math

from mu_jax.config.errors import one_of, require


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and which of them are used."""

    source: str = "digits"
    """Images: `digits`, `npz:FILE`, `cifar:FOLDER`, `folder:PATH`, `tfds:NAME` or
    `synthetic:H,W,D,CLASSES,TRAIN,TEST`. Tables, for experiments that take them: `csv:FILE`, `npz:FILE`,
    `breast_cancer` or `wine`."""
    label: str = "label"
    """`csv` only: the column that holds the classes."""
    classes: tuple[int, ...] = ()
    """Keep the examples of these classes alone, which become 0, 1, ... in this order; empty keeps all as they are."""
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
    """Subtracted from pixels in [0, 1], or from a table's values as they are: one value, or one a channel or column. A
    constant: statistics of the data would remember deleted images."""
    std: tuple[float, ...] = (0.25,)
    """Divides what was centred: one value, or one a channel or column."""

    def __post_init__(self) -> None:
        require(
            len(set(self.classes)) == len(self.classes) != 1,
            "data.classes",
            self.classes,
            "none (all classes), or at least two, and none twice",
        )
        require(
            self.train_examples >= 0,
            "data.train_examples",
            self.train_examples,
            "0 (all) or a positive number",
        )
        require(
            self.test_examples >= 0, "data.test_examples", self.test_examples, "0 (all) or a positive number"
        )
        require(
            0 <= self.validation_fraction < 1,
            "data.validation_fraction",
            self.validation_fraction,
            "a value in [0, 1)",
        )
        require(0 <= self.label_noise < 1, "data.label_noise", self.label_noise, "a value in [0, 1)")
        require(self.image_size >= 0, "data.image_size", self.image_size, "0 (as stored) or a side in pixels")
        require(len(self.mean) >= 1, "data.mean", self.mean, "one value, or one a channel")
        require(len(self.std) >= 1 and min(self.std) > 0, "data.std", self.std, "positive values")


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
        require(0 < self.fraction < 1, "forget.fraction", self.fraction, "a value in (0, 1)")
        require(len(set(self.classes)) == len(self.classes), "forget.classes", self.classes, "no class twice")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The classifier's architecture."""

    name: str = "resnet18"
    """`resnet18`, `vgg11`, `vgg16`, `vgg19` (with batch-norm), `vit`, `cnn`, `mlp`, `logistic_regression`; or `own`,
    the network that `module` names."""
    module: str = ""
    """`own` only: `FILE.py:NAME` or `package.module:NAME`, a flax.linen class or a function that gives such a module
    (`mu_jax/models/own_module.py` says what it is called with). Its code is run."""
    width: int = 64
    """Channels of ResNet-18's first stage, of VGG's first block or of the CNN's first layer, the ViT's embedding, or
    hidden units of the MLP; an own network's, if it has a field of this name."""
    halve_shortcut: bool = False
    """ResNet only: blocks with a projection shortcut halve the sum of both branches before the ReLU, as AMUN and
    FastClip do."""
    norm: str = "batch"
    """ResNet only: `batch`; `group`, of each image by itself, as DP-SGD needs; or `none`, where convolutions have
    biases instead."""
    patch_size: int = 4
    """ViT only: side in pixels of the square patches that images are cut into; it divides the images' sides."""
    depth: int = 6
    """ViT only: how many blocks of attention and MLP."""
    heads: int = 4
    """ViT only: attention heads of each block; they share `width` evenly."""
    compute_dtype: str = "float32"
    """`float32` or `bfloat16`; parameters and the signals that attacks read are float32 either way."""
    convolution: str = "auto"
    """How convolutions are lowered: `auto` (the fastest measured), `xla`, `patches` or `winograd`."""

    def __post_init__(self) -> None:
        one_of(
            "model.name",
            self.name,
            ("resnet18", "vgg11", "vgg16", "vgg19", "vit", "cnn", "mlp", "logistic_regression", "own"),
        )
        require(
            bool(self.module) == (self.name == "own"),
            "model.module",
            self.module,
            "FILE.py:NAME where model.name is 'own'"
            if self.name == "own"
            else f"nothing where model.name is {self.name!r} (own networks have --config.model.name=own)",
        )
        require(self.width >= 1, "model.width", self.width, "a positive number")
        one_of("model.norm", self.norm, ("batch", "group", "none"))
        require(self.patch_size >= 1, "model.patch_size", self.patch_size, "a positive number of pixels")
        require(self.depth >= 1, "model.depth", self.depth, "a positive number")
        require(
            self.heads >= 1 and (self.name != "vit" or self.width % self.heads == 0),
            "model.heads",
            self.heads,
            f"a divisor of model.width, which is {self.width}" if self.name == "vit" else "a positive number",
        )
        one_of("model.compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        one_of("model.convolution", self.convolution, ("auto", "xla", "patches", "winograd"))


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
        require(math.isfinite(self.epochs) and self.epochs > 0, "epochs", self.epochs, "a positive number")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a positive number")
        one_of("optimizer", self.optimizer, ("sgd", "adam", "adamw"))
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "a value in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or a positive number")
        one_of("schedule", self.schedule, ("constant", "step", "cosine", "fixmatch"))
        require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "0 or a positive number")
        require(self.step_epochs > 0, "step_epochs", self.step_epochs, "a positive number")
        require(self.step_factor > 0, "step_factor", self.step_factor, "a positive number")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "a value in [0, 1)")
        require(self.crop_padding >= 0, "crop_padding", self.crop_padding, "0 or a number of pixels")


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How a run is cut into compiled chunks; changes no result beyond where a killed run resumes."""

    chunk_steps: int = 100
    """Steps in one compiled chunk; a checkpoint follows each, so a kill loses at most so many steps."""

    def __post_init__(self) -> None:
        require(self.chunk_steps >= 1, "loop.chunk_steps", self.chunk_steps, "a positive number")


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
        require(self.query_batch >= 1, "evaluation.query_batch", self.query_batch, "a positive number")
        require(
            self.bootstrap_samples >= 100,
            "evaluation.bootstrap_samples",
            self.bootstrap_samples,
            "at least 100",
        )
        require(
            0 < self.interval_level < 1, "evaluation.interval_level", self.interval_level, "a value in (0, 1)"
        )
        require(all(0 <= f <= 1 for f in self.fpr), "evaluation.fpr", self.fpr, "rates in [0, 1]")
        require(self.attack_splits >= 2, "evaluation.attack_splits", self.attack_splits, "at least 2")
        require(self.gallery_images >= 1, "evaluation.gallery_images", self.gallery_images, "at least 1")
