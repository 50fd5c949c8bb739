"""The worker that unlearns a class on many originals side by side, as the experiment `class_unlearning` does it.

| variant | a step |
|---|---|
| `{"do": "train"}` | none; sees to it that the case has its originals |
| `{"do": "unlearn"}` | the class forgotten on all K originals, until the models are on the host; K items |
| `{"do": "accuracy"}` | none; what the models of the latest round of the case are right on |

Placement, examples stacked block by block, mapping and lowering are the experiment's; so is what is counted as
preparation: each original's plan, for which it is asked about the images.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.adversarial_case import MEAN, STD
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from benchmarks.torch_weights import from_state_dict, to_state_dict
from benchmarks.ulira_case import FORGOTTEN, UliraCase
from benchmarks.ulira_names import method_settings, training_recipe
from mu_jax.config import ClassUnlearning, DataConfig, InputError, ModelConfig
from mu_jax.config.class_unlearning import ForgetClassesConfig, ShadowsConfig
from mu_jax.data.files import atomic_write
from mu_jax.experiments.class_setting import ClassSetting, prepare_classes
from mu_jax.experiments.side_by_side import first_placement
from mu_jax.training.chunk import Examples
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer, TrainedGroup
from mu_jax.training.placement import Placement, fit_to_memory
from mu_jax.training.query import make_query
from mu_jax.unlearning.methods import make_plan
from mu_jax.unlearning.plan import start_of, training_run

PyTree = Any
# An experiment has no fewer; a smaller case uses the first of them.
_FEWEST = 4


def prepare(case: UliraCase, variant: dict[str, Any]) -> Prepared:
    """Trains the originals, compiles the method, or judges its models."""
    try:
        if variant["do"] == "train":
            return Prepared(lambda count: 0.0, 0, facts=_pool(case).train(case.weights))
        if variant["do"] == "accuracy":
            return Prepared(
                lambda count: 0.0, 0, facts={"accuracy": _pool(case).accuracy(_latest[case.name])}
            )
        unlearning = Unlearning(case, _pool(case))
        facts = unlearning.warm_up()
    except InputError as error:
        raise BadRequest(str(error)) from None
    return Prepared(unlearning.run, case.models, facts=facts, most=1, found=unlearning.found)


class Pool:
    """The originals of K models, and the programs that train side by side."""

    def __init__(self, setting: ClassSetting, models: int) -> None:
        self.setting, self.models = setting, models
        self._compiled: dict[tuple, tuple[Placement, dict[str, Any]]] = {}
        self.compile_seconds = 0.0
        """of all programs so far"""

    def train(self, path: str) -> dict[str, Any]:
        """Train the originals that `path` is to hold, unless they are there; facts about them."""
        began, setting = time.perf_counter(), self.setting
        kept = pathlib.Path(path).exists()
        if not kept:
            runs = [setting.training_run(one) for one in setting.members("original")[: self.models]]
            starts = [jax.tree.map(np.asarray, setting.model.init(run.keys()[0])) for run in runs]
            blocks = [setting.task(FORGOTTEN).examples()] * self.models
            trained = models_of(self.side_by_side(blocks, runs, starts))
            named = [to_state_dict(variables) for variables in trained]
            with atomic_write(pathlib.Path(path)) as file:
                np.savez(
                    file, **{f"{k}/{name}": leaf for k, one in enumerate(named) for name, leaf in one.items()}
                )
        return {
            "kept_from_before": kept,
            "training_seconds": round(time.perf_counter() - began, 2),
            "accuracy": self.accuracy(self.originals(path)),
        }

    def originals(self, path: str) -> list[PyTree]:
        """Variables of each, as NumPy arrays."""
        like = jax.eval_shape(self.setting.model.init, jax.random.key(0))
        with np.load(path, allow_pickle=False) as arrays:
            loaded = dict(arrays)
        found = []
        for number in range(self.models):
            start = f"{number}/"
            own = {name[len(start) :]: leaf for name, leaf in loaded.items() if name.startswith(start)}
            found.append(jax.tree.map(np.asarray, from_state_dict(own, like)))
        return found

    def side_by_side(
        self, blocks: Sequence[Examples], runs: Sequence[TrainingRun], starts: Sequence[PyTree]
    ) -> list[TrainedGroup]:
        """Train the runs, of one recipe and batch size, group after group."""
        trainer = self._trainer(runs[0], stacked_blocks(blocks))
        width = trainer.placement.width
        return [
            trainer.train(runs[first : first + width], variables=starts[first : first + width])
            for first in range(0, len(runs), width)
        ]

    def accuracy(self, models: Sequence[PyTree]) -> dict[str, float]:
        """Of each part of the images (`retain`, `forget`, `test`, `test_forget`), the mean over the models."""
        setting = self.setting
        data, evaluation = setting.config.data, setting.config.evaluation
        query = make_query(setting.query_model, tuple(data.mean), tuple(data.std), evaluation.query_batch)
        logits = [
            np.asarray(query(jax.tree.map(jnp.asarray, variables), setting.images)) for variables in models
        ]
        right = np.stack(logits).argmax(-1) == setting.dataset.labels
        rows = setting.rows_of(FORGOTTEN)
        return {part: round(float(right[:, index].mean()), 4) for part, index in rows.items()}

    @functools.cached_property
    def placement(self) -> Placement:
        """Where groups go, before it is known whether they fit."""
        return first_placement(
            self.setting.mapping, self.models, self.setting.config.shadows.models_per_device
        )

    def _trainer(self, run: TrainingRun, examples: Examples) -> ParallelTrainer:
        """Methods of one recipe, batch size and shapes share a program, among each other and with the originals."""
        make = functools.partial(self._make, run, examples)
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(examples))
        key = (run.recipe, run.optimization.batch_size, shapes)
        if key in self._compiled:
            placement, programs = self._compiled[key]
            trainer = make(placement)
            trainer.take_over(programs)
            return trainer
        trainer = fit_to_memory(make, self.placement)
        self.compile_seconds += trainer.compile_seconds
        self._compiled[key] = trainer.placement, trainer.compiled
        return trainer

    def _make(self, run: TrainingRun, examples: Examples, placement: Placement) -> ParallelTrainer:
        return ParallelTrainer(
            run.recipe,
            examples,
            placement,
            batch_size=run.optimization.batch_size,
            chunk_steps=self.setting.config.loop.chunk_steps,
            from_variables=True,
        )


class Unlearning:
    """One method on all originals, as often as asked for."""

    def __init__(self, case: UliraCase, pool: Pool) -> None:
        self._case, self._pool = case, pool
        self._settings = method_settings(case.method, case.epochs)
        self._originals = pool.originals(case.weights)
        self.found: dict[str, Any] = {}

    def warm_up(self) -> dict[str, Any]:
        """Prepare twice, and take one step; facts: the seconds that the first time takes longer, compiling."""
        before = self._pool.compile_seconds
        (*_, first), (blocks, runs, starts, again) = self._prepared(), self._prepared()
        # A little less, so that rounding makes no second step of it.
        short = [0.999 * run.optimization.batch_size / len(run.index) for run in runs]
        cut = [
            dataclasses.replace(run, optimization=dataclasses.replace(run.optimization, epochs=epochs))
            for run, epochs in zip(runs, short, strict=True)
        ]
        groups = self._pool.side_by_side(blocks, cut, starts)
        models_of(groups)
        compiled = self._pool.compile_seconds - before
        return {
            "lowering": self._pool.setting.lowering,
            "mapping": self._pool.setting.mapping,
            "models_a_group": min(self._pool.placement.width, self._case.models),
            "compile_seconds": round(compiled + max(0.0, first - again), 2),
        }

    def run(self, count: int) -> float:
        """So many times all models; the mean loss. Unavailable where one diverges, which trains no further."""
        for _ in range(count):
            blocks, runs, starts, preparing = self._prepared()
            began = time.perf_counter()
            groups = self._pool.side_by_side(blocks, runs, starts)
            _latest[self._case.name] = models_of(groups)
            training = time.perf_counter() - began
        diverged = np.concatenate([group.diverged_step for group in groups]) >= 0
        if diverged.any():
            raise Unavailable(f"{np.count_nonzero(diverged)} of {len(runs)} models diverged")
        self.found.update(
            preparation_seconds_a_model=round(preparing / len(runs), 4),
            training_seconds_a_model=round(training / len(runs), 4),
            images_a_model=runs[0].trained_samples,
        )
        return float(np.mean(np.concatenate([group.loss for group in groups])))

    def _prepared(self) -> tuple[list[Examples], list[TrainingRun], list[PyTree], float]:
        """Of each model its examples, its run on its block's rows and its start; the seconds that they all took."""
        began, setting = time.perf_counter(), self._pool.setting
        members = setting.members(self._case.method, FORGOTTEN)
        blocks, runs, starts = [], [], []
        for number, original in enumerate(self._originals):
            task = setting.task(FORGOTTEN, jax.tree.map(jnp.asarray, original))
            plan = make_plan(self._case.method, task, self._settings, name=members[number].name)
            run = training_run(plan, task)
            blocks.append(plan.examples)
            # None of METHOD_NAMES passes over its examples in an order of its own.
            runs.append(dataclasses.replace(run, index=run.index + number * len(setting.dataset.labels)))
            starts.append(jax.tree.map(np.asarray, start_of(plan, task)))
        return blocks, runs, starts, time.perf_counter() - began


