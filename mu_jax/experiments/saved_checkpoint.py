"""What to delete from: a model of a finished run, with that run's settings, or a file of PyTorch's."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.config import (
    ClassUnlearning,
    ImportCheckpoint,
    InputError,
    MethodsConfig,
    OptimizationConfig,
    TransferUnlearning,
    UnlearningComparison,
    UnlearningMethods,
    UnlearnSaved,
    from_config_dict,
)
from mu_jax.data.files import user_path
from mu_jax.data.splits import Splits
from mu_jax.experiments.run_folder import read_config, read_results
from mu_jax.experiments.saved_models import name_in_run, with_code
from mu_jax.models.pytorch_import import FROM_STATE_DICT
from mu_jax.unlearning.methods import METHODS

_KINDS = (
    UnlearningComparison,
    UnlearningMethods,
    UnlearnSaved,
    ClassUnlearning,
    TransferUnlearning,
    ImportCheckpoint,
)
# What of a run's settings may be otherwise now: where the same images lie, and how the same network is computed.
_FREE = {"data": ("source",), "model": ("compute_dtype", "convolution", "module")}


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A finished run, of which one model is taken."""

    folder: pathlib.Path
    name: str
    """of the model"""
    config: Any
    results: Mapping[str, Any]
    fingerprint: str
    """of its data; empty where it does not say"""

    @property
    def kind(self) -> str:
        """What made the model: `original`, a method, or a retraining."""
        # Class unlearning keeps its originals alone, and calls them `original_0` and so on.
        return "original" if isinstance(self.config, ClassUnlearning) else self.name.partition("@")[0]

    @property
    def data_seed(self) -> int:
        """What drew its data; a run of `unlearn_saved` has that of the run before."""
        return self.results["data"].get("seed", self.config.seed)

    @property
    def augmentation(self) -> tuple[int, bool] | None:
        """(pixels of crops, whether images were mirrored) in all of the model's training; None where nobody knows.

        That is the first model's training, and of each method by which it was made since, but of no other method that
        its runs have settings for.
        """
        if isinstance(self.config, ImportCheckpoint):
            return None
        seen = _own_optimization(self.config, self.kind)
        if isinstance(self.config, UnlearnSaved):
            # An older run does not say what came before it.
            before = self.results["checkpoint"].get("augmentation", (0, False))
        else:
            before = (self.config.train.crop_padding, self.config.train.flip)
        if before is None or seen is None:
            return before and tuple(before)
        return max(before[0], seen.crop_padding), bool(before[1] or seen.flip)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What results.json says of the model, and of its costs."""
        if isinstance(self.config, ClassUnlearning):
            # Its models' figures are means over all of a kind.
            runs = self.results["tables"]["runs"]
            return next(row for row in runs if f"{row['model']}_{row['number']}" == self.name)
        return self.results["models"][self.kind]

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Training rows int64[·] that the model may still know, and those set aside for validation.

        What the model was to forget is in neither: it was deleted, and stays so.
        """
        place = self.name.partition("@")[2]
        # `original@BASE.FORGET_SET.RUN` and the like; the first forget set's file has no number.
        number = place.split(".")[1] if place.count(".") == 2 else "0"
        splits = Splits.load(self.folder / ("splits.npz" if number == "0" else f"splits_{number}.npz"))
        known = np.union1d(splits.retain, splits.forget) if self.kind == "original" else splits.retain
        return known, splits.validation


def read_checkpoint(
    config: UnlearnSaved, overrides: Mapping[str, Any]
) -> tuple[UnlearnSaved, SavedRun | None]:
    """(the config with what the checkpoint's run settles, that run); as given, and None, for a file.

    A setting counts as given where a flag sets it (a key of `overrides`) or it differs from its default. InputError
    where one contradicts the checkpoint, and where the checkpoint is not what was expected.
    """
    if not config.checkpoint:
        raise InputError(
            "checkpoint is empty, but expected the folder of a finished run or a file of weights; give it with "
            "--config.checkpoint=DIR."
        )
    path = user_path(config.checkpoint)
    if path.is_file():
        _check_file(config, path)
        return config, None
    run = read_run(path, config.checkpoint_model, config.model.module)
    settled = {group: settled_by_run(config, run, group, overrides) for group in _FREE}
    methods = config.methods
    if run.augmentation is not None:
        methods = _with_known_augmentation(methods, run.augmentation, overrides)
    return dataclasses.replace(config, checkpoint_model=run.name, **settled, methods=methods), run


