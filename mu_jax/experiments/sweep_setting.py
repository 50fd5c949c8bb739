"""What a shadow sweep fixes before its first step."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.attacks.signals import confidence, logit_margin
from mu_jax.config import InputError, ShadowSweep, to_dict
from mu_jax.data.dataset import Dataset
from mu_jax.data.membership import draw_membership, embed_membership, read_membership
from mu_jax.data.splits import draw_validation
from mu_jax.experiments.setting import build_models, read_data
from mu_jax.models import Model
from mu_jax.models.own_code import model_identity
from mu_jax.ops import choose_lowering, choose_mapping
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.query_views import View, make_signals, query_views
from mu_jax.training.step import Recipe

RECIPE_VERSION = 1
"""Raised by hand when a change to training makes other models of the same settings."""

# A group is what a kill may cost, and on one device `map` gains nothing from a longer one.
_IMAGES_A_GROUP = 200_000
# 8×8 images, ResNet-18 of width 16, 2 cores: 33,000 images/s in blocks of 100, 22,000 in blocks of 500.
_CPU_QUERY, _QUERY = 100, 500
_MOST_BY_MAP, _MOST_BY_VMAP = 8, 32


@dataclasses.dataclass(frozen=True)
class SweepSetting:
    """Data, candidates and the model in both precisions."""

    config: ShadowSweep
    dataset: Dataset
    candidates: np.ndarray
    """int64[M], positions among the N examples that may be members"""
    mapping: str
    """as `choose_mapping` names it"""
    lowering: str
    model: Model
    query_model: Model
    views: tuple[View, ...]

    @functools.cached_property
    def recipe(self) -> Recipe:
        """What of a run is compiled."""
        return Recipe.of(self.model, self.config.data, self.config.train)

    @functools.cached_property
    def examples(self) -> Examples:
        """All N examples, on the host: the trainer places them."""
        labels = self.dataset.labels
        targets = label_targets(labels, self.dataset.num_classes, self.config.train.label_smoothing)
        return Examples(self.dataset.images, targets, np.ones(len(labels), np.float32))

    def produced_by(self) -> dict[str, Any]:
        """Everything that made one model and its signals: not how many there are, nor where they trained."""
        config = self.config
        settings = to_dict(config)
        query = settings["query"]
        del query["batch"]
        model = model_identity(config.model)
        del model["convolution"]
        return {
            "recipe_version": RECIPE_VERSION,
            "seed": config.seed,
            "data": {
                "fingerprint": self.dataset.fingerprint(),
                "mean": settings["data"]["mean"],
                "std": settings["data"]["std"],
            },
            "model": model,
            "train": settings["train"],
            "membership": {
                "kind": config.sweep.membership,
                "candidates": config.sweep.candidates,
                "validation_fraction": config.data.validation_fraction,
            },
            "query": query,
        }

    def membership(self, blocks: list[int]) -> np.ndarray:
        """bool[K,N], with the models of each sweep so far in a block of their own."""
        sweep, size = self.config.sweep, len(self.candidates)
        if sweep.membership == "file":
            member = read_membership(sweep.membership_file, sum(blocks), size)
        else:
            member = draw_membership(sweep.membership, blocks, size, self.config.seed)
        return embed_membership(member, self.candidates, len(self.dataset.labels))

    def runs(self, member: np.ndarray, models: list[int]) -> list[TrainingRun]:
        """The training of these rows of the membership matrix; of model k by its number alone."""
        return [
            TrainingRun(
                name=model_name(k),
                seed=self.config.seed,
                index=np.flatnonzero(member[k]),
                optimization=self.config.train,
                recipe=self.recipe,
            )
            for k in models
        ]

    def first_placement(self, processes: int) -> Placement:
        """Where the groups of this sweep go, before it is known whether they fit into memory."""
        sweep = self.config.sweep
        inside = self.mapping.removeprefix("pmap_")
        devices = sweep.devices or (jax.local_device_count() if self.mapping != inside else 1)
        each = math.ceil(sweep.models / processes)
        if not sweep.devices:
            devices = min(devices, each)
        images = self.config.train.epochs * len(self.candidates) / 2
        by_mapping = {
            "one": 1,
            "map": int(min(max(_IMAGES_A_GROUP // max(images, 1), 1), _MOST_BY_MAP)),
            "vmap": _MOST_BY_VMAP,
        }
        # As few groups as fit, all of one size: a kill costs no more than it must.
        groups = math.ceil(each / (devices * by_mapping[inside]))
        chosen = math.ceil(each / (devices * groups))
        return Placement(inside, devices, sweep.models_per_device or chosen)

    def make_trainer(self, placement: Placement) -> ParallelTrainer:
        """A trainer of groups that ends with reading φ, the true class's probability and, if asked for, logits."""
        config = self.config
        query = make_signals(
            self.query_model,
            config.data.mean,
            config.data.std,
            config.query.batch or (_CPU_QUERY if jax.default_backend() == "cpu" else _QUERY),
            self.views,
            functools.partial(_signals, keep_logits=config.query.logits),
        )
        examples = self.examples
        return ParallelTrainer(
            self.recipe,
            examples,
            placement,
            batch_size=config.train.batch_size,
            chunk_steps=config.loop.chunk_steps,
            query_fn=lambda variables, data: query(variables, *data),
            query_data=(examples.images, self.dataset.labels),
        )


def model_name(model: int) -> str:
    """Names the model's random streams, so it may never change."""
    return f"shadow_{model:05d}"


def prepare_sweep(config: ShadowSweep, recorded_lowering: str | None = None) -> SweepSetting:
    """Read and check everything that the config points at; writes nothing.

    A run that goes on has its lowering recorded: the table may have changed since, or choose otherwise for more models.
    """
    dataset = read_data(config.data, config.seed)
    n_train, n_test = len(dataset.y_train), len(dataset.y_test)
    validation = draw_validation(n_train, config.data.validation_fraction, None, config.seed)
    may_be = n_train + (n_test if config.sweep.candidates == "train+test" else 0)
    candidates = np.setdiff1d(np.arange(may_be), validation)
    sizes = {
        "width": config.model.width,
        "image_size": max(dataset.image_shape[:2]),
        "models": config.sweep.models,
        "dtype": config.model.compute_dtype,
    }
    backend = jax.default_backend()
    mapping = choose_mapping(config.sweep.mapping, backend, **sizes)
    lowering = recorded_lowering or choose_lowering(
        config.model.convolution, backend, mapping=mapping, **sizes
    )
    setting = SweepSetting(
        config,
        dataset,
        candidates,
        mapping,
        lowering,
        # Signals too by the training's lowering. Winograd reads 32×32 images 2.5 times as fast as patches do, all
        # blocks have one size, and φ moves by some 1e-5.
        *build_models(config.model, dataset, lowering, lowering),
        query_views(config.query.flip, config.query.shift, config.query.stride),
    )
    if config.query.shift >= max(dataset.image_shape[:2]):
        raise InputError(
            f"query.shift is {config.query.shift}, but the images have {dataset.image_shape[0]}×"
            f"{dataset.image_shape[1]} pixels, so nothing of them would be left; give less."
        )
    return setting


def _signals(logits: jax.Array, labels: jax.Array, *, keep_logits: bool) -> dict[str, jax.Array]:
    signals = {
        "phi": logit_margin(logits, labels),
        "probability": confidence(logits, labels),
        "correct": jnp.argmax(logits, axis=-1) == labels,
    }
    return signals | ({"logits": logits} if keep_logits else {})
