"""What class unlearning fixes before its first step: data, classes, models and the rows of its table."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from mu_jax.config import ClassUnlearning, ForgetConfig, InputError, with_settings
from mu_jax.config.errors import one_of
from mu_jax.data.dataset import Dataset
from mu_jax.data.splits import Splits, make_splits
from mu_jax.experiments.setting import attack_model, build_models, read_data
from mu_jax.models import Model
from mu_jax.ops import choose_lowering, choose_mapping
from mu_jax.training.loop import TrainingRun
from mu_jax.training.step import Recipe
from mu_jax.unlearning.methods import CLASS_METHODS, METHODS
from mu_jax.unlearning.plan import Task


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """A row of the table: a method with its settings."""

    name: str
    """as the config has it: `trw`, or `trw:temperature=0.5`"""
    method: str
    settings: Any

    @property
    def file(self) -> str:
        """Its name where a file system must bear it."""
        return self.name.replace(":", "~").replace("/", "_")


@dataclasses.dataclass(frozen=True)
class Member:
    """One model of the pool."""

    role: str
    """`original`, `retrain`, or a row's name"""
    forgotten: int
    """the class; −1 for an original, which serves all"""
    number: int

    @property
    def name(self) -> str:
        """Of its answers, and of its random streams."""
        role = self.role.replace(":", "~").replace("/", "_")
        return f"{role}_{self.number}" if self.forgotten < 0 else f"{role}@{self.forgotten}_{self.number}"


@dataclasses.dataclass(frozen=True)
class ClassSetting:
    """What is fixed before the first step."""

    config: ClassUnlearning
    dataset: Dataset
    splits: Splits
    """of the first class; what it forgets and retains together is what an original learns"""
    classes: tuple[int, ...]
    """to forget, one after another"""
    rows: tuple[MethodRow, ...]
    lowering: str
    mapping: str
    """as `choose_mapping` names it"""
    model: Model
    query_model: Model
    """the same network, computing in float32"""

    @functools.cached_property
    def images(self) -> jax.Array:
        """uint8[N,H,W,D] on the device, training images first: the one copy that everything reads."""
        return jax.numpy.asarray(self.dataset.images)

    @functools.cached_property
    def trained(self) -> np.ndarray:
        """int64[·], what an original learns."""
        return np.union1d(self.splits.retain, self.splits.forget)

    def rows_of(self, forgotten: int) -> dict[str, np.ndarray]:
        """int64 positions: training images to `retain` and to `forget`, and test images of both kinds."""
        labels, test = self.dataset.labels, self.splits.test
        of_class, tested = labels[self.trained] == forgotten, labels[test] == forgotten
        return {
            "retain": self.trained[~of_class],
            "forget": self.trained[of_class],
            "test": test[~tested],
            "test_forget": test[tested],
        }

    def members(self, role: str, forgotten: int = -1) -> list[Member]:
        """All models of a role."""
        return [Member(role, forgotten, number) for number in range(self.config.shadows.models)]

    def training_run(self, member: Member) -> TrainingRun:
        """That of an original or a retrained model."""
        config = self.config
        rows = self.trained if member.forgotten < 0 else self.rows_of(member.forgotten)["retain"]
        recipe = Recipe.of(self.model, config.data, config.train)
        return TrainingRun(member.name, config.seed, rows, config.train, recipe)

    def task(self, forgotten: int, original: Any = None, logits: np.ndarray | None = None) -> Task:
        """The request to forget one class, of one original, whose `logits` on all images are known."""
        rows = self.rows_of(forgotten)
        return Task(
            model=self.model,
            images=self.images,
            labels=self.dataset.labels,
            num_classes=self.dataset.num_classes,
            retain=rows["retain"],
            forget=rows["forget"],
            data=self.config.data,
            seed=self.config.seed,
            original=original,
            query_model=self.query_model,
            attack_model=attack_model(self),
            known_logits=logits,
            forget_classes=(forgotten,),
            architecture=self.config.model,
            lowering=self.lowering,
        )


def prepare_classes(config: ClassUnlearning) -> ClassSetting:
    """Read and check everything that the config points at; writes nothing."""
    rows = tuple(parse_row(name, config.methods) for name in config.names)
    dataset = read_data(config.data, config.seed)
    classes = config.forget.classes or tuple(range(dataset.num_classes))
    _check_classes(dataset, classes)
    splits = make_splits(dataset, config.data, ForgetConfig(classes=classes[:1]), config.seed)
    sizes = {
        "width": config.model.width,
        "image_size": max(dataset.image_shape[:2]),
        "dtype": config.model.compute_dtype,
    }
    backend, models = jax.default_backend(), config.shadows.models
    mapping = choose_mapping("auto", backend, models=models, **sizes)
    lowering = choose_lowering(config.model.convolution, backend, models=models, mapping=mapping, **sizes)
    model, query_model = build_models(config.model, dataset, lowering)
    setting = ClassSetting(
        config, dataset, splits, tuple(classes), rows, lowering, mapping, model, query_model
    )
    for label in classes:
        for part, index in setting.rows_of(label).items():
            if len(index) < 2:
                raise InputError(
                    f"Class {label} leaves {len(index)} images in the part {part!r}, but expected two or more; give "
                    "more data, or name other classes with --config.forget.classes."
                )
    return setting


def parse_row(name: str, methods: Any) -> MethodRow:
    """The method that a row's name spells, with its settings. InputError where there is none such."""
    method, _, changes = name.partition(":")
    one_of("names", method, CLASS_METHODS)
    settings = METHODS[method].settings_of(methods)
    return MethodRow(
        name, method, with_settings(settings, changes, f"names: {name!r}") if changes else settings
    )


def _check_classes(dataset: Dataset, classes: tuple[int, ...]) -> None:
    if dataset.num_classes < 3:
        raise InputError(
            f"{dataset.name} has {dataset.num_classes} classes, but forgetting one needs at least 3: with a "
            "single class left there is nothing to tell apart, and nothing to tilt to; give data with more classes."
        )
    for label in classes:
        if not 0 <= label < dataset.num_classes:
            raise InputError(
                f"forget.classes holds {label}, but {dataset.name} has the classes 0..{dataset.num_classes - 1}; "
                "change it with --config.forget.classes=VALUE."
            )
