"""What an experiment with SISA fixes before its first step: data, shards, model, and how groups of shards train."""

import dataclasses
import functools
import hashlib
import math
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from mu_jax.config import InputError, SisaDelete, SisaPosterior
from mu_jax.data.array_files import read_array
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import UNREADABLE, user_path, write_json
from mu_jax.experiments.run_folder import read_json, versions
from mu_jax.experiments.setting import build_models, read_data
from mu_jax.models import Model
from mu_jax.models.own_code import model_identity
from mu_jax.ops import choose_lowering
from mu_jax.ops.choice import choose_mapping
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement, fit_to_memory
from mu_jax.training.step import Recipe
from mu_jax.unlearning.sisa.ensemble import Sisa
from mu_jax.unlearning.sisa.shard_models import ShardModels
from mu_jax.unlearning.sisa.sharding import Sharding, distribution_aware_sharding, uniform_sharding

_MOST_BY_MAP, _MOST_BY_VMAP = 8, 32


@dataclasses.dataclass(frozen=True)
class SisaSetting:
    """Data, model and ways; `trainer` compiles, once for all ensembles."""

    config: SisaPosterior | SisaDelete
    dataset: Dataset
    mapping: str
    lowering: str
    model: Model
    query_model: Model
    """the same network in float32: what is asked"""

    @functools.cached_property
    def digests(self) -> UInt8[np.ndarray, "M 32"]:
        """SHA-256 of each training image with its label."""
        images, labels = self.dataset.x_train, self.dataset.y_train.astype("<i8")
        found = [
            hashlib.sha256(image.tobytes() + label.tobytes()).digest()
            for image, label in zip(images, labels, strict=True)
        ]
        return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)

    def sharding(
        self, rows: np.ndarray, shards: int | None = None, slices: int | None = None, seed: int | None = None
    ) -> Sharding:
        """Of these training rows, as the settings say, or uniformly into other numbers of shards and slices."""
        sisa, seed = self.config.sisa, self.config.seed if seed is None else seed
        slices = slices or sisa.slices
        if sisa.sharding == "uniform" or shards:
            return uniform_sharding(rows, shards or sisa.shards, slices, seed)
        likely = _read_probabilities(user_path(sisa.probabilities), len(self.dataset.y_train))
        return distribution_aware_sharding(rows, likely[rows], sisa.capacity, slices, seed)

    def first_placement(self, shards: int) -> Placement:
        """Where groups of shards go, before it is known whether they fit into memory."""
        sisa = self.config.sisa
        inside = self.mapping.removeprefix("pmap_")
        devices = sisa.devices or (jax.local_device_count() if self.mapping != inside else 1)
        if not sisa.devices:
            devices = min(devices, shards)
        most = {"one": 1, "map": _MOST_BY_MAP, "vmap": _MOST_BY_VMAP}[inside]
        # As few groups as fit, all of one size.
        groups = math.ceil(shards / (devices * most))
        return Placement(inside, devices, sisa.models_per_device or math.ceil(shards / (devices * groups)))

    def make_trainer(self, placement: Placement) -> ParallelTrainer:
        """A trainer of groups of shards, on all training images."""
        config, dataset = self.config, self.dataset
        targets = label_targets(dataset.y_train, dataset.num_classes, config.train.label_smoothing)
        return ParallelTrainer(
            Recipe.of(self.model, config.data, config.train),
            Examples(dataset.x_train, targets, np.ones(len(targets), np.float32)),
            placement,
            batch_size=config.train.batch_size,
            chunk_steps=config.loop.chunk_steps,
            from_states=True,
        )

    def trainer(self, folder: pathlib.Path, shards: int) -> ParallelTrainer:
        """A compiled one; its placement is settled once and kept in the folder, because it decides bits."""
        path = folder / "plan.json"
        saved = read_json(path)
        if saved is not None:
            trainer = self.make_trainer(_placement(saved, path))
            trainer.compile()
            return trainer
        trainer = fit_to_memory(self.make_trainer, self.first_placement(shards))
        write_json(path, dataclasses.asdict(trainer.placement))
        return trainer

    def models(self, folder: pathlib.Path, trainer: ParallelTrainer, seed: int | None = None) -> ShardModels:
        """An ensemble's models, to be trained in `folder` on any sharding of the training rows."""
        config = self.config
        settings = model_identity(config.model) | {
            "convolution": self.lowering,
            "classes": self.dataset.num_classes,
            "image_shape": list(self.dataset.image_shape),
            "mean": list(config.data.mean),
            "std": list(config.data.std),
        }
        return ShardModels(
            folder,
            trainer,
            config.train,
            lambda rows: self.digests[rows].tobytes(),
            seed=config.seed if seed is None else seed,
            settings=settings,
        )

    def ensemble(self, folder: pathlib.Path, trainer: ParallelTrainer, sharding: Sharding) -> Sisa:
        """The ensemble that deletes, in its folder."""
        config = self.config
        return Sisa(
            folder,
            self.models(folder / "models", trainer),
            sharding,
            self.query_model,
            mean=config.data.mean,
            std=config.data.std,
            batch_size=config.evaluation.query_batch,
            aggregation=config.sisa.aggregation,
            environment={
                "versions": versions(),
                "backend": jax.default_backend(),
                "device": jax.local_devices()[0].device_kind,
                **dataclasses.asdict(trainer.placement),
            },
        )

    def facts(self, placement: Placement, sharding: Sharding) -> dict[str, Any]:
        """The ensemble in `results.json`."""
        sisa = self.config.sisa
        return {
            "shards": len(sharding.slices),
            "slices": len(sharding.slices[0]),
            "sharding": sisa.sharding,
            "aggregation": sisa.aggregation,
            **dataclasses.asdict(placement),
        }


