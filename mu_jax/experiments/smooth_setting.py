"""What the study of smooth models fixes before its first step: data, kinds of models, runs and where they train."""

import dataclasses
import functools

import jax
import numpy as np

from mu_jax.config import ClippingConfig, OptimizationConfig, SmoothAmun
from mu_jax.data.dataset import Dataset
from mu_jax.data.splits import Splits, make_splits
from mu_jax.experiments.setting import build_models, nonmember_rows, read_data
from mu_jax.models import Model
from mu_jax.ops import choose_lowering, choose_mapping, signal_lowering
from mu_jax.smoothness.tracking import make_post_step
from mu_jax.training.schedules import total_steps
from mu_jax.training.step import Recipe
from mu_jax.unlearning.plan import Task

ROWS = 100
"""Of a history of norms, about."""
ROLES = ("original", "retrain", "amun")


@dataclasses.dataclass(frozen=True)
class Kind:
    """Models that differ in nothing but their random numbers, and in what they were trained on."""

    norm: str
    clip: float
    """0: none"""

    @property
    def name(self) -> str:
        """`batch_free`, `none_c0.7`."""
        return f"{self.norm}_c{self.clip:g}" if self.clip else f"{self.norm}_free"

    @property
    def bound(self) -> float:
        """The norm to clip at; inf where nothing is clipped."""
        return self.clip or float("inf")


@dataclasses.dataclass(frozen=True)
class Member:
    """One model of the study."""

    role: str
    """one of ROLES"""
    kind: Kind
    number: int

    @property
    def name(self) -> str:
        """Of its checkpoint and its random streams, which do not depend on the clip: kinds start from one weight."""
        return f"{self.role}@{self.kind.name}_{self.number}"

    @property
    def stream(self) -> str:
        """What names its random streams: models of all clips start from the same weights and see the same batches."""
        return f"{self.role}@{self.kind.norm}_{self.number}"


@dataclasses.dataclass(frozen=True)
class SmoothSetting:
    """What is fixed before the first step."""

    config: SmoothAmun
    dataset: Dataset
    splits: Splits
    lowering: str
    mapping: str
    """as `choose_mapping` names it"""
    networks: dict[str, tuple[Model, Model]]
    """by norm: the network that trains, and the same one computing in float32"""

    @functools.cached_property
    def images(self) -> jax.Array:
        """uint8[N,H,W,D] on the device, training images first."""
        return jax.numpy.asarray(self.dataset.images)

    @functools.cached_property
    def nonmembers(self) -> np.ndarray:
        """Test rows the forgotten are compared with."""
        return nonmember_rows(self.config.forget, self.splits, self.dataset)

    @property
    def tracking_lowering(self) -> str:
        """Of the layers as linear maps."""
        return signal_lowering(self.lowering)

    def kinds(self, norm: str) -> list[Kind]:
        """Those of one norm, in the order of the config."""
        return [Kind(norm, clip) for clip in self.config.smoothness.clips]

    def members(self, norm: str, role: str) -> list[Member]:
        """Those of one norm and role."""
        numbers = range(self.config.smoothness.models)
        return [Member(role, kind, number) for kind in self.kinds(norm) for number in numbers]

    def clipping(self, norm: str) -> ClippingConfig:
        """The schedule of a norm's models."""
        return self.config.clipping if norm == "batch" else self.config.clipping_without_norm

    @property
    def record_every(self) -> int:
        """Steps from one row of a history to the next."""
        return max(total_steps(self.config.train, len(self.trained_rows)) // ROWS, 1)

    @property
    def history_rows(self) -> int:
        """Rows that hold every run of the study."""
        amun = self.config.amun.optimization
        longest = max(
            total_steps(self.config.train, len(self.trained_rows)),
            # AMUN visits the neighbours besides.
            total_steps(amun, len(self.trained_rows) + len(self.splits.forget)),
        )
        return longest // self.record_every + 1

    @property
    def trained_rows(self) -> np.ndarray:
        """What an original learns."""
        return np.union1d(self.splits.retain, self.splits.forget)

    def recipe(self, norm: str, optimization: OptimizationConfig) -> Recipe:
        """Training with tracking and clipping; the clip itself is data."""
        model = self.networks[norm][0]
        post_step = make_post_step(
            model.layers(), self.clipping(norm), self.tracking_lowering, self.record_every
        )
        return Recipe.of(model, self.config.data, optimization, post_step=post_step)

    def task(self, norm: str, original: object = None) -> Task:
        """The request to forget, of one norm's models."""
        model, query_model = self.networks[norm]
        in_float32 = self.config.model.compute_dtype == "float32"
        return Task(
            model=model,
            images=self.images,
            labels=self.dataset.labels,
            num_classes=self.dataset.num_classes,
            retain=self.splits.retain,
            forget=self.splits.forget,
            data=self.config.data,
            seed=self.config.seed,
            original=original,
            query_model=query_model,
            attack_model=model if in_float32 else query_model,
        )


def prepare_smooth(config: SmoothAmun) -> SmoothSetting:
    """Read and check everything that the config points at; writes nothing."""
    dataset = read_data(config.data, config.seed)
    splits = make_splits(dataset, config.data, config.forget, config.seed)
    runs = 2 * config.smoothness.models * len(config.smoothness.clips)
    sizes = {
        "width": config.model.width,
        "image_size": max(dataset.image_shape[:2]),
        "dtype": config.model.compute_dtype,
    }
    backend = jax.default_backend()
    mapping = choose_mapping("auto", backend, models=runs, **sizes)
    lowering = choose_lowering(config.model.convolution, backend, models=runs, mapping=mapping, **sizes)
    networks = {
        norm: build_models(dataclasses.replace(config.model, norm=norm), dataset, lowering)
        for norm in config.smoothness.norms
    }
    setting = SmoothSetting(config, dataset, splits, lowering, mapping, networks)
    _ = setting.nonmembers  # fails now rather than after training
    return setting
