"""Trainers of groups in one run folder: where their groups lie is recorded, and equal ones share a compiled program."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from mu_jax.data.files import write_json
from mu_jax.experiments.run_folder import read_json
from mu_jax.experiments.side_by_side import first_placement, recorded_placement
from mu_jax.training.chunk import Examples
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement, fit_to_memory
from mu_jax.training.programs import QueryFn

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a stage of training asks of a trainer."""

    stage: str
    """names its groups, in `plan.json` too"""
    run: TrainingRun
    """any of its runs; all have the recipe, batch size and kind of mask"""
    examples: Examples
    runs: int
    """how many there are"""
    batch_size: int
    """rows of a batch, of all its runs"""
    mapping: str
    """as `choose_mapping` names it"""
    models_per_device: int = 0
    """0: what suits"""
    query_fn: QueryFn | None = None
    query_data: PyTree = None
    from_variables: bool = False

    @property
    def program(self) -> tuple:
        """What is compiled, but for the placement."""
        shapes = tuple(
            (leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves((self.examples, self.query_data))
        )
        own_masks = self.run.gradient_mask is not None
        return self.run.recipe, self.batch_size, self.query_fn, self.from_variables, own_masks, shapes


class CompiledTrainers:
    """The compiled programs of one process, and the placements that `plan.json` of the folder records."""

    def __init__(self, plan: pathlib.Path, chunk_steps: int, say: Callable[[str], None]) -> None:
        self._plan, self._chunk_steps, self._say = plan, chunk_steps, say
        self._compiled: dict[tuple, dict[str, Any]] = {}
        self.compile_seconds: dict[str, float] = {}
        """of each stage that compiled anything"""

    def get(self, wanted: Wanted) -> ParallelTrainer:
        """A compiled trainer: of groups as the folder has them, else as a program at hand has them, else as fit."""
        recorded = read_json(self._plan) or {}
        make = functools.partial(self._make, wanted)
        known = wanted.stage in recorded
        if known:
            placement = recorded_placement(self._plan, recorded[wanted.stage])
        else:
            placement = self._first(wanted)
        trainer = make(placement)
        if (*wanted.program, placement) in self._compiled:
            trainer.take_over(self._compiled[*wanted.program, placement])
        else:
            self._say(f"{wanted.stage}: compiling")
            if known:
                trainer.compile()
            else:
                trainer = fit_to_memory(make, placement)
            self.compile_seconds[wanted.stage] = (
                self.compile_seconds.get(wanted.stage, 0.0) + trainer.compile_seconds
            )
            self._compiled[*wanted.program, trainer.placement] = trainer.compiled
        if not known:
            write_json(self._plan, recorded | {wanted.stage: dataclasses.asdict(trainer.placement)})
        return trainer

    def like(self, wanted: Wanted, compiled: dict[str, Any]) -> ParallelTrainer:
        """A trainer of a recorded stage on other examples of the same shapes, which runs what was compiled."""
        recorded = (read_json(self._plan) or {})[wanted.stage]
        trainer = self._make(wanted, recorded_placement(self._plan, recorded))
        trainer.take_over(compiled)
        return trainer

    def _first(self, wanted: Wanted) -> Placement:
        for key in self._compiled:
            if key[:-1] == wanted.program:
                return key[-1]
        return first_placement(wanted.mapping, wanted.runs, wanted.models_per_device)

    def _make(self, wanted: Wanted, placement: Placement) -> ParallelTrainer:
        return ParallelTrainer(
            wanted.run.recipe,
            wanted.examples,
            placement,
            batch_size=wanted.batch_size,
            chunk_steps=self._chunk_steps,
            query_fn=wanted.query_fn,
            query_data=wanted.query_data,
            from_variables=wanted.from_variables,
            own_masks=wanted.run.gradient_mask is not None,
        )
