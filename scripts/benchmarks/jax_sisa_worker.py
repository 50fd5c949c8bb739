"""The worker that fits and deletes with mu_jax, by the classes that the experiment `sisa_delete` stands on.

| variant | a step |
|---|---|
| `{"do": "fit", "mapping"}` | an ensemble, from fresh weights until its last checkpoint is on disk; S items |
| `{"do": "refit", "mapping"}` | the same, counted as one item |
| `{"do": "delete", "mapping", "deletions"}` | so many deletions from a fitted ensemble, one request each |
| `{"do": "retrain"}` | one model on all images for e₀ epochs, by all cores, and its checkpoint |
| `{"do": "learned", "mapping"}` | none; its facts are what the models of the latest fit have learned |

`mapping` is `auto` (as the experiment chooses) or a name: `one` is one shard after another.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from benchmarks.sisa_case import SisaCase
from benchmarks.sisa_data import SEED, deletion_order
from benchmarks.sweep_case import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY
from mu_jax.config import (
    DataConfig,
    InputError,
    ModelConfig,
    OptimizationConfig,
    SisaConfig,
    SisaDelete,
)
from mu_jax.experiments.sisa_setting import SisaSetting, prepare_sisa
from mu_jax.ops import choose_lowering
from mu_jax.training.loop import DivergenceError
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import fit_to_memory
from mu_jax.unlearning.sisa.sharding import Sharding, uniform_sharding


def prepare(case: SisaCase, variant: dict[str, Any]) -> Prepared:
    """Compiles, and where deletions are asked for, fits."""
    try:
        with _divergence_is_unavailable():
            return _PREPARE[variant["do"]](case, **{name: variant[name] for name in variant if name != "do"})
    except InputError as error:
        raise BadRequest(str(error)) from None


class Fit:
    """An ensemble, fitted as often as asked for."""

    def __init__(self, case: SisaCase, mapping: str) -> None:
        self._case, self._folder = case, _folder(case, mapping)
        self._sharding = Sharding.load(case.file)
        self._setting, self._trainer = _compiled(case, mapping)
        self.facts = _facts(self._setting, self._trainer)
        self.found: dict[str, Any] = {}
        _warm_up(case, self._setting, self._trainer)

    def run(self, count: int) -> float:
        """So many fits, each in an empty folder; there is no loss to give back, and divergence is an error."""
        for _ in range(count):
            shutil.rmtree(self._folder, ignore_errors=True)
            with _divergence_is_unavailable():
                work = self._setting.ensemble(self._folder, self._trainer, self._sharding).fit()
        steps = dict.fromkeys(map(str, range(self._case.shards)), 0)
        for step in work.steps:
            steps[str(step.shard)] += step.trained_samples // self._case.batch
        self.found.update(
            models_a_round=count * self._case.shards,
            steps_of_shards=steps,
            training_seconds=round(work.seconds, 3),
        )
        return 0.0


class Deletions:
    """A fitted ensemble, from which examples are deleted one after another."""

    def __init__(self, case: SisaCase, mapping: str, deletions: int) -> None:
        self._case, self._deletions = case, deletions
        sharding = Sharding.load(case.file)
        setting, trainer = _compiled(case, mapping)
        self.facts = _facts(setting, trainer)
        _warm_up(case, setting, trainer)
        self._sisa = setting.ensemble(_folder(case, f"delete_{mapping}"), trainer, sharding)
        self._sisa.fit()
        self._next = iter(deletion_order(len(sharding.examples)))
        self.found: dict[str, Any] = {"seconds": [], "training_seconds": [], "examples_retrained": []}

    def run(self, count: int) -> float:
        """So many blocks of deletions; `found` has all deletions so far, each with its time on the wall."""
        for _ in range(count * self._deletions):
            position = np.array([next(self._next)])
            began = time.perf_counter()
            with _divergence_is_unavailable():
                certificate = self._sisa.unlearn(position)
            self.found["seconds"].append(round(time.perf_counter() - began, 4))
            self.found["training_seconds"].append(certificate["seconds"])
            # In cost.py's unit: an example in training for e₀ epochs.
            self.found["examples_retrained"].append(round(certificate["examples_retrained"], 3))
        return 0.0


def _prepare_fit(case: SisaCase, mapping: str) -> Prepared:
    fit = Fit(case, mapping)
    return Prepared(fit.run, case.shards, facts=fit.facts, most=1, found=fit.found)


def _prepare_refit(case: SisaCase, mapping: str) -> Prepared:
    # Beside deletions a fit counts as one: the deletion of an example by training the ensemble anew.
    return dataclasses.replace(_prepare_fit(case, mapping), items_a_step=1)


def _prepare_deletions(case: SisaCase, mapping: str, deletions: int) -> Prepared:
    ensemble = Deletions(case, mapping, deletions)
    return Prepared(ensemble.run, deletions, facts=ensemble.facts, most=1, found=ensemble.found)


def _prepare_retrain(case: SisaCase) -> Prepared:
    """An ensemble of one shard without slices is one model; its lowering is that of a single one."""
    sharding = uniform_sharding(Sharding.load(case.file).examples, 1, 1, SEED)
    setting, trainer = _compiled(case, "one", alone=True)
    _warm_up(case, setting, trainer)
    folder = _folder(case, "retrain")

    def run(count: int) -> float:
        for _ in range(count):
            shutil.rmtree(folder, ignore_errors=True)
            with _divergence_is_unavailable():
                setting.models(folder, trainer).train(sharding)
        return 0.0

    return Prepared(run, 1, facts=_facts(setting, trainer), most=1)


def _learned(case: SisaCase, mapping: str) -> Prepared:
    """What the shards' models make of the images of their own shard, and of the others, which they never saw."""
    setting, trainer = _compiled(case, mapping)
    sharding = Sharding.load(case.file)
    dataset = setting.dataset
    logits, _ = setting.models(_folder(case, mapping) / "models", trainer).logits(
        sharding,
        setting.query_model,
        dataset.x_train,
        setting.config.data.mean,
        setting.config.data.std,
        setting.config.evaluation.query_batch,
    )
    right = logits.argmax(-1) == dataset.y_train
    shard, _ = sharding.location(np.arange(len(dataset.y_train)))
    member = shard == np.arange(case.shards)[:, None]
    facts = {
        "member_accuracy": float(right[member].mean()),
        "nonmember_accuracy": float(right[~member].mean()),
    }
    return Prepared(lambda count: 0.0, 0, facts=facts)


