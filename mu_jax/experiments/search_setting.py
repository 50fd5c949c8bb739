"""What a search for settings fixes before its first step: data, both forget sets, the grid, and where it trains."""

import dataclasses
import functools
import itertools

import jax
import numpy as np

from mu_jax.config import UnlearningSearch
from mu_jax.data.dataset import Dataset
from mu_jax.data.splits import Splits, make_splits, splits_of_search
from mu_jax.experiments.search_grid import Candidate, grid
from mu_jax.experiments.setting import attack_model, build_models, read_data
from mu_jax.experiments.side_by_side import first_placement
from mu_jax.models import Model
from mu_jax.ops import choose_lowering, choose_mapping
from mu_jax.training.placement import Placement
from mu_jax.unlearning.plan import Plan, Task


@dataclasses.dataclass(frozen=True)
class SearchSetting:
    """Data, sets, grid, and the model as it trains alone, as it trains beside others, and as it is asked."""

    config: UnlearningSearch
    dataset: Dataset
    scored: Splits
    """of the set that methods will be scored on: no candidate is asked about it"""
    splits: Splits
    """of the search's own set; the scored one's examples are retained ones here"""
    grid: dict[str, list[Candidate]]
    mapping: str
    """as `choose_mapping` names it"""
    lowering: str
    group_lowering: str
    """of models that train side by side"""
    model: Model
    query_model: Model
    """computes in float32"""
    group_model: Model

    @functools.cached_property
    def images(self) -> jax.Array:
        """uint8[N,H,W,D] on the device, training images first: the one copy that everything reads."""
        return jax.numpy.asarray(self.dataset.images)

    @property
    def candidates(self) -> list[Candidate]:
        """Those of all methods, one method after another."""
        return list(itertools.chain.from_iterable(self.grid.values()))

    @functools.cached_property
    def task(self) -> Task:
        """The request to forget the search's own set, as yet without an original model."""
        return Task(
            model=self.model,
            images=self.images,
            labels=self.dataset.labels,
            num_classes=self.dataset.num_classes,
            retain=self.splits.retain,
            forget=self.splits.forget,
            data=self.config.data,
            seed=self.config.seed,
            query_model=self.query_model,
            attack_model=attack_model(self),
        )

    def original_plan(self, name: str = "original") -> Plan:
        """The training of an original: by seed, name and recipe that of `unlearning_methods` with these settings."""
        return Plan(
            name=name,
            start="scratch",
            examples=self.task.examples(self.config.train.label_smoothing),
            index=np.union1d(self.splits.retain, self.splits.forget),
            optimization=self.config.train,
        )

    def first_placement(self, runs: int) -> Placement:
        """Where groups of a batch of so many runs go, before it is known whether they fit into memory."""
        return first_placement(self.mapping, runs, self.config.search.models_per_device)


def prepare_search(config: UnlearningSearch) -> SearchSetting:
    """Read and check everything that the config points at; writes nothing."""
    candidates = grid(config)
    dataset = read_data(config.data, config.seed)
    scored = make_splits(dataset, config.data, config.forget, config.seed)
    sizes = {
        "width": config.model.width,
        "image_size": max(dataset.image_shape[:2]),
        "dtype": config.model.compute_dtype,
    }
    backend, number = jax.default_backend(), sum(map(len, candidates.values()))
    lowering = choose_lowering(config.model.convolution, backend, **sizes)
    mapping = choose_mapping("auto", backend, models=number, **sizes)
    group_lowering = choose_lowering(
        config.model.convolution, backend, models=number, mapping=mapping, **sizes
    )
    model, query_model = build_models(config.model, dataset, lowering)
    group_model = build_models(config.model, dataset, group_lowering)[0]
    splits = splits_of_search(scored, config.seed)
    return SearchSetting(
        config, dataset, scored, splits, candidates, mapping, lowering, group_lowering, model, query_model, group_model
    )  # fmt: skip
