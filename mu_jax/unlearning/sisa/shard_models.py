"""The models of SISA's shards, trained slice after slice with a checkpoint each, and only where something changed.

A step's weights depend on its shard's number, its own, the surviving examples of its slices and the settings, and on
nothing else: not on other shards, nor on the order of deletions. So what a deletion leaves is bitwise what a fit makes
of the surviving examples, and both are one function here: train what no longer has its key.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from mu_jax.config import InputError, OptimizationConfig
from mu_jax.models import Model
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.chunk import Examples
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.query import make_query
from mu_jax.training.state import TrainState, initial_state, variables_of
from mu_jax.training.step import Recipe
from mu_jax.unlearning.sisa.sharding import Sharding, slice_epochs, slice_keys

RECIPE_VERSION = 1
"""Raised by hand when a change to training makes other weights of the same settings."""

PyTree = Any
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Step:
    """One shard's training on its slices 1..slice (numbers from 0)."""

    shard: int
    slice: int
    key: str
    """of everything that its weights depend on"""
    trained_samples: int
    """shown, repeats counted; 0 where no example is left in these slices"""


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call trained."""

    steps: tuple[Step, ...]
    seconds: float
    """of training, without compilation"""

    @property
    def trained_samples(self) -> int:
        """Over all steps."""
        return sum(step.trained_samples for step in self.steps)


class ShardModels:
    """The shards' models in a folder, a checkpoint a step; `train` brings them to a sharding."""

    def __init__(
        self,
        folder: pathlib.Path,
        recipe: Recipe,
        optimization: OptimizationConfig,
        examples: Examples,
        fingerprint: Callable[[np.ndarray], bytes],
        *,
        seed: int,
        placement: Placement,
        chunk_steps: int,
        settings: Mapping[str, Any],
    ) -> None:
        """`optimization.epochs` is e₀, the epochs of an equal model without slices; each of R steps has 2e₀/(R + 1).

        `fingerprint(positions)` is a digest of these examples' images and labels, `settings` whatever else the weights
        depend on (the architecture, say): both go into the steps' keys. A group of `placement.width` shards trains at
        once.
        """
        self.folder = pathlib.Path(folder)
        self._recipe, self._optimization, self._seed = recipe, optimization, seed
        self._fingerprint = fingerprint
        self._settings = {
            **settings,
            "optimization": dataclasses.asdict(optimization),
            "version": RECIPE_VERSION,
        }
        self._trainer = ParallelTrainer(
            recipe,
            examples,
            placement,
            batch_size=optimization.batch_size,
            chunk_steps=chunk_steps,
            from_states=True,
        )

    @property
    def compile_seconds(self) -> float:
        """Of the one program that all steps run."""
        return self._trainer.compile_seconds

    def steps(self, sharding: Sharding) -> list[list[Step]]:
        """All steps of a fit, by shard and slice."""
        found = []
        for shard in range(len(sharding.slices)):
            keys = slice_keys(
                sharding, shard, fingerprint=self._fingerprint, seed=self._seed, recipe=self._settings
            )
            found.append(
                [
                    Step(shard, slice_, key, 0 if run is None else run.trained_samples)
                    for slice_, key in enumerate(keys)
                    for run in [self._run(sharding, shard, slice_)]
                ]
            )
        return found

    def train(self, sharding: Sharding, say: Say = lambda text: None) -> Work:
        """Train every step whose checkpoint is not that of this sharding, and what follows it in its shard.

        Steps that are there are kept: a fit that was cut off goes on, and a deletion repeats only what it must. A
        checkpoint that cannot be read, or whose weights are not what was written, is said and trained again.
        """
        wanted = self.steps(sharding)
        first = [self._first_missing(shard, steps, say) for shard, steps in enumerate(wanted)]
        self._forget(wanted, first)
        done, seconds = [], 0.0
        states: dict[int, TrainState] = {}
        for slice_ in range(max(map(len, wanted), default=0)):
            due = [shard for shard, steps in enumerate(wanted) if first[shard] <= slice_ < len(steps)]
            for shard in due:
                if shard not in states:
                    states[shard] = self._before(shard, slice_)
            runs_of = {shard: self._run(sharding, shard, slice_) for shard in due}
            # A step that trains nothing leaves what the one before it left.
            active = [shard for shard in due if runs_of[shard] is not None]
            width = self._trainer.placement.width
            for start in range(0, len(active), width):
                group = active[start : start + width]
                began = time.perf_counter()
                runs = [runs_of[shard] for shard in group]
                trained = self._trainer.train(runs, states=[_restarted(states[shard]) for shard in group])
                broken = np.flatnonzero(trained.diverged_step >= 0)
                if broken.size:
                    raise InputError(
                        f"Shard {group[broken[0]]} diverged in slice {slice_} at step "
                        f"{trained.diverged_step[broken[0]]} of {runs[broken[0]].steps}; try a smaller learning_rate "
                        "or a longer warmup_epochs."
                    )
                for i, shard in enumerate(group):
                    states[shard] = trained.state_of(i)
                seconds += time.perf_counter() - began
            for shard in due:
                self._save(wanted[shard][slice_], states[shard])
                done.append(wanted[shard][slice_])
            if due:
                say(f"slice {slice_ + 1}: {len(due)} shards trained")
        return Work(tuple(done), seconds)

    def variables(self, sharding: Sharding) -> list[PyTree | None]:
        """The last step's weights of each shard; None for a shard without an example: it does not vote."""
        found = []
        for shard, steps in enumerate(self.steps(sharding)):
            if not len(sharding.prefix(shard, len(steps) - 1)):
                found.append(None)
                continue
            state = self._load(steps[-1])
            if state is None:
                raise InputError(
                    f"Shard {shard} in {self.folder} is not trained on the examples that are left; train it first."
                )
            found.append(variables_of(state))
        return found

    def logits(
        self,
        sharding: Sharding,
        model: Model,
        images: UInt8[np.ndarray, "N H W D"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch_size: int,
    ) -> tuple[Float32[np.ndarray, "S N C"], Bool[np.ndarray, "S"]]:
        """Every shard's logits, and bool[S], which of them have a model."""
        query = make_query(model, mean, std, batch_size)
        found = [
            None if variables is None else np.asarray(query(variables, images))
            for variables in self.variables(sharding)
        ]
        known = next((logits for logits in found if logits is not None), None)
        if known is None:
            raise InputError("No shard has an example left, so no model can answer; fit the ensemble anew.")
        votes = np.array([logits is not None for logits in found])
        return np.stack([np.zeros_like(known) if logits is None else logits for logits in found]), votes

    def parameters_sha256(self, sharding: Sharding) -> list[str | None]:
        """Of each shard's last weights and batch statistics; None without an example."""
        return [None if v is None else _sha256(v) for v in self.variables(sharding)]

    def _run(self, sharding: Sharding, shard: int, slice_: int) -> TrainingRun | None:
        """A step's training, or None where nothing is to be trained: no example, or epochs of less than half a step.

        The steps of gradient descent are rounded over a whole shard, Σ a·mᵢ/B up to each slice to the nearest, so that
        R roundings neither lose nor win any. A slice's number hangs on it and those before it, as its checkpoint does.
        """
        size = self._optimization.batch_size
        epochs = slice_epochs(self._optimization.epochs, len(sharding.slices[shard]))
        sizes = np.cumsum(sharding.sizes[shard])
        ends = np.floor(np.cumsum(epochs * sizes / size) + 0.5)
        steps = ends[slice_] - (ends[slice_ - 1] if slice_ else 0.0)
        if not steps:
            return None
        return TrainingRun(
            name=f"shard_{shard}/slice_{slice_}",
            seed=self._seed,
            index=sharding.prefix(shard, slice_),
            optimization=dataclasses.replace(self._optimization, epochs=float(steps * size / sizes[slice_])),
            recipe=self._recipe,
        )

    def _path(self, shard: int, slice_: int) -> pathlib.Path:
        return self.folder / f"shard_{shard:04d}" / f"slice_{slice_:04d}"

    def _fresh(self, shard: int) -> TrainState:
        key, _ = TrainingRun(
            f"shard_{shard}", self._seed, np.arange(1), self._optimization, self._recipe
        ).keys()
        optimizer = self._recipe.make_optimizer()
        return jax.tree.map(np.asarray, initial_state(self._recipe.model, optimizer, key))

    def _before(self, shard: int, slice_: int) -> TrainState:
        if slice_ == 0:
            return self._fresh(shard)
        return self._restore(self._path(shard, slice_ - 1))

    def _restore(self, path: pathlib.Path) -> TrainState:
        optimizer, model = self._recipe.make_optimizer(), self._recipe.model
        like = jax.eval_shape(lambda key: initial_state(model, optimizer, key), jax.random.key(0))
        return jax.tree.map(np.asarray, Checkpoints(path).restore(0, like))

    def _save(self, step: Step, state: TrainState) -> None:
        path = self._path(step.shard, step.slice)
        Checkpoints(path).save(0, state)
        # After the weights: a step without its note does not count.
        partial = path / ".step.json"
        partial.write_text(
            json.dumps({**dataclasses.asdict(step), "state_sha256": _sha256(state)}, indent=2) + "\n"
        )
        partial.rename(path / "step.json")

    def _load(self, step: Step) -> TrainState | None:
        """The step's state, where it is there, of this key and whole."""
        path = self._path(step.shard, step.slice)
        try:
            note = json.loads((path / "step.json").read_text())
            if note["key"] != step.key:
                return None
            state = self._restore(path)
            return state if _sha256(state) == note["state_sha256"] else None
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return None

    def _first_missing(self, shard: int, steps: Sequence[Step], say: Say) -> int:
        """The first step to train: the one after the last of the steps, in a row, that are there and whole."""
        noted = (_key_of(self._path(shard, step.slice)) == step.key for step in steps)
        first = next((i for i, there in enumerate(noted) if not there), len(steps))
        # Only what is gone on from is read: its hash tells whether it is what was written.
        while first and self._load(steps[first - 1]) is None:
            first -= 1
            say(f"the checkpoint of shard {shard}, slice {first} is damaged: it is trained again")
        return first

    def _forget(self, wanted: Sequence[Sequence[Step]], first: Sequence[int]) -> None:
        """Remove what was trained on examples that are gone, before anything is trained: a kill leaves no trace."""
        for shard, steps in enumerate(wanted):
            for step in steps[first[shard] :]:
                shutil.rmtree(self._path(shard, step.slice), ignore_errors=True)


def _key_of(path: pathlib.Path) -> str | None:
    try:
        return json.loads((path / "step.json").read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _restarted(state: TrainState) -> TrainState:
    """A step's streams are keyed by its own count of steps, from 0."""
    return state.replace(step=np.zeros((), np.int32))


def _sha256(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
