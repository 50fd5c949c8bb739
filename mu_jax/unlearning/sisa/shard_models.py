"""The models of SISA's shards, trained slice after slice with a checkpoint each, and only where something changed.

A step's weights depend on its shard's number, its own, the surviving examples of its slices and the settings, and on
nothing else: not on other shards, nor on the order of deletions. So what a deletion leaves is bitwise what a fit makes
of the surviving examples, and both are one function here: train what no longer has its key.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from mu_jax.config import InputError, OptimizationConfig
from mu_jax.data.files import write_json
from mu_jax.models import Model
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.loop import DivergenceError, TrainingRun
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.query import make_query
from mu_jax.training.state import TrainState, initial_state, variables_of
from mu_jax.unlearning.sisa.sharding import Sharding, slice_epochs
from mu_jax.unlearning.sisa.slice_keys import slice_keys

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
        trainer: ParallelTrainer,
        optimization: OptimizationConfig,
        fingerprint: Callable[[np.ndarray], bytes],
        *,
        seed: int,
        settings: Mapping[str, Any],
    ) -> None:
        """`optimization.epochs` is e₀, the epochs of an equal model without slices; each of R steps has 2e₀/(R + 1).

        `trainer`, made `from_states`, holds the examples, and may serve several ensembles, each in its folder: a group
        of `placement.width` shards trains at once. `fingerprint(positions)` is a digest of these examples' images and
        labels, `settings` whatever else the weights depend on (the architecture, say): both go into the steps' keys.
        """
        if not trainer.from_states:
            raise InputError(
                "The shards' trainer starts from weights, but expected one that starts from whole states, which a "
                "slice goes on from; make it with from_states=True."
            )
        self.folder = pathlib.Path(folder)
        self._trainer, self._recipe = trainer, trainer.recipe
        self._optimization, self._seed = optimization, seed
        self._fingerprint = fingerprint
        self._settings = {
            **settings,
            "optimization": dataclasses.asdict(optimization),
            "version": RECIPE_VERSION,
        }

    @property
    def compile_seconds(self) -> float:
        """Of the one program that all steps run."""
        return self._trainer.compile_seconds

    @property
    def epochs(self) -> float:
        """e₀: an example trained on for all of them is the unit of cost."""
        return self._optimization.epochs

    def name_of(self, step: Step) -> str:
        """The folder of a step's checkpoint, inside this one."""
        return str(self._path(step.shard, step.slice).relative_to(self.folder))

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

    def train(
        self, sharding: Sharding, say: Say = lambda text: None, shards: Iterable[int] | None = None
    ) -> Work:
        """Train every step whose checkpoint is not that of this sharding, and what follows it in its shard.

        Steps that are there are kept: a fit that was cut off goes on, and a deletion repeats only what it must. A
        checkpoint that cannot be read, or whose weights are not what was written, is said and trained again. With
        `shards` the others are not looked at.
        """
        return _train([_Plan(self, sharding, say, shards)], say)[0]

    def retrained_samples(self, sharding: Sharding, indices: Int[np.ndarray, "n"]) -> int:
        """Examples that deleting these would show to the steps it repeats, repeats counted; trains nothing."""
        left, first = sharding.without(indices), sharding.earliest(indices)
        runs = [
            self._run(left, shard, slice_)
            for shard in range(len(left.slices))
            for slice_ in range(first[shard], len(left.slices[shard]))
        ]
        return sum(run.trained_samples for run in runs if run is not None)

    def seconds(self, steps: Iterable[Step]) -> float:
        """What these steps took, where they are there: each its share of its group's time, by gradient steps."""
        noted = (_note_of(self._path(step.shard, step.slice)) for step in steps)
        return float(sum(note["seconds"] for note in noted if note))

    def variables(self, sharding: Sharding, shards: Iterable[int] | None = None) -> list[PyTree | None]:
        """The last step's weights of each shard, or of these; None for one without an example: it does not vote."""
        found, all_steps = [], self.steps(sharding)
        for shard in range(len(all_steps)) if shards is None else shards:
            steps = all_steps[shard]
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

    def parameters_sha256(self, sharding: Sharding, shards: Iterable[int] | None = None) -> list[str | None]:
        """Of each shard's, or these shards', last weights and batch statistics; None without an example."""
        return [None if v is None else _sha256(v) for v in self.variables(sharding, shards)]

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
        like, packed = self._shapes
        return _unpacked(jax.tree.map(np.asarray, Checkpoints(path).restore(0, packed)), like)

    @functools.cached_property
    def _shapes(self) -> tuple[PyTree, PyTree]:
        """Of a state, as it trains and as it is stored."""
        optimizer, model = self._recipe.make_optimizer(), self._recipe.model
        like = jax.eval_shape(lambda key: initial_state(model, optimizer, key), jax.random.key(0))
        return like, jax.eval_shape(_packed, like)

    def _save(self, step: Step, state: TrainState, seconds: float) -> None:
        path = self._path(step.shard, step.slice)
        Checkpoints(path).save(0, jax.tree.map(np.asarray, _packed(state)))
        note = {**dataclasses.asdict(step), "state_sha256": _sha256(state), "seconds": round(seconds, 4)}
        # After the weights: a step without its note does not count.
        write_json(path / "step.json", note)

    def _load(self, step: Step) -> TrainState | None:
        """The step's state, where it is there, of this key and whole."""
        path = self._path(step.shard, step.slice)
        try:
            note = json.loads((path / "step.json").read_text())
            if note["key"] != step.key:
                return None
            state = self._restore(path)
            return state if _sha256(state) == note["state_sha256"] else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
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
                path = self._path(shard, step.slice)
                if path.exists():
                    shutil.rmtree(path)


