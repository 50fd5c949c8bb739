"""A ResNet-18 that learned a little, for benchmarks of what is done to a trained model; kept as a file."""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np

from benchmarks.adversarial_case import LEARNING_RATE, MEAN, STD, TRAINING_BATCH
from benchmarks.torch_weights import from_state_dict, to_state_dict
from mu_jax.config import DataConfig, ModelConfig, OptimizationConfig
from mu_jax.data import Dataset, load_dataset
from mu_jax.data.files import atomic_write
from mu_jax.experiments.setting import build_models
from mu_jax.ops import choose_lowering
from mu_jax.training.query import make_query
from mu_jax.unlearning.plan import Plan, Task, carry_out

PyTree = Any

_CHUNK_STEPS = 50
_QUERY_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Subject:
    """The images of a case, and a network for them, as experiments build it."""

    dataset: Dataset
    lowering: str
    task: Task
    """whose examples all stay; without an original model as yet"""

    def load(self, path: str) -> Task:
        """The task, with the model in a file as its original."""
        like = jax.eval_shape(self.task.model.init, jax.random.key(0))
        with np.load(path, allow_pickle=False) as arrays:
            variables = from_state_dict(dict(arrays), like)
        return dataclasses.replace(self.task, original=variables)


def make_subject(file: str, width: int) -> Subject:
    """Of the training images in an `.npz`."""
    data = DataConfig(source=f"npz:{file}", mean=(MEAN,), std=(STD,))
    dataset = load_dataset(data, 0)
    lowering = choose_lowering(
        "auto", jax.default_backend(), width=width, image_size=max(dataset.image_shape[:2])
    )
    model, query_model = build_models(ModelConfig(width=width), dataset, lowering)
    task = Task(
        model=model,
        images=jax.numpy.asarray(dataset.x_train),
        labels=dataset.y_train,
        num_classes=dataset.num_classes,
        retain=np.arange(len(dataset.y_train)),
        forget=np.zeros(0, np.int64),
        data=data,
        seed=0,
        query_model=query_model,
        attack_model=model,
    )
    return Subject(dataset, lowering, task)


def train_model(subject: Subject, path: str, epochs: float) -> dict[str, Any]:
    """Trains the model that `path` is to hold, unless it is there; facts about it."""
    began, task = time.perf_counter(), subject.task
    kept = pathlib.Path(path).exists()
    if not kept:
        optimization = OptimizationConfig(
            epochs=epochs, batch_size=TRAINING_BATCH, learning_rate=LEARNING_RATE, schedule="cosine"
        )
        plan = Plan("benchmarked", "scratch", task.examples(), task.retain, optimization)
        variables = carry_out(plan, task, chunk_steps=_CHUNK_STEPS).variables
        with atomic_write(pathlib.Path(path)) as file:
            np.savez(file, **to_state_dict(variables))
    seconds = time.perf_counter() - began
    task = subject.load(path)
    query = make_query(task.reader, tuple(task.data.mean), tuple(task.data.std), _QUERY_BATCH)
    right = np.asarray(query(task.original, task.images)).argmax(-1) == task.labels
    return {
        "kept_from_before": kept,
        "training_seconds": round(seconds, 2),
        "training_accuracy": float(right.mean()),
    }