def _check_file(config: UnlearnSaved, path: pathlib.Path) -> None:
    if config.model.name not in FROM_STATE_DICT:
        raise InputError(
            f"model.name is {config.model.name!r}, but expected {', '.join(map(repr, FROM_STATE_DICT))}, those whose "
            f"PyTorch weights ({path}) can be read; change one of the two."
        )
    if config.checkpoint_model != "original":
        raise InputError(
            f"checkpoint_model is {config.checkpoint_model!r}, but {path} is a file and holds one model; leave it away."
        )


def read_run(path: pathlib.Path, name: str, module: str) -> SavedRun:
    """The finished run in a folder of which the model `name` is wanted; `module` is the code of an own network."""
    if not path.is_dir():
        raise InputError(
            f"checkpoint is {str(path)!r}, but there is no such folder or file; give the folder of a finished run."
        )
    try:
        saved, results = read_config(path), read_results(path)
        config = None if saved is None else from_config_dict(saved["config"])
    except InputError as error:
        raise InputError(str(error).replace("--workdir", "--config.checkpoint")) from None
    if config is None:
        raise InputError(
            f"{path} holds no run (no config.json), but expected the folder that was a finished run's --workdir; give "
            "that as --config.checkpoint."
        )
    if not isinstance(config, _KINDS):
        raise InputError(
            f"{path} holds a run of {config.experiment}, but expected one of "
            f"{', '.join(kind().experiment for kind in _KINDS)}; give another --config.checkpoint."
        )
    if results is None:
        raise InputError(f"{path} holds a run that is not finished; run its own command to the end first.")
    config = with_code(config, saved, module, path)
    name = name_in_run(config, results, name)
    return SavedRun(path, name, config, results, saved["inputs"].get("fingerprint of the data", ""))


def settled_by_run(config: Any, run: SavedRun, group: str, overrides: Mapping[str, Any]) -> Any:
    """The run's settings of a group (`data` or `model`), but for what is given and free."""
    given, theirs = getattr(config, group), getattr(run.config, group)
    values = {}
    for field in dataclasses.fields(given):
        key, mine, saved = f"{group}.{field.name}", getattr(given, field.name), getattr(theirs, field.name)
        is_given = key in overrides or mine != field.default
        if is_given and mine != saved and field.name not in _FREE[group]:
            raise InputError(
                f"{key} is {mine!r}, but the checkpoint {run.folder} was made with {saved!r}; leave --config.{key} "
                "away, or give another checkpoint."
            )
        values[field.name] = mine if is_given else saved
    return type(given)(**values)


def _own_optimization(config: Any, kind: str) -> OptimizationConfig | None:
    """Of a run's method, what made the model of this name; None for models that training made, or no training."""
    if isinstance(config, UnlearningComparison):
        return config.finetune if kind == "finetune" else None
    # Methods of classes are none of a comparison on examples.
    if kind not in METHODS or not hasattr(config.methods, METHODS[kind].settings):
        return None
    settings = METHODS[kind].settings_of(config.methods)
    return settings if isinstance(settings, OptimizationConfig) else getattr(settings, "optimization", None)


def _optimizations(methods: MethodsConfig) -> list[tuple[str, OptimizationConfig]]:
    """The optimization of each method that has one, by its key in `methods`."""
    groups = vars(methods).items()
    inner = [(f"{name}.optimization", getattr(group, "optimization", None)) for name, group in groups]
    found = [(name, group) for name, group in groups] + inner
    return [(key, one) for key, one in found if isinstance(one, OptimizationConfig)]


def _with_known_augmentation(
    methods: MethodsConfig, known: tuple[int, bool], overrides: Mapping[str, Any]
) -> MethodsConfig:
    """No crops or mirroring that the model was not trained with: a mirrored digit is no digit. Flags overrule that."""
    crop_padding, flip = known
    changed = {}
    for key, optimization in _optimizations(methods):
        wanted = {
            "crop_padding": min(optimization.crop_padding, crop_padding),
            "flip": optimization.flip and flip,
        }
        kept = {name: value for name, value in wanted.items() if f"methods.{key}.{name}" not in overrides}
        optimization = dataclasses.replace(optimization, **kept)
        name, _, inner = key.partition(".")
        settings = getattr(methods, name)
        changed[name] = dataclasses.replace(settings, optimization=optimization) if inner else optimization
    return dataclasses.replace(methods, **changed)
