"""What deleting from a saved model fixes before its first step: the model, its data, and who is to be forgotten."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.adversarial.pixels import PixelModel
from mu_jax.adversarial.stored import StoredAdversarialSet, load, variables_sha256
from mu_jax.config import InputError, UnlearnSaved, first_difference
from mu_jax.config.errors import one_of, require
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import user_path
from mu_jax.data.random_streams import host_stream
from mu_jax.data.splits import Splits, draw_validation, read_indices
from mu_jax.experiments.saved_checkpoint import SavedRun
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.setting import Setting, attack_model, build_models, read_data
from mu_jax.models import Model, build_model
from mu_jax.models.pytorch_import import FROM_STATE_DICT, load_state_dict
from mu_jax.ops import choose_lowering
from mu_jax.unlearning.methods import METHODS
from mu_jax.unlearning.plan import PyTree, Task

WEIGHTS = "weights of the checkpoint"
"""What config.json calls their hash."""


@dataclasses.dataclass(frozen=True)
class SavedSetting(Setting):
    """What is fixed before the first step."""

    config: UnlearnSaved
    original: PyTree
    """variables of the model to delete from"""
    run: SavedRun | None
    """where it comes from; None for a file"""
    deleted: np.ndarray
    """int64[·], training examples that it had forgotten before; no split holds them"""
    ready: StoredAdversarialSet | None
    """an adversarial set that was given"""

    @property
    def reader(self) -> PixelModel:
        """The network as adversarial attacks see it."""
        return PixelModel.of(self.query_model, self.config.data)

    @property
    def data_seed(self) -> int:
        """What drew the data."""
        return self.config.seed if self.run is None else self.run.data_seed

    @property
    def task(self) -> Task:
        """The request to forget."""
        return Task(
            model=self.model,
            images=self.images,
            labels=self.dataset.labels,
            num_classes=self.dataset.num_classes,
            retain=self.splits.retain,
            forget=self.splits.forget,
            data=self.config.data,
            seed=self.config.seed,
            original=self.original,
            query_model=self.query_model,
            attack_model=attack_model(self),
            # Indices overrule classes, as in what is drawn.
            forget_classes=() if self.config.forget.indices else self.config.forget.classes,
            architecture=self.config.model,
            lowering=self.lowering,
        )


def prepare_saved(config: UnlearnSaved, run: SavedRun | None) -> SavedSetting:
    """Read and check everything that the config points at; writes nothing."""
    _check_method(config)
    variables = None if run is None else _of_run(run)
    dataset = read_data(config.data, config.seed if run is None else run.data_seed)
    if run is not None:
        _check_data(config, run, dataset)
    splits, deleted = _splits(config, run, dataset)
    lowering = choose_lowering(
        config.model.convolution,
        jax.default_backend(),
        width=config.model.width,
        image_size=max(dataset.image_shape[:2]),
        dtype=config.model.compute_dtype,
    )
    model, query_model = build_models(config.model, dataset, lowering)
    if variables is None:
        variables = _of_file(config, model)
    ready = None
    if config.neighbours_file:
        ready = load(
            user_path(config.neighbours_file),
            PixelModel.of(query_model, config.data),
            variables,
            transferred=METHODS[config.method].neighbours == "transferred",
            batch_size=config.neighbours.batch_size,
        )
    setting = SavedSetting(
        config, dataset, splits, lowering, model, query_model, variables, run, deleted, ready
    )
    _ = setting.nonmembers  # fails now rather than after training
    return setting


def refuse_other_weights(config: UnlearnSaved, run: SavedRun | None, results: Mapping[str, Any]) -> None:
    """InputError where the checkpoint is no longer what `results`, of the same config, were made from.

    The data are not read: the checkpoint alone tells, with what the results say of the images' shape.
    """
    if run is None:
        model = build_model(
            config.model,
            num_classes=results["data"]["classes"],
            image_shape=tuple(results["data"]["image_shape"]),
            convolution=results["model"]["convolution"],
        )
        variables = _of_file(config, model)
    else:
        variables = _of_run(run)
    key = WEIGHTS
    difference = first_difference({key: results["checkpoint"]["sha256"]}, {key: variables_sha256(variables)})
    if difference:
        raise InputError(
            f"The finished run was of another model in {config.checkpoint}: {difference}; choose another --workdir, or "
            "put that checkpoint back."
        )


def _of_run(run: SavedRun) -> PyTree:
    """The weights in a run's folder."""
    return load_model(run.folder, run.name, module=run.config.model.module).variables


