"""What the attack on pairs of models fixes before its first step: sides, kinds of models, arms and defences."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Int64, Shaped

from mu_jax.config import DataConfig, InputError, UnlearningLeaks, with_settings
from mu_jax.config.leaks import TargetConfig
from mu_jax.data.dataset import Dataset
from mu_jax.data.random_streams import host_stream
from mu_jax.data.standardization import constants
from mu_jax.experiments.leaks_defenses import Defense, parse_defense
from mu_jax.experiments.leaks_versions import Plan, Roles, draw_roles, plan_side
from mu_jax.experiments.setting import build_models, read_data
from mu_jax.models import Model
from mu_jax.ops import choose_lowering, choose_mapping
from mu_jax.training.query import logits_of, map_blocks
from mu_jax.training.scikit_targets import SCIKIT_TARGETS
from mu_jax.training.step import Recipe
from mu_jax.unlearning.methods import EXAMPLE_METHODS

SIDES = ("shadow", "target")
EXACT = ("retrain", "sisa")
"""Methods that train the versions from scratch."""
_LIKELY_MODELS = 32
"""For the choice of a lowering: how many train side by side."""


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """The attacker's examples, or the target's: they share none."""

    name: str
    dataset: Dataset
    rows: Int64[np.ndarray, "N"]
    """of the dataset, training and test images alike"""
    images: Shaped[np.ndarray, "N H W D"]
    """uint8, or float32 rows of tabular data, by constants of those that no model learns"""
    labels: Int32[np.ndarray, "N"]
    roles: Roles
    plan: Plan

    @functools.cached_property
    def on_device(self) -> Array:
        """`images`, on the device: the one copy that all of a side's models read."""
        return jnp.asarray(self.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A kind of model under attack: a row of `leaks.targets`, trained privately or not."""

    name: str
    """as the config has it, with its private training behind it"""
    architecture: str
    config: TargetConfig
    defense: Defense
    """of training: `dp_sgd`, or none"""
    model: Model | None = None
    """None for scikit-learn's"""
    query_model: Model | None = None
    lowering: str = ""
    mapping: str = ""
    recipe: Recipe | None = None

    @property
    def is_network(self) -> bool:
        return self.model is not None

    @functools.cached_property
    def query_fn(self) -> Any:
        """What a group's models are asked at its end: logits on all of a side's examples."""
        model, recipe = self.query_model, self.recipe

        def query(variables: Any, data: Any) -> dict[str, Float[Array, "N C"]]:
            asked = functools.partial(logits_of, model, variables, mean=recipe.mean, std=recipe.std)
            return {"logits": map_blocks(asked, self._batch, data["images"])}

        return query

    _batch: int = 500


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """A kind of model, and how what is deleted leaves it."""

    target: Target
    method: str
    shares_start: bool = False

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.target.name}, {self.method}" + (", shared start" if self.shares_start else "")


@dataclasses.dataclass(frozen=True, eq=False)
class LeaksSetting:
    """What is fixed before the first step."""

    config: UnlearningLeaks
    dataset: Dataset
    sides: dict[str, Side]
    """`shadow`, `target` and, where transfer from other data is asked for, `other`"""
    targets: tuple[Target, ...]
    arms: tuple[Arm, ...]
    released: tuple[Defense, ...]
    """what is done to posteriors, no defence among them"""

    @property
    def lowerings(self) -> dict[str, str]:
        """Of each network."""
        return {target.name: target.lowering for target in self.targets if target.is_network}


def prepare_leaks(config: UnlearningLeaks) -> LeaksSetting:
    """Read and check everything that the config points at; writes nothing."""
    defenses = [parse_defense(name) for name in config.leaks.defenses]
    dataset = read_data(config.data, config.seed, tabular=True)
    sides = _halves(dataset, config)
    if config.leaks.other_source:
        label = config.data.label if config.leaks.other_source.startswith("csv:") else DataConfig().label
        elsewhere = dataclasses.replace(config.data, source=config.leaks.other_source, label=label)
        other = read_data(elsewhere, config.seed, tabular=True)
        _check_other(dataset, other)
        sides["other"] = _side("other", other, np.arange(len(other.labels)), config)
    targets = tuple(
        _target(name, defense, config, dataset)
        for defense in _of_training(defenses)
        for name in config.leaks.targets
    )
    arms = tuple(arm for target in targets for arm in _arms(target, config))
    released = tuple(defense for defense in defenses if defense.release is not None)
    for defense in released:
        # Settings that do not suit so many classes are refused now rather than after training.
        defense.release(np.full((1, dataset.num_classes), 1 / dataset.num_classes))
    if not released:
        raise InputError(
            f"leaks.defenses is {config.leaks.defenses}, but expected one that releases what an unprotected model "
            "says, to compare with; add 'none'."
        )
    return LeaksSetting(config, dataset, sides, targets, arms, released)


