"""What an experiment on one model and one forget set fixes before its first step."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from mu_jax.config import DataConfig, ForgetConfig, InputError, ModelConfig, UnlearningComparison
from mu_jax.data.dataset import Dataset
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits, make_splits
from mu_jax.models import Model, build_model
from mu_jax.ops import choose_lowering, signal_lowering


@dataclasses.dataclass
class Trained:
    """One model of the comparison, and what it took."""

    variables: Any
    seconds: float
    compile_seconds: float
    trained_samples: int


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is fixed before the first step: data, splits, and the model in both precisions."""

    config: UnlearningComparison
    dataset: Dataset
    splits: Splits
    lowering: str
    model: Model
    query_model: Model
    """the same network, computing in float32 whatever training uses: attacks read it"""

    @functools.cached_property
    def images(self) -> jax.Array:
        """uint8[N,H,W,D] on the device, training images first: the one copy that everything reads."""
        return jax.numpy.asarray(self.dataset.images)

    @functools.cached_property
    def nonmembers(self) -> np.ndarray:
        """Test rows the forgotten are compared with."""
        return nonmember_rows(self.config.forget, self.splits, self.dataset)


def nonmember_rows(forget: ForgetConfig, splits: Splits, dataset: Dataset) -> np.ndarray:
    """Test rows the forgotten are compared with: of the forgotten classes alone where classes are deleted."""
    test = splits.test
    if forget.indices or not forget.classes:
        return test
    rows = test[np.isin(dataset.labels[test], forget.classes)]
    if len(rows) == 0:
        raise InputError(
            f"No test image has a deleted class {forget.classes}, so the attack has nothing to compare with; "
            "use a test set that holds them."
        )
    return rows


def prepare(config: UnlearningComparison) -> Setting:
    """Read and check everything that the config points at; writes nothing."""
    dataset = read_data(config.data, config.seed)
    splits = make_splits(dataset, config.data, config.forget, config.seed)
    lowering = choose_lowering(
        config.model.convolution,
        jax.default_backend(),
        width=config.model.width,
        image_size=max(dataset.image_shape[:2]),
        dtype=config.model.compute_dtype,
    )
    setting = Setting(config, dataset, splits, lowering, *build_models(config.model, dataset, lowering))
    _ = setting.nonmembers  # fails now rather than after training
    return setting


def read_data(config: DataConfig, seed: int, *, tabular: bool = False) -> Dataset:
    """The dataset, with constants of normalisation that fit its channels, which a table's columns are.

    InputError for a table unless `tabular`: most experiments move, mirror or show images.
    """
    dataset = load_dataset(config, seed)
    if dataset.is_tabular and not tabular:
        raise InputError(
            f"data.source is {config.source!r}, a table of {dataset.image_shape[-1]} columns, but this experiment "
            "needs images; choose a source of images, such as --config.data.source=digits."
        )
    what, part = ("table has", "column") if dataset.is_tabular else ("images have", "channel")
    channels = dataset.image_shape[-1]
    for key in ("mean", "std"):
        values = getattr(config, key)
        if len(values) not in (1, channels):
            raise InputError(
                f"data.{key} has {len(values)} values, but the {what} {channels} {part}s; give one value, or one a "
                f"{part}."
            )
    return dataset


def attack_model(setting: Any) -> Model:
    """Of a setting's two networks, the one whose gradients attacks follow: it computes in float32, and fast."""
    in_float32 = setting.config.model.compute_dtype == "float32"
    return setting.model if in_float32 else setting.query_model


def build_models(
    config: ModelConfig, dataset: Dataset, lowering: str, for_signals: str | None = None
) -> tuple[Model, Model]:
    """(the network that trains, the same one computing in float32, for signals, with `for_signals` as its lowering)."""
    build = functools.partial(
        build_model, config, num_classes=dataset.num_classes, image_shape=dataset.image_shape
    )
    for_signals = for_signals or signal_lowering(lowering)
    return build(convolution=lowering), build(convolution=for_signals, compute_dtype="float32")
