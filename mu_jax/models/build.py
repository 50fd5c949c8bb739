"""From the config's words to a model."""

from mu_jax.config import InputError, ModelConfig
from mu_jax.models.cnn import cnn_model
from mu_jax.models.mlp import mlp_model
from mu_jax.models.model import Model
from mu_jax.models.own_module import own_model
from mu_jax.models.resnet import resnet18_model
from mu_jax.models.vgg import vgg_model
from mu_jax.models.vit import vit_model
from mu_jax.ops import LOWERINGS


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    convolution: str | None = None,
    compute_dtype: str | None = None,
) -> Model:
    """The model that `config` names, for images of `image_shape` = (H, W, D) and `num_classes` classes.

    `convolution` (one of `mu_jax.ops.LOWERINGS`) and `compute_dtype` (`float32` or `bfloat16`) replace the config's
    where given: the shell resolves `auto` once and records it, and signals are read in float32 whatever
    training used.
    """
    convolution = config.convolution if convolution is None else convolution
    compute_dtype = config.compute_dtype if compute_dtype is None else compute_dtype
    if convolution == "auto":
        raise InputError(
            f"The convolution is still 'auto', but building a model needs one of {', '.join(LOWERINGS)}; resolve "
            "it first with mu_jax.ops.choose_lowering."
        )
    _one_of("convolution", convolution, LOWERINGS)
    _one_of("compute_dtype", compute_dtype, ("float32", "bfloat16"))
    if num_classes < 2:
        raise InputError(
            f"num_classes is {num_classes}, but a classifier needs at least 2; check the labels."
        )

    if config.module:
        return own_model(config, num_classes, image_shape, convolution, compute_dtype)
    if config.name == "resnet18":
        return resnet18_model(
            config.width,
            num_classes,
            image_shape,
            config.halve_shortcut,
            convolution,
            compute_dtype,
            config.norm,
        )
    if config.name in ("vgg11", "vgg16", "vgg19"):
        depth = int(config.name.removeprefix("vgg"))
        return vgg_model(depth, config.width, num_classes, image_shape, convolution, compute_dtype)
    if config.name == "vit":
        return vit_model(
            config.width,
            num_classes,
            image_shape,
            config.patch_size,
            config.depth,
            config.heads,
            compute_dtype,
        )
    if config.name == "cnn":
        return cnn_model(config.width, num_classes, image_shape, convolution, compute_dtype)
    hidden = () if config.name == "logistic_regression" else (config.width, config.width)
    return mlp_model(hidden, num_classes, image_shape, compute_dtype)


def _one_of(name: str, got: str, choices: tuple[str, ...]) -> None:
    if got not in choices:
        raise InputError(f"{name} is {got!r}, but expected one of {', '.join(choices)}; pass one of these.")