@functools.cache
def _compiled(case: SisaCase, mapping: str, alone: bool = False) -> tuple[SisaSetting, ParallelTrainer]:
    """The case as an experiment, and its compiled trainer; `alone` is for a single model."""
    setting = _setting(case, mapping, alone)
    return setting, fit_to_memory(setting.make_trainer, setting.first_placement(case.shards))


def _setting(case: SisaCase, mapping: str, alone: bool = False) -> SisaSetting:
    config = SisaDelete(
        seed=SEED,
        data=DataConfig(source=f"npz:{case.file}", mean=(MEAN,), std=(STD,)),
        model=ModelConfig(width=case.width),
        train=OptimizationConfig(
            epochs=case.epochs,
            batch_size=case.batch,
            optimizer="sgd",
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            schedule="cosine",
        ),
        sisa=SisaConfig(shards=case.shards, slices=case.slices, mapping=mapping),
    )
    if not alone:
        return prepare_sisa(config)
    sizes = {"width": case.width, "image_size": case.image_size}
    return prepare_sisa(config, choose_lowering(config.model.convolution, jax.default_backend(), **sizes))


def _warm_up(case: SisaCase, setting: SisaSetting, trainer: ParallelTrainer) -> None:
    """A fit of two small shards, and a deletion: what is slow the first time is then done."""
    config = dataclasses.replace(setting.config, train=dataclasses.replace(setting.config.train, epochs=1.0))
    sharding = uniform_sharding(np.arange(2 * case.batch), 2, 1, SEED)
    folder = _folder(case, "warm_up")
    sisa = dataclasses.replace(setting, config=config).ensemble(folder, trainer, sharding)
    sisa.fit()
    sisa.unlearn(sharding.examples[:1])
    shutil.rmtree(folder)


def _facts(setting: SisaSetting, trainer: ParallelTrainer) -> dict[str, Any]:
    return {
        "lowering": setting.lowering,
        "mapping": setting.mapping,
        "placement": dataclasses.asdict(trainer.placement),
        "compile_seconds": round(trainer.compile_seconds, 2),
    }


def _folder(case: SisaCase, name: str) -> pathlib.Path:
    return pathlib.Path(case.file).parent / f"jax_{name}"


@contextlib.contextmanager
def _divergence_is_unavailable() -> Iterator[None]:
    try:
        yield
    except DivergenceError as error:
        raise Unavailable(str(error)) from None


_PREPARE: dict[str, Callable[..., Prepared]] = {
    "fit": _prepare_fit,
    "refit": _prepare_refit,
    "delete": _prepare_deletions,
    "retrain": _prepare_retrain,
    "learned": _learned,
}


if __name__ == "__main__":
    serve(SisaCase, describe, prepare, device_peak_bytes)