def _of_file(config: UnlearnSaved, model: Model) -> PyTree:
    """The weights in a PyTorch file, for `model`."""
    like = jax.eval_shape(model.init, jax.random.key(0))
    state_dict = load_state_dict(user_path(config.checkpoint))
    return FROM_STATE_DICT[config.model.name](state_dict, like)


def _check_method(config: UnlearnSaved) -> None:
    one_of("method", config.method, tuple(METHODS))
    needs = METHODS[config.method].neighbours
    if needs == "transferred" and not config.neighbours_file:
        raise InputError(
            f"The method {config.method!r} needs an adversarial set of another model, but neighbours_file is empty; "
            "give neighbours.npz of a run that forgets the same examples from another model."
        )
    if config.neighbours_file and not needs:
        raise InputError(
            f"neighbours_file is {config.neighbours_file!r}, but the method {config.method!r} needs no adversarial "
            "set; leave it away."
        )


def _check_data(config: UnlearnSaved, run: SavedRun, dataset: Dataset) -> None:
    """InputError unless these are the data that the model was trained on."""

    def described(shape: list[int], classes: int) -> str:
        return f"images of {'×'.join(map(str, shape))} in {classes} classes"

    theirs = described(run.results["data"]["image_shape"], run.results["data"]["classes"])
    mine = described(list(dataset.image_shape), dataset.num_classes)
    source = f"data.source {config.data.source}"
    if mine != theirs:
        raise InputError(
            f"The checkpoint {run.folder} expects {theirs}, but {source} has {mine}; give the data that it was trained "
            "on."
        )
    if run.fingerprint and run.fingerprint != dataset.fingerprint():
        raise InputError(
            f"The checkpoint {run.folder} was trained on other images or labels than those of {source}, so that "
            "positions would mean other examples; give the data that it was trained on."
        )


def _splits(config: UnlearnSaved, run: SavedRun | None, dataset: Dataset) -> tuple[Splits, np.ndarray]:
    """(splits over what the model knows, the training examples that it had forgotten before)."""
    number, total = len(dataset.y_train), len(dataset.labels)
    path = user_path(config.forget.indices)
    listed = read_indices(path, number) if config.forget.indices else None
    if run is None:
        validation = draw_validation(number, config.data.validation_fraction, listed, config.seed)
        known = np.setdiff1d(np.arange(number), validation)
    else:
        known, validation = run.rows()
    if listed is None:
        forget = _drawn(config, dataset, known)
    else:
        forget = listed
        strangers = np.setdiff1d(forget, known)
        if len(strangers):
            why = "set aside for validation" if np.isin(strangers[0], validation) else "deleted before"
            raise InputError(
                f"{path} holds {len(strangers)} positions that are no training examples of this checkpoint, the first "
                f"of them {strangers[0]} ({why}); remove them."
            )
    retain = np.setdiff1d(known, forget)
    if len(retain) == 0:
        raise InputError(
            f"The forget set takes all {len(known)} training examples of the checkpoint, but expected some to stay; "
            "forget fewer."
        )
    deleted = np.setdiff1d(np.arange(number), np.union1d(known, validation))
    return Splits(retain, forget, validation, np.arange(number, total)), deleted


def _drawn(config: UnlearnSaved, dataset: Dataset, known: np.ndarray) -> np.ndarray:
    """Positions of the classes to forget, or a share of what the model knows, at random."""
    if config.forget.classes:
        for label in config.forget.classes:
            require(
                0 <= label < dataset.num_classes,
                "forget.classes",
                config.forget.classes,
                f"classes from 0 to {dataset.num_classes - 1}",
            )
        forget = known[np.isin(dataset.y_train[known], config.forget.classes)]
        if len(forget) == 0:
            raise InputError(
                f"forget.classes is {config.forget.classes}, but none of the checkpoint's {len(known)} training "
                "examples has such a label; name classes that are there."
            )
        return forget
    count = max(1, int(config.forget.fraction * len(known) + 0.5))
    return np.sort(host_stream(config.seed, "forget").choice(known, count, replace=False))