def train_together(
    ensembles: Sequence[tuple[ShardModels, Sharding]], say: Say = lambda text: None
) -> list[Work]:
    """`ShardModels.train` of several ensembles that share a trainer, their shards side by side in its groups.

    What each does is bitwise what it does alone.
    """
    if any(models._trainer is not ensembles[0][0]._trainer for models, _ in ensembles):
        raise ValueError(
            "The ensembles have several trainers, but a group has one; make them with the same one."
        )
    return _train([_Plan(models, sharding, say) for models, sharding in ensembles], say)


def _train(plans: Sequence["_Plan"], say: Say) -> list[Work]:
    trainer = plans[0].trainer
    width = trainer.placement.width
    for slice_ in range(max(len(plan.wanted[0]) for plan in plans)):
        due = [(plan, shard) for plan in plans for shard in plan.due(slice_)]
        for plan, shard in due:
            plan.begin(shard, slice_)
        # A step that trains nothing leaves what the one before it left. Long runs first: groups of like lengths.
        active = [(plan, shard) for plan, shard in due if plan.run(shard, slice_) is not None]
        active.sort(key=lambda place: -place[0].run(place[1], slice_).steps)
        for start in range(0, len(active), width):
            group = active[start : start + width]
            began = time.perf_counter()
            runs = [plan.run(shard, slice_) for plan, shard in group]
            trained = trainer.train(runs, states=[_restarted(plan.states[shard]) for plan, shard in group])
            broken = np.flatnonzero(trained.diverged_step >= 0)
            if broken.size:
                raise DivergenceError(
                    f"Shard {group[broken[0]][1]} diverged in slice {slice_} at step "
                    f"{trained.diverged_step[broken[0]]} of {runs[broken[0]].steps}; try a smaller learning_rate "
                    "or a longer warmup_epochs."
                )
            for i, (plan, shard) in enumerate(group):
                plan.states[shard] = trained.state_of(i)
            spent, total = time.perf_counter() - began, sum(run.steps for run in runs)
            for (plan, shard), run in zip(group, runs, strict=True):
                plan.spent[shard] += spent * run.steps / total
        for plan, shard in due:
            plan.save(shard, slice_)
        if due:
            say(f"slice {slice_}: {len(due)} shards trained")
    return [Work(tuple(plan.done), plan.seconds) for plan in plans]


class _Plan:
    """What one ensemble has still to train, and how far it is."""

    def __init__(
        self, models: ShardModels, sharding: Sharding, say: Say, shards: Iterable[int] | None = None
    ) -> None:
        self._models, self._sharding, self.trainer = models, sharding, models._trainer
        self.wanted = models.steps(sharding)
        meant = set(range(len(self.wanted)) if shards is None else shards)
        self._first = [
            models._first_missing(shard, steps, say) if shard in meant else len(steps)
            for shard, steps in enumerate(self.wanted)
        ]
        models._forget(self.wanted, self._first)
        self.states: dict[int, TrainState] = {}
        self.spent: dict[int, float] = {}
        self.done: list[Step] = []
        self.seconds = 0.0

    def due(self, slice_: int) -> list[int]:
        return [shard for shard, steps in enumerate(self.wanted) if self._first[shard] <= slice_ < len(steps)]

    def begin(self, shard: int, slice_: int) -> None:
        self.spent[shard] = 0.0
        if shard not in self.states:
            self.states[shard] = self._models._before(shard, slice_)

    def run(self, shard: int, slice_: int) -> TrainingRun | None:
        return self._models._run(self._sharding, shard, slice_)

    def save(self, shard: int, slice_: int) -> None:
        step = self.wanted[shard][slice_]
        self._models._save(step, self.states[shard], self.spent[shard])
        self.done.append(step)
        self.seconds += self.spent[shard]


def _note_of(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        note = json.loads((path / "step.json").read_text())
        return note if isinstance(note["key"], str) and isinstance(note["seconds"], float | int) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _key_of(path: pathlib.Path) -> str | None:
    note = _note_of(path)
    return note and note["key"]


def _restarted(state: TrainState) -> TrainState:
    """A step's streams are keyed by its own count of steps, from 0."""
    return state.replace(step=np.zeros((), np.int32))


def _packed(state: PyTree) -> dict[str, Any]:
    """One vector for all arrays of a dtype: a step's checkpoint is three times as fast to write, and to read."""
    by_dtype: dict[str, list[Any]] = {}
    for leaf in jax.tree.leaves(state):
        by_dtype.setdefault(str(leaf.dtype), []).append(leaf.reshape(-1))
    return {name: _joined(leaves) for name, leaves in by_dtype.items()}


def _unpacked(packed: Mapping[str, np.ndarray], like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    ends = dict.fromkeys(packed, 0)
    found = []
    for leaf in leaves:
        name = str(leaf.dtype)
        start, ends[name] = ends[name], ends[name] + leaf.size
        found.append(packed[name][start : ends[name]].reshape(leaf.shape))
    return jax.tree.unflatten(structure, found)


def _joined(leaves: Sequence[Any]) -> Any:
    host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
    return (np if host else jax.numpy).concatenate(leaves)


def _sha256(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
