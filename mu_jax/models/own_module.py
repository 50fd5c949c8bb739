"""A user's own flax network as one of ours: called as it wants to be, and looked at before anything is trained."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mu_jax.config import InputError, ModelConfig
from mu_jax.models.model import Model, Variables, check_image_shape, from_module
from mu_jax.models.own_code import load_own
from mu_jax.models.own_convolution import convolutions_lowered

_BATCH = 2  # of the abstract calls; one could hide a batch axis that was squeezed away
_COLLECTIONS = ("params", "batch_stats")


def own_model(
    config: ModelConfig,
    num_classes: int,
    image_shape: tuple[int, int, int],
    convolution: str = "xla",
    compute_dtype: str = "float32",
) -> Model:
    """The network that `config.module` names, called with `num_classes` and what else of these it has a name for.

    That is `width` (the config's), `image_shape` (H,W,D), `lowering` (for `mu_jax.models.layers.Convolution`) and
    `dtype` (what to compute in). What it gives is a `flax.linen` module, which `model_of` takes from there.
    """
    where = f"model.module {config.module!r}"
    make = load_own(config.module)
    if isinstance(make, nn.Module) or not callable(make):
        raise InputError(
            f"{where} is a {type(make).__name__}, but expected a class, or a function that gives a module; name one."
        )
    offered = {
        "num_classes": num_classes,
        "width": config.width,
        "image_shape": tuple(image_shape),
        "lowering": convolution,
        "dtype": jnp.dtype(compute_dtype),
    }
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        parameters = {}
    if "num_classes" not in parameters:
        _refuse_nnx(make, where)
        raise InputError(
            f"{where} takes ({', '.join(parameters)}), but expected num_classes among it, the number of outputs; add "
            "it."
        )
    if compute_dtype != "float32" and "dtype" not in parameters:
        raise InputError(
            f"model.compute_dtype is {compute_dtype!r}, but {where} takes no dtype, so it computes as it likes; give "
            "it a field dtype, or set --config.model.compute_dtype=float32."
        )
    try:
        module = make(**{name: value for name, value in offered.items() if name in parameters})
    except Exception as error:  # the user's code may raise anything
        _refuse_nnx(make, where)
        raise InputError(
            f"{where} cannot be made of {', '.join(name for name in offered if name in parameters)} "
            f"({_reason(error)}); give its other arguments defaults, or correct it."
        ) from error
    return model_of(module, num_classes, image_shape, convolution, where)


def model_of(
    module: Any,
    num_classes: int,
    image_shape: tuple[int, int, int],
    convolution: str = "xla",
    where: str = "The module",
) -> Model:
    """The pure pair of a user's `flax.linen` module, which is called as `module(images[B,H,W,D], train=...)`.

    It gives logits float32[B,C]; its variables are `params`, in float32, and, with batch-norm, `batch_stats`; it draws
    no random numbers in a call. InputError, which begins with `where`, for any other: abstract calls find out, and
    nothing is compiled. Its `nn.Conv` are lowered to `convolution` where that is possible (`own_convolution.py`).
    """
    check_image_shape(image_shape, 1, "the module")
    _refuse_nnx(module, where)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{where} gives a {type(module).__name__}, but expected a flax.linen module; return one."
        )
    parameters = inspect.signature(module.__call__).parameters
    takes_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if "train" not in parameters and not takes_more:
        raise InputError(
            f"{where} is called with ({', '.join(parameters)}), but expected (images, *, train): `train` tells "
            "batch-norm which moments to take; add it, used or not."
        )
    model = _lowered(from_module(module, tuple(image_shape)), convolution)
    _check(module, num_classes, tuple(image_shape), where)
    return model


def _lowered(model: Model, lowering: str) -> Model:
    def apply(variables: Variables, images: Array | np.ndarray, *, train: bool) -> tuple[Array, Any]:
        with convolutions_lowered(lowering):
            return model.apply(variables, images, train=train)

    def inputs(
        variables: Variables, images: Array | np.ndarray, *, train: bool
    ) -> tuple[Array, Any, dict[str, Array]]:
        with convolutions_lowered(lowering):
            return model.inputs(variables, images, train=train)

    return Model(model.init, apply, model.layers, inputs)


def _check(module: nn.Module, num_classes: int, image_shape: tuple[int, int, int], where: str) -> None:
    images = jax.ShapeDtypeStruct((_BATCH, *image_shape), jnp.float32)
    variables = _abstractly(
        lambda: jax.eval_shape(lambda key, x: module.init(key, x, train=False), jax.random.key(0), images),
        where,
        image_shape,
    )
    if more := sorted(set(variables) - set(_COLLECTIONS)):
        raise InputError(
            f"{where} has variables of the kind {more[0]!r}, but expected params and batch_stats alone; keep nothing "
            "else."
        )
    if not jax.tree.leaves(variables.get("params", {})):
        raise InputError(f"{where} has no parameters, but expected some to train; add a layer.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if leaf.dtype != jnp.float32:
            raise InputError(
                f"{where} keeps {jax.tree_util.keystr(path)} in {leaf.dtype}, but expected float32 whatever it "
                "computes in; set param_dtype=jnp.float32."
            )
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    for train in (False, True):
        logits, batch_stats = _abstractly(
            lambda train=train: jax.eval_shape(
                lambda v, x: _raw(module, v, x, train=train), variables, images
            ),
            where,
            image_shape,
        )
        shape = getattr(logits, "shape", None)
        if shape != (_BATCH, num_classes):
            raise InputError(
                f"{where} gives {type(logits).__name__ if shape is None else f'an output of shape {shape}'} for a "
                f"batch of {_BATCH} images, but expected logits of shape ({_BATCH}, {num_classes}), one a class; end "
                "in nn.Dense(num_classes)."
            )
        if logits.dtype != jnp.float32:
            raise InputError(
                f"{where} gives logits in {logits.dtype}, but expected float32; end in .astype(jnp.float32)."
            )
        if jax.tree.structure(batch_stats) != jax.tree.structure(variables["batch_stats"]):
            raise InputError(
                f"{where} has other batch_stats after a step than before, but expected the same; make all of them at "
                "once."
            )


def _raw(module: nn.Module, variables: Variables, images: Array, *, train: bool) -> tuple[Any, Any]:
    """As `Model.apply`, with whatever the module gives."""
    if not train:
        return module.apply(variables, images, train=False), variables["batch_stats"]
    logits, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
    return logits, updated.get("batch_stats", {})


def _abstractly(call: Callable[[], Any], where: str, image_shape: tuple[int, int, int]) -> Any:
    try:
        return call()
    except flax.errors.InvalidRngError as error:
        raise InputError(
            f"{where} draws random numbers when it is called ({_reason(error)}), but a training step gives none; leave "
            "dropout and the like out."
        ) from error
    except Exception as error:  # the user's code may raise anything
        shape = "×".join(map(str, image_shape))
        raise InputError(f"{where} fails on images of {shape} ({_reason(error)}); correct it.") from error


def _refuse_nnx(made: Any, where: str) -> None:
    # Whoever made one has imported it; to ask costs nothing then.
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and (
        isinstance(made, nnx.Module) or (isinstance(made, type) and issubclass(made, nnx.Module))
    ):
        raise InputError(
            f"{where} is a flax.nnx module, which holds its own weights, but many models train by one function of "
            "weights here; write it as a flax.linen module."
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