def _of_training(defenses: list[Defense]) -> list[Defense]:
    """Ordinary training, and each private one."""
    return [parse_defense("none"), *(defense for defense in defenses if defense.release is None)]


def _halves(dataset: Dataset, config: UnlearningLeaks) -> dict[str, Side]:
    """All examples, training and test alike, cut in two at random; the same number in each."""
    number = len(dataset.labels)
    order = host_stream(config.seed, "sides").permutation(number)
    half = number // 2
    cuts = {"shadow": order[:half], "target": order[half : 2 * half]}
    return {name: _side(name, dataset, np.sort(rows), config) for name, rows in cuts.items()}


def _side(name: str, dataset: Dataset, rows: np.ndarray, config: UnlearningLeaks) -> Side:
    roles = draw_roles(len(rows), name, config.seed)
    images = dataset.images[rows]
    if dataset.is_tabular:
        # Constants of what was deleted, or is to be learned, would remember it.
        mean, std = constants(images[roles.never])
        images = ((images - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)).astype(np.float32)
    plan = plan_side(name, roles, config.leaks, config.seed)
    return Side(name, dataset, rows, images, dataset.labels[rows].astype(np.int32), roles, plan)


def _target(name: str, defense: Defense, config: UnlearningLeaks, dataset: Dataset) -> Target:
    architecture, _, changes = name.partition(":")
    base = TargetConfig(config.model, config.train)
    if architecture in SCIKIT_TARGETS:
        if changes:
            raise InputError(
                f"leaks.targets has {name!r}, but {architecture} has no settings to change; write {architecture!r}."
            )
        if defense.release is None:
            raise InputError(
                f"leaks.defenses has {defense.name!r}, but {architecture!r} is not trained by gradient descent; take "
                "it out of leaks.targets, or the defence out of leaks.defenses."
            )
        return Target(name, architecture, base, defense)
    base = dataclasses.replace(base, model=dataclasses.replace(base.model, name=architecture))
    settings = with_settings(base, changes, f"leaks.targets: {name!r}") if changes else base
    sizes = {
        "width": settings.model.width,
        "image_size": max(dataset.image_shape[:2]),
        "dtype": settings.model.compute_dtype,
    }
    backend = jax.default_backend()
    mapping = choose_mapping("auto", backend, models=_LIKELY_MODELS, **sizes)
    lowering = choose_lowering(
        settings.model.convolution, backend, models=_LIKELY_MODELS, mapping=mapping, **sizes
    )
    model, query_model = build_models(settings.model, dataset, lowering)
    # Tabular rows are standardised already.
    data = dataclasses.replace(config.data, mean=(0.0,), std=(1.0,)) if dataset.is_tabular else config.data
    if dataset.is_tabular and (settings.train.crop_padding or settings.train.flip):
        raise InputError(
            f"leaks.targets has {name!r}, which crops or mirrors its images, but {dataset.name} is a table; set "
            "train.crop_padding=0 and train.flip=False."
        )
    recipe = Recipe.of(model, data, settings.train)
    if defense.release is None:
        recipe = defense.private_recipe(recipe, settings.train)
        name = f"{name} {defense.name}"
    return Target(
        name,
        architecture,
        settings,
        defense,
        model,
        query_model,
        lowering,
        mapping,
        recipe,
        _batch=config.evaluation.query_batch,
    )


def _arms(target: Target, config: UnlearningLeaks) -> list[Arm]:
    found = []
    for method in config.leaks.methods:
        if method in EXACT:
            found.append(Arm(target, method))
        elif method not in EXAMPLE_METHODS:
            raise InputError(
                f"leaks.methods has {method!r}, but expected some of {', '.join((*EXACT, *EXAMPLE_METHODS))}; correct "
                "it."
            )
        elif not target.is_network or target.defense.release is None:
            raise InputError(
                f"leaks.methods has {method!r}, but {target.name!r} can only be retrained or sharded; give it a run of "
                "its own."
            )
        else:
            found.append(Arm(target, method))
        if method == "retrain" and "start" in config.leaks.shares:
            shared = Arm(target, method, shares_start=True)
            found = [*found, shared] if "nothing" in config.leaks.shares else [shared]
    return found


def task_data(setting: LeaksSetting) -> DataConfig:
    """The constants of normalisation that models see."""
    if setting.dataset.is_tabular:
        return dataclasses.replace(setting.config.data, mean=(0.0,), std=(1.0,))
    return setting.config.data


def _check_other(dataset: Dataset, other: Dataset) -> None:
    if (
        dataset.num_classes != other.num_classes
        or dataset.image_shape != other.image_shape
        or dataset.is_tabular != other.is_tabular
    ):
        raise InputError(
            f"leaks.other_source has {other.num_classes} classes and examples of shape {other.image_shape}, but "
            f"{dataset.name} has {dataset.num_classes} and {dataset.image_shape}; the attacker's classifier reads as "
            "many posteriors, and the kinds of models are the same, so give data like it."
        )
