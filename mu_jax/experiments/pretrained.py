"""The pretrained weights that fine-tuning starts from: of a finished run, of a PyTorch file, or trained here first."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.config import InputError, ModelConfig, TransferUnlearning
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import user_path
from mu_jax.data.random_streams import host_stream
from mu_jax.experiments.saved_checkpoint import SavedRun, read_run, settled_by_run
from mu_jax.experiments.saved_models import load_model
from mu_jax.models import Model, build_model
from mu_jax.models.head import head_of, with_head
from mu_jax.models.pytorch_import import FROM_STATE_DICT, classes_of, load_state_dict

PyTree = Any


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """Weights, and the network that they are of."""

    model: Model
    variables: PyTree
    classes: int
    """its outputs, which fine-tuning replaces"""


def settle(
    config: TransferUnlearning, overrides: Mapping[str, Any]
) -> tuple[TransferUnlearning, SavedRun | None]:
    """(the config with the architecture of the checkpoint's run, that run); as given, and None, for anything else.

    InputError where a setting contradicts the run, or the images would be normalised otherwise than it did.
    """
    wanted = config.pretrained
    if not wanted.checkpoint:
        if wanted.checkpoint_model != "original":
            raise InputError(
                f"pretrained.checkpoint_model is {wanted.checkpoint_model!r}, but pretrained.checkpoint is empty; give "
                "the folder of its run."
            )
        _same_constants(config, wanted.data, "pretrained.data")
        return config, None
    path = user_path(wanted.checkpoint)
    if path.is_file():
        check_can_be_read(config.model, path)
        return config, None
    try:
        run = read_run(path, wanted.checkpoint_model, config.model.module)
    except InputError as error:
        raise InputError(
            str(error).replace("--config.checkpoint", "--config.pretrained.checkpoint")
        ) from None
    _same_constants(config, run.config.data, str(path))
    model = settled_by_run(config, run, "model", overrides)
    pretrained = dataclasses.replace(wanted, checkpoint_model=run.name)
    return dataclasses.replace(config, model=model, pretrained=pretrained), run


def check_can_be_read(model: ModelConfig, path: Any) -> None:
    """InputError unless PyTorch's weights of this architecture can be read."""
    if model.name not in FROM_STATE_DICT:
        raise InputError(
            f"model.name is {model.name!r}, but expected {', '.join(map(repr, FROM_STATE_DICT))}, those whose PyTorch "
            f"weights ({path}) can be read; change one of the two."
        )


def read_pretrained(
    config: TransferUnlearning, run: SavedRun | None, dataset: Dataset, lowering: str
) -> PretrainedWeights | None:
    """The checkpoint's weights, for images of the data at hand; None where there is no checkpoint.

    InputError where they do not fit such images.
    """
    path = user_path(config.pretrained.checkpoint)
    if run is not None:
        variables = load_model(run.folder, run.name, module=config.model.module).variables
        classes = run.results["data"]["classes"]
    elif config.pretrained.checkpoint:
        state_dict = load_state_dict(path)
        classes = classes_of(state_dict)
    else:
        return None
    model = build_model(
        config.model, num_classes=classes, image_shape=dataset.image_shape, convolution=lowering
    )
    like = jax.eval_shape(model.init, jax.random.key(0))
    if run is None:
        return PretrainedWeights(model, FROM_STATE_DICT[config.model.name](state_dict, like), classes)
    shapes, wanted = (jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (variables, like))
    if shapes != wanted:
        raise InputError(
            f"The weights of {run.name!r} in {path} do not fit images of {'×'.join(map(str, dataset.image_shape))}; "
            "give images of the size and channels that it was trained on."
        )
    return PretrainedWeights(model, variables, classes)


def with_new_head(weights: PretrainedWeights, model: Model, num_classes: int, name: str, seed: int) -> PyTree:
    """The pretrained variables with a fresh head of `num_classes` outputs for `model`; all else is shared.

    It starts as a `Linear` does, uniform in ±1/√D, drawn by the seed and the model's name: models of different names
    have different heads, as retrained models have different weights.
    """
    _, kernel, _ = head_of(weights.model, weights.variables["params"])
    draw, bound = host_stream(seed, f"new head of {name}"), kernel.shape[0] ** -0.5
    fresh = draw.uniform(-bound, bound, (kernel.shape[0], num_classes)).astype(np.float32)
    return with_head(
        model, weights.variables, fresh, draw.uniform(-bound, bound, num_classes).astype(np.float32)
    )


def _same_constants(config: TransferUnlearning, theirs: Any, where: str) -> None:
    for key in ("mean", "std"):
        mine, other = getattr(config.data, key), getattr(theirs, key)
        if mine != other:
            raise InputError(
                f"data.{key} is {mine}, but the pretrained weights ({where}) know images normalised by {other}; set "
                f"--config.data.{key}={other}."
            )
