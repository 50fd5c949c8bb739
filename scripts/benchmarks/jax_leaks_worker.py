"""The worker that retrains side by side with mu_jax and attacks the pairs at once.

A variant is `{"mapping": "auto" or a name, "models_per_device": 0 or a number}`. A step is the whole case: K fresh
models trained, group after group, each group asked once at its end, pairs built, every classifier fitted and asked.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import machine
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.leaks_answers import read_plan, right_shares
from benchmarks.leaks_attack import attack_pairs
from benchmarks.leaks_case import (
    BATCH,
    EXAMPLES,
    IMAGE_SIZE,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    SIDES,
    STD,
    WIDTH,
    LeaksCase,
)
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from mu_jax.config import InputError, ModelConfig, OptimizationConfig
from mu_jax.experiments.side_by_side import first_placement
from mu_jax.models import build_model
from mu_jax.ops import choose_lowering, choose_mapping
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement, fit_to_memory
from mu_jax.training.query import make_query
from mu_jax.training.step import Recipe

_SEED = 0
_QUERY = {"mlp": 1024, "cnn": 100}
"""Images in one pass of a query, at most."""
# An MLP of width 64, trained and asked, took 10.6 ms of a core by `map` of 50 a device; 10.4, 10.7 and 13.0 by `vmap`
# of 5, 10 and 25 (the least of four turns on a busy machine): more models at once than the cache holds lose.
_MOST = {"vmap": 10, "map": 64, "one": 1}
"""Models of one device in a group, at most."""


class Retraining:
    """The case, as often as asked for; its latest posteriors are `posteriors`, float32[K,Q,C]."""

    def __init__(self, case: LeaksCase, variant: Mapping[str, Any]) -> None:
        self._case, self._plan = case, read_plan(case.file)
        plan, backend = self._plan, jax.default_backend()
        sizes = {"width": WIDTH[case.network], "image_size": IMAGE_SIZE, "models": case.models}
        self.mapping = choose_mapping(variant["mapping"], backend, **sizes)
        self.lowering = choose_lowering("auto", backend, mapping=self.mapping, **sizes)
        self.model = build_model(
            ModelConfig(name=case.network, width=WIDTH[case.network]),
            num_classes=int(plan["classes"]),
            image_shape=plan["images"].shape[1:],
            convolution=self.lowering,
        )
        self._optimization = OptimizationConfig(
            epochs=case.epochs,
            batch_size=BATCH,
            optimizer="sgd",
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=0.0,
            schedule="constant",
        )
        self._recipe = Recipe(self.model, mean=(MEAN,), std=(STD,))
        query = make_query(self.model, (MEAN,), (STD,), _QUERY[case.network])
        self._query_fn = lambda variables, images: {"posterior": jax.nn.softmax(query(variables, images))}
        targets = label_targets(plan["labels"], int(plan["classes"]))
        self._examples = Examples(plan["images"], targets, np.ones(len(targets), np.float32))
        self.runs = [self._run(model) for model in range(case.models)]
        self._models_per_device = variant["models_per_device"]
        self.posteriors = np.zeros((0, 0, 0), np.float32)
        self.found: dict[str, Any] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """What was chosen, and what compiling took."""
        trainer = self._trainers[0]
        return {
            "lowering": self.lowering,
            "mapping": self.mapping,
            "placement": dataclasses.asdict(trainer.placement),
            "compile_seconds": round(trainer.compile_seconds, 2),
        }

    def warm_up(self) -> None:
        """One step and a query of a group of each side."""
        short = dataclasses.replace(self._optimization, epochs=0.999 * BATCH / EXAMPLES)
        for trainer, models in zip(self._trainers, self._groups_of_sides(), strict=True):
            trainer.train([dataclasses.replace(self.runs[k], optimization=short) for k in models[0]])

    def run(self, count: int) -> float:
        """So many times the whole case; the mean loss. Unavailable where a model diverges."""
        for _ in range(count):
            began = time.perf_counter()
            losses, asking = self._train()
            trained = time.perf_counter()
            result = attack_pairs(self._plan, self.posteriors, machine.usable_cores())
        stages = {"train": trained - began - asking, "query": asking}
        stages |= {name: result[name] for name in ("pairs", "attacks")}
        self.found.update(
            models_trained=self._case.models,
            stages={name: round(seconds, 4) for name, seconds in stages.items()},
            auc=result["auc"],
            accuracy=right_shares(self._plan, self.posteriors),
        )
        return float(np.mean(losses))

    def _train(self) -> tuple[np.ndarray, float]:
        """All models: their losses, and the seconds of asking them."""
        self.posteriors = np.empty(
            (self._case.models, self._plan["side_rows"].shape[1], int(self._plan["classes"])), np.float32
        )
        losses, asking = np.empty(self._case.models), 0.0
        for trainer, groups in zip(self._trainers, self._groups_of_sides(), strict=True):
            for models in groups:
                group = trainer.train([self.runs[k] for k in models])
                self.posteriors[models] = group.signals["posterior"]
                losses[models] = np.where(group.diverged_step < 0, group.loss, np.nan)
                asking += group.query_seconds
        if not np.isfinite(losses).all():
            diverged = np.count_nonzero(~np.isfinite(losses))
            raise Unavailable(f"{diverged} of {len(losses)} models diverged")
        return losses, asking

    def _run(self, model: int) -> TrainingRun:
        rows = self._plan["rows"][model]
        return TrainingRun(
            name=f"model_{model:05d}",
            seed=_SEED,
            index=rows[rows >= 0],
            optimization=self._optimization,
            recipe=self._recipe,
        )

    @functools.cached_property
    def _trainers(self) -> list[ParallelTrainer]:
        """Compiled, one a side, whose digits its models are asked about; they share their programs."""
        models = self._case.models // len(SIDES)
        inside = self.mapping.removeprefix("pmap_")
        devices = min(jax.local_device_count() if self.mapping != inside else 1, models)
        groups = math.ceil(models / (devices * _MOST[inside]))
        chosen = self._models_per_device or math.ceil(models / (devices * groups))
        first = fit_to_memory(functools.partial(self._make, 0), first_placement(self.mapping, models, chosen))
        others = [self._make(side, first.placement) for side in range(1, len(SIDES))]
        for trainer in others:
            trainer.take_over(first.compiled)
        return [first, *others]

    def _make(self, side: int, placement: Placement) -> ParallelTrainer:
        return ParallelTrainer(
            self._recipe,
            self._examples,
            placement,
            batch_size=BATCH,
            # A training is one call of one program.
            chunk_steps=self._case.steps(EXAMPLES),
            query_fn=self._query_fn,
            query_data=self._plan["images"][self._plan["side_rows"][side]],
        )

    def _groups_of_sides(self) -> list[list[np.ndarray]]:
        width = self._trainers[0].placement.width
        of_sides = [np.flatnonzero(self._plan["side"] == side) for side in range(len(SIDES))]
        return [[models[i : i + width] for i in range(0, len(models), width)] for models in of_sides]


def prepare(case: LeaksCase, variant: dict[str, Any]) -> Prepared:
    """Compiles the case's programs."""
    if variant["mapping"].startswith("pmap_") and jax.local_device_count() == 1:
        raise Unavailable("pmap needs more than one device")
    try:
        retraining = Retraining(case, variant)
    except InputError as error:
        raise BadRequest(str(error)) from None
    retraining.warm_up()
    return Prepared(retraining.run, case.pairs, facts=retraining.facts, most=1, found=retraining.found)


if __name__ == "__main__":
    serve(LeaksCase, describe, prepare, device_peak_bytes)
