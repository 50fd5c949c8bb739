"""What the comparison of unlearning methods fixes before its first step: data, forget sets, cases and their names."""

import dataclasses
import functools

import jax
import numpy as np

from mu_jax.config import (
    AttackConfig,
    InputError,
    QueryConfig,
    ShadowSweep,
    SweepConfig,
    UnlearningMethods,
)
from mu_jax.config.errors import one_of
from mu_jax.data.dataset import Dataset
from mu_jax.data.splits import Splits, another_forget_set, make_splits
from mu_jax.experiments.setting import attack_model, build_models, nonmember_rows, read_data
from mu_jax.models import Model
from mu_jax.ops import choose_lowering
from mu_jax.unlearning.methods import EXAMPLE_METHODS
from mu_jax.unlearning.plan import Plan, Task

RETRAINED = ("retrain", "retrain_again")


@dataclasses.dataclass(frozen=True)
class Case:
    """One model of the comparison."""

    method: str
    """`original`, `retrain`, `retrain_again`, or the name of an unlearning method"""
    base: int = 0
    forget_set: int = 0
    run: int = 0

    @property
    def name(self) -> str:
        """Of its checkpoint and its random streams; that of the method alone where it is the first of its kind."""
        place = (self.base, self.forget_set, self.run)
        return self.method if place == (0, 0, 0) else "@".join([self.method, ".".join(map(str, place))])


@dataclasses.dataclass(frozen=True)
class MethodsSetting:
    """What is fixed before the first step."""

    config: UnlearningMethods
    dataset: Dataset
    splits: tuple[Splits, ...]
    """one a forget set"""
    lowering: str
    model: Model
    query_model: Model
    """computes in float32; attacks and adversarial examples read it"""

    @functools.cached_property
    def images(self) -> jax.Array:
        """uint8[N,H,W,D] on the device, training images first: the one copy that everything reads."""
        return jax.numpy.asarray(self.dataset.images)

    @functools.cached_property
    def nonmembers(self) -> np.ndarray:
        """Test rows the forgotten are compared with; those of the deleted classes where classes are deleted."""
        return nonmember_rows(self.config.forget, self.splits[0], self.dataset)

    @functools.cached_property
    def originals(self) -> list[Case]:
        """The base models, each once."""
        return [Case("original", base) for base in range(self.config.study.base_models)]

    def cases(self, base: int, forget_set: int) -> list[Case]:
        """What is made from one base model for one forget set, in the order of its making."""
        once = [Case(method, base, forget_set) for method in RETRAINED]
        runs = range(self.config.study.runs)
        return once + [Case(method, base, forget_set, run) for method in self.config.names for run in runs]

    def task(self, forget_set: int) -> Task:
        """The request to forget one of the sets, as yet without an original model."""
        splits = self.splits[forget_set]
        return Task(
            model=self.model,
            images=self.images,
            labels=self.dataset.labels,
            num_classes=self.dataset.num_classes,
            retain=splits.retain,
            forget=splits.forget,
            data=self.config.data,
            seed=self.config.seed,
            query_model=self.query_model,
            attack_model=attack_model(self),
        )

    def original_plan(self, case: Case) -> Plan:
        """The training of a base model, on all training examples."""
        task = self.task(0)
        return Plan(
            name=case.name,
            start="scratch",
            examples=task.examples(self.config.train.label_smoothing),
            index=np.union1d(task.retain, task.forget),
            optimization=self.config.train,
        )

    def sweep(self) -> ShadowSweep:
        """The sweep that makes the references: halves of training and test images, by the original's recipe."""
        config = self.config
        epochs = config.pool.epochs or config.train.epochs
        return ShadowSweep(
            seed=config.seed,
            data=config.data,
            model=config.model,
            train=dataclasses.replace(config.train, epochs=epochs),
            sweep=SweepConfig(models=config.pool.models, candidates="train+test"),
            query=QueryConfig(flip=False, logits=config.pool.probability == "taylor_softmax"),
            attack=AttackConfig(names=()),
        )


def prepare_methods(config: UnlearningMethods) -> MethodsSetting:
    """Read and check everything that the config points at; writes nothing."""
    for name in config.names:
        one_of("names", name, EXAMPLE_METHODS)
    dataset = read_data(config.data, config.seed)
    first = make_splits(dataset, config.data, config.forget, config.seed)
    lowering = choose_lowering(
        config.model.convolution,
        jax.default_backend(),
        width=config.model.width,
        image_size=max(dataset.image_shape[:2]),
        dtype=config.model.compute_dtype,
    )
    setting = MethodsSetting(
        config,
        dataset,
        (
            first,
            *(
                another_forget_set(first, number, config.seed)
                for number in range(1, config.study.forget_sets)
            ),
        ),
        lowering,
        *build_models(config.model, dataset, lowering),
    )
    _ = setting.nonmembers  # fails now rather than after training
    requests = config.requests
    if requests.number * requests.size >= len(dataset.y_train) - len(first.validation):
        raise InputError(
            f"{requests.number} requests of {requests.size} examples are all {len(dataset.y_train)} training examples "
            "or more, but expected some to stay; lower requests.number or requests.size."
        )
    return setting
