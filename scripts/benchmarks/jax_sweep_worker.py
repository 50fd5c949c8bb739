"""The worker that sweeps with mu_jax, by the classes that the experiment `shadow_sweep` stands on.

A variant is `{"mapping": "auto", or a name}`. A step is the whole sweep: K fresh models trained, group after group, and
queried, until all their signals are on the host.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from benchmarks.sweep_case import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, SweepCase
from mu_jax.config import (
    DataConfig,
    InputError,
    ModelConfig,
    OptimizationConfig,
    QueryConfig,
    ShadowSweep,
    SweepConfig,
)
from mu_jax.experiments.sweep_setting import SweepSetting, prepare_sweep
from mu_jax.ops import choose_lowering
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import fit_to_memory


class Sweep:
    """K models of a setting, as often as asked for; its latest signals are `signals`, [K,N,A] each."""

    def __init__(self, case: SweepCase, setting: SweepSetting, trainer: ParallelTrainer) -> None:
        with np.load(case.file, allow_pickle=False) as arrays:
            self._member = arrays["member"]
        self._setting, self._trainer = setting, trainer
        self.signals: dict[str, np.ndarray] = {}
        self.found: dict[str, Any] = {}

    def warm_up(self) -> None:
        """One step and a query of a group."""
        first = self._runs(range(min(self._trainer.placement.width, len(self._member))))
        short = self._setting.config.train.batch_size / min(len(run.index) for run in first)
        self._trainer.train(
            [
                dataclasses.replace(run, optimization=dataclasses.replace(run.optimization, epochs=short))
                for run in first
            ]
        )

    def run(self, count: int) -> float:
        """So many sweeps; the mean loss. Unavailable where a model diverges, which trains no further."""
        for _ in range(count):
            models, width = len(self._member), self._trainer.placement.width
            groups = [range(first, min(first + width, models)) for first in range(0, models, width)]
            trained = [self._trainer.train(self._runs(group)) for group in groups]
        diverged = np.concatenate([group.diverged_step for group in trained]) >= 0
        if diverged.any():
            raise Unavailable(f"{np.count_nonzero(diverged)} of {models} models diverged")
        self.signals = {
            name: np.concatenate([group.signals[name] for group in trained]) for name in trained[0].signals
        }
        right = self.signals["correct"][:, :, 0]
        self.found.update(
            models_a_round=count * models,
            member_accuracy=float(right[self._member].mean()),
            nonmember_accuracy=float(right[~self._member].mean()),
            train_seconds=round(sum(group.seconds for group in trained), 3),
            query_seconds=round(sum(group.query_seconds for group in trained), 3),
        )
        return float(np.mean(np.concatenate([group.loss for group in trained])))

    def _runs(self, models: range) -> list:
        return self._setting.runs(self._member, list(models))


def prepare(case: SweepCase, variant: dict[str, Any]) -> Prepared:
    """Compiles the sweep's programs."""
    if variant["mapping"].startswith("pmap_") and jax.local_device_count() == 1:
        raise Unavailable("pmap needs more than one device")
    try:
        setting = sweep_setting(case, variant["mapping"])
        trainer = fit_to_memory(setting.make_trainer, setting.first_placement(processes=1))
    except InputError as error:
        raise BadRequest(str(error)) from None
    sweep = Sweep(case, setting, trainer)
    sweep.warm_up()
    facts = {
        "lowering": setting.lowering,
        "mapping": setting.mapping,
        "placement": dataclasses.asdict(trainer.placement),
        "compile_seconds": round(trainer.compile_seconds, 2),
    }
    return Prepared(sweep.run, case.models, facts=facts, most=1, found=sweep.found)


def sweep_setting(case: SweepCase, mapping: str) -> SweepSetting:
    """The case as a shadow sweep of the images in its file."""
    config = ShadowSweep(
        data=DataConfig(source=f"npz:{case.file}", mean=(MEAN,), std=(STD,)),
        model=ModelConfig(width=case.width, compute_dtype=case.dtype),
        train=OptimizationConfig(
            epochs=case.epochs,
            batch_size=case.batch,
            optimizer="sgd",
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            schedule="cosine",
        ),
        sweep=SweepConfig(models=max(case.models, 2), mapping=mapping),
        query=QueryConfig(flip=True, shift=0),
    )
    if case.models > 1:
        return prepare_sweep(config)
    # No sweep has a single model: this one gets the lowering of its own, not that of the smallest sweep.
    return prepare_sweep(
        config,
        choose_lowering(
            config.model.convolution,
            jax.default_backend(),
            width=case.width,
            image_size=case.image_size,
            dtype=case.dtype,
        ),
    )


if __name__ == "__main__":
    serve(SweepCase, describe, prepare, device_peak_bytes)