def stacked_blocks(blocks: Sequence[Examples]) -> Examples:
    """Several models' targets and weights of the same images: those of block k begin at k·N."""
    images = blocks[0].images
    return Examples(
        images=images,
        targets=jnp.concatenate([block.targets for block in blocks]),
        weights=jnp.concatenate([block.weights for block in blocks]),
        source=jnp.tile(jnp.arange(images.shape[0], dtype=jnp.int32), len(blocks)),
    )


def models_of(groups: Sequence[TrainedGroup]) -> list[PyTree]:
    """The variables of each run, on the host."""
    return [group.of(place) for group in groups for place in range(len(group.order))]


def class_setting(case: UliraCase) -> ClassSetting:
    """The case as the experiment has it."""
    return prepare_classes(
        ClassUnlearning(
            data=DataConfig(source=f"npz:{case.file}", mean=(MEAN,), std=(STD,)),
            forget=ForgetClassesConfig(classes=(FORGOTTEN,)),
            model=ModelConfig(width=case.width),
            train=training_recipe(case.training_epochs),
            names=(case.method,),
            shadows=ShadowsConfig(models=max(case.models, _FEWEST)),
        )
    )


_latest: dict[str, list[PyTree]] = {}
"""Of each case, the models of its latest round."""
_pools: dict[tuple, Pool] = {}


def _pool(case: UliraCase) -> Pool:
    """One for all methods of the same originals, so that they share one data set and their programs."""
    key = (case.file, case.width, case.models, case.training_epochs)
    if key not in _pools:
        _pools[key] = Pool(class_setting(case), case.models)
    return _pools[key]


if __name__ == "__main__":
    serve(UliraCase, describe, prepare, device_peak_bytes)
