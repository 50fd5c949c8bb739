"""The model whose layers are measured: one of a finished run, or a PyTorch file's."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from mu_jax.config import (
    ImportCheckpoint,
    InputError,
    ModelConfig,
    ShadowSweep,
    SmoothAmun,
    Spectra,
    TransferUnlearning,
    UnlearningComparison,
    UnlearningMethods,
    UnlearnSaved,
    from_config_dict,
)
from mu_jax.data.files import user_path
from mu_jax.experiments.run_folder import read_config, read_results
from mu_jax.experiments.saved_models import load_model
from mu_jax.models import Model, build_model
from mu_jax.models.pytorch_import import load_state_dict, resnet18_from_state_dict
from mu_jax.ops import choose_lowering, signal_lowering

# Whose models `load_model` can load.
_KINDS = (
    UnlearningComparison,
    UnlearningMethods,
    UnlearnSaved,
    ShadowSweep,
    SmoothAmun,
    TransferUnlearning,
    ImportCheckpoint,
)


@dataclasses.dataclass(frozen=True)
class MeasuredModel:
    """A model, and what is to be said of it."""

    model: Model
    variables: Any
    """`{"params", "batch_stats"}`"""
    lowering: str
    """of its convolutions"""
    name: str
    """of the model and where it comes from, for people"""
    source: dict[str, Any]
    """results.json's `checkpoint`"""
    facts: dict[str, Any]
    """results.json's `model`, less the number of parameters"""
    image_shape: tuple[int, int, int]
    classes: int


def read_measured(config: Spectra) -> MeasuredModel:
    """Read and check what the config points at; writes nothing, and reads no images."""
    if not config.checkpoint:
        raise InputError(
            "checkpoint is empty, but expected the folder of a finished run or a file of weights; give it with "
            "--config.checkpoint=DIR."
        )
    path = user_path(config.checkpoint)
    return _of_file(config, path) if path.is_file() else _of_run(config, path)


def _of_run(config: Spectra, path: pathlib.Path) -> MeasuredModel:
    if not path.is_dir():
        raise InputError(
            f"checkpoint is {str(path)!r}, but there is no such folder or file; give the folder of a finished run."
        )
    if config.image_size:
        raise InputError(
            f"image_size is {config.image_size}, but {path} is a run's folder, which says what its model sees; leave "
            "it away."
        )
    try:
        saved, results = read_config(path), read_results(path)
        theirs = None if saved is None else from_config_dict(saved["config"])
    except InputError as error:
        raise InputError(str(error).replace("--workdir", "--config.checkpoint")) from None
    if theirs is None:
        raise InputError(
            f"{path} holds no run (no config.json), but expected the folder that was a finished run's --workdir; give "
            "that as --config.checkpoint."
        )
    if not isinstance(theirs, _KINDS):
        raise InputError(
            f"{path} holds a run of {theirs.experiment}, but expected one of "
            f"{', '.join(kind().experiment for kind in _KINDS)}; give another --config.checkpoint."
        )
    if results is None:
        raise InputError(f"{path} holds a run that is not finished; run its own command to the end first.")
    loaded = load_model(path, config.checkpoint_model, module=config.module)
    lowering = signal_lowering(results["model"]["convolution"])
    # A study of smooth models has both kinds.
    norm = "batch" if loaded.variables["batch_stats"] else "none"
    return MeasuredModel(
        model=loaded.model,
        variables=loaded.variables,
        lowering=lowering,
        name=f"{config.checkpoint_model} of {path.absolute().name}",
        source={"path": str(path.absolute()), "model": config.checkpoint_model},
        facts=_facts(dataclasses.replace(theirs.model, norm=norm), lowering),
        image_shape=tuple(results["data"]["image_shape"]),
        classes=results["data"]["classes"],
    )


def _of_file(config: Spectra, path: pathlib.Path) -> MeasuredModel:
    if config.module:
        raise InputError(
            f"module is {config.module!r}, but {path} is a file of PyTorch's, whose networks are built here; leave it "
            "away."
        )
    if config.checkpoint_model != "original":
        raise InputError(
            f"checkpoint_model is {config.checkpoint_model!r}, but {path} is a file and holds one model; leave it away."
        )
    if config.image_size == 0:
        raise InputError(
            f"image_size is 0, but {path} is a file, which does not say how large its network's images are; give "
            "--config.image_size=32, say."
        )
    state_dict = load_state_dict(path)
    # Both families of names call the stem `conv1`, and the head by one of two.
    stem = state_dict.get("conv1.weight", np.empty(0))
    head = state_dict.get("linear.weight", state_dict.get("fc.weight", np.empty(0)))
    if stem.ndim != 4 or head.ndim != 2:
        raise InputError(
            f"{path} has no conv1.weight of four axes, or no linear.weight or fc.weight of two, but expected the "
            "state_dict of a ResNet-18; give one."
        )
    norm = "batch" if any(name.endswith("running_var") for name in state_dict) else "none"
    described = ModelConfig(name="resnet18", width=stem.shape[0], norm=norm)
    lowering = signal_lowering(
        choose_lowering(
            "auto",
            jax.default_backend(),
            width=described.width,
            image_size=config.image_size,
            dtype="float32",
        )
    )
    image_shape = (config.image_size, config.image_size, stem.shape[1])
    model = build_model(described, num_classes=head.shape[0], image_shape=image_shape, convolution=lowering)
    like = jax.eval_shape(model.init, jax.random.key(0))
    return MeasuredModel(
        model=model,
        variables=resnet18_from_state_dict(state_dict, like),
        lowering=lowering,
        name=path.name,
        source={"path": str(path.absolute()), "model": None},
        facts=_facts(described, lowering),
        image_shape=image_shape,
        classes=head.shape[0],
    )


def _facts(config: ModelConfig, lowering: str) -> dict[str, Any]:
    without = dict.fromkeys(("cnn", "mlp", "logistic_regression"), "none")
    norm = {"vit": "layer", **without}.get(config.name, config.norm)
    return {"name": config.name, "width": config.width, "norm": norm, "convolution": lowering}