def prepare_sisa(config: SisaPosterior | SisaDelete, recorded_lowering: str | None = None) -> SisaSetting:
    """Read and check what the config points at; writes nothing. A folder that goes on has its lowering recorded."""
    dataset = read_data(config.data, config.seed)
    sizes = {
        "width": config.model.width,
        "image_size": max(dataset.image_shape[:2]),
        # One shard is trained by the loop for one of several all the same.
        "models": max(config.sisa.shards, 2),
        "dtype": config.model.compute_dtype,
    }
    backend = jax.default_backend()
    mapping = choose_mapping(config.sisa.mapping, backend, **sizes)
    lowering = recorded_lowering or choose_lowering(
        config.model.convolution, backend, mapping=mapping, **sizes
    )
    return SisaSetting(
        config, dataset, mapping, lowering, *build_models(config.model, dataset, lowering, lowering)
    )


def _placement(saved: Any, path: pathlib.Path) -> Placement:
    try:
        fields = {field.name: saved[field.name] for field in dataclasses.fields(Placement)}
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it, or fit in another --workdir."
        ) from None
    try:
        return Placement(**fields)
    except TypeError as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or fit in another --workdir.") from None
    except InputError as error:
        raise InputError(
            f"{path} has groups over {fields['devices']} devices, and that cannot change: {error}"
        ) from None


def _read_probabilities(path: pathlib.Path, examples: int) -> np.ndarray:
    fix = "save it with np.save(FILE, probabilities), one for each training example"
    try:
        found = read_array(path)
    except UNREADABLE as error:
        reason = (
            "there is no such file"
            if isinstance(error, FileNotFoundError)
            else f"it cannot be read ({error})"
        )
        raise InputError(f"sisa.probabilities is {str(path)!r}, but {reason}; {fix}.") from None
    if found.shape != (examples,) or found.dtype.kind != "f":
        raise InputError(
            f"{path} has dtype {found.dtype} and shape {found.shape}, but expected floats [{examples}]; {fix}."
        )
    return found.astype(np.float64)
