"""Models out of a finished run, for whoever wants to use one."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from mu_jax.config import (
    ClassUnlearning,
    DataConfig,
    InputError,
    OptimizationConfig,
    ShadowSweep,
    SmoothAmun,
    UnlearningComparison,
    UnlearnSaved,
    from_config_dict,
)
from mu_jax.experiments.carried import finished_checkpoints
from mu_jax.experiments.named_code import with_named_code
from mu_jax.experiments.run_folder import read_config, read_results, reading_results
from mu_jax.models import Model, build_model
from mu_jax.ops import signal_lowering
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.query import make_query
from mu_jax.training.state import initial_state, variables_of
from mu_jax.training.step import Recipe
from mu_jax.unlearning.methods import METHODS

_QUERY_BATCH = 500


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A trained network: its functions, its weights, and how its images are normalised."""

    model: Model
    """computes in float32, whatever training used"""
    variables: Any
    """`{"params", "batch_stats"}`, what `model.apply` reads"""
    data: DataConfig

    def predict(self, images: UInt8[np.ndarray | Array, "N H W D"]) -> Float[Array, "N C"]:
        """Logits float32[N,C], of images as they are (uint8, not normalised)."""
        query = make_query(self.model, self.data.mean, self.data.std, _QUERY_BATCH)
        return query(self.variables, jax.numpy.asarray(images))


def load_model(workdir: str | pathlib.Path, name: str, *, module: str = "") -> SavedModel:
    """A model of a finished run, by its name there: `original`, a method, `retrain` or `retrain_again` of a comparison;
    of repeated ones `METHOD@BASE.FORGET_SET.RUN` (`amun@0.2.1`), or METHOD alone for the first; `shadow_00000` and so
    on of a sweep with `sweep.keep_models`; `original@none_c1_0` and so on of a study of smooth models; `original_0` and
    so on of class unlearning, which keeps no others, and where `original` is the first that did not diverge.

    The data are not read. A network of the user's own code needs `module`, `FILE.py:NAME`, since what a folder names is
    not run; it must be the code that the model was made with. InputError where the run is not finished, or has no such
    model.
    """
    workdir = pathlib.Path(workdir)
    saved, results = read_config(workdir), read_results(workdir)
    if saved is None or results is None:
        raise InputError(f"{workdir} holds no finished run; run the experiment there to its end first.")
    config = from_config_dict(saved["config"])
    config = with_code(config, saved, module, workdir)
    with reading_results(workdir):
        name = name_in_run(config, results, name)
        kind = name.partition("@")[0]
        names = list(results["models"])
        if isinstance(config, ClassUnlearning):
            names = kept_originals(results)
        if isinstance(config, SmoothAmun):
            # One of its kind: `original@none_c1_0`, of ResNets with another norm than the config's.
            names = [f"{row['role']}@{row['kind']}_{row['number']}" for row in results["tables"]["runs"]]
            kind, norm = name, name.partition("@")[2].partition("_")[0]
            if name in names:
                config = dataclasses.replace(config, model=dataclasses.replace(config.model, norm=norm))
        if kind not in names:
            listed = ", ".join(names or ["none"]) if len(names) < 10 else f"{names[0]} to {names[-1]}"
            raise InputError(f"{workdir} has no model {name!r}, but {listed}; name one of these.")
        if isinstance(config, UnlearnSaved) and kind == "original":
            where, whose = results["checkpoint"]["path"], results["checkpoint"]["model"]
            source = f"{whose!r} of {where}" if whose else where
            raise InputError(
                f"{workdir} keeps no copy of the model that it deleted from, which is {source}; take {config.method!r} "
                "from here, or that one from there."
            )
        model = build_model(
            config.model,
            num_classes=results["data"]["classes"],
            image_shape=tuple(results["data"]["image_shape"]),
            convolution=signal_lowering(results["model"]["convolution"]),
            compute_dtype="float32",
        )
    checkpoints = finished_checkpoints(workdir, name)
    is_finished = checkpoints.latest_step() is not None
    if not is_finished:
        checkpoints = Checkpoints(workdir / "checkpoints" / name)
    step = checkpoints.latest_step()
    if step is None:
        raise InputError(
            f"{checkpoints.directory} holds no checkpoint (a sweep keeps models only with sweep.keep_models); run the "
            "experiment again elsewhere."
        )
    if is_finished or isinstance(config, ShadowSweep | SmoothAmun | ClassUnlearning):
        like = jax.eval_shape(model.init, jax.random.key(0))
        return SavedModel(model, checkpoints.restore(step, like), config.data)
    # A training's checkpoint holds the optimizer's state too, whose shape the recipe tells.
    optimizer = Recipe.of(model, config.data, _optimization(config, kind)).make_optimizer()
    state = jax.eval_shape(lambda key: initial_state(model, optimizer, key), jax.random.key(0))
    return SavedModel(model, variables_of(checkpoints.restore(step, state)), config.data)


def with_code(config: Any, saved: Mapping[str, Any], module: str, where: pathlib.Path) -> Any:
    """A run's config with the code of its network where the caller has it; InputError as `with_named_code`."""
    if not hasattr(config, "model"):
        return config
    return dataclasses.replace(config, model=with_named_code(config.model, saved, module, where))


def kept_originals(results: Mapping[str, Any]) -> list[str]:
    """The names of the models that a run of class unlearning keeps and that did not diverge."""
    runs = (row for row in results["tables"]["runs"] if row["model"] == "original")
    sound = {row["number"] for row in runs if row["diverged_step"] is None}
    return [f"original_{number}" for number in sorted(sound)]


def name_in_run(config: Any, results: Mapping[str, Any], name: str) -> str:
    """What a run's folder calls the model `name`: it is that name, but for the one `original` of class unlearning."""
    if not isinstance(config, ClassUnlearning) or name != "original":
        return name
    return next(iter(kept_originals(results)), name)


def _optimization(config: Any, kind: str) -> OptimizationConfig:
    """The settings that a model was made by: the method's own, or those of training."""
    if isinstance(config, UnlearningComparison):
        return config.finetune if kind == "finetune" else config.train
    if kind not in METHODS or not hasattr(config, "methods"):
        return config.train
    settings = METHODS[kind].settings_of(config.methods)
    return settings if isinstance(settings, OptimizationConfig) else settings.optimization
