"""After deleting training images, does an unlearning method hide that they were ever there, as retraining would?

Trains an original model, deletes a forget set by each method, retrains without it twice (the second time with other
random numbers: the noise floor), and lets the loss attack compare forgotten with never-seen images on each model.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.config import UnlearningComparison, to_dict
from mu_jax.data.files import atomic_write, write_json
from mu_jax.experiments.carried import carry_out_in
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.setting import Setting, Trained, prepare
from mu_jax.training.query import make_query
from mu_jax.unlearning import Plan, Task, finetune, retrain


def run(
    config: UnlearningComparison,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: TrainingProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the experiment in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    setting = prepare(config)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "fingerprint of the splits": setting.splits.fingerprint(),
            "convolution": setting.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder, progress or TrainingProgress() as shown:
        folder.say_changed_versions(shown.say)
        setting.splits.save(folder.path / "splits.npz")
        trained = train_models(setting, folder, shown)
        shown.say("querying and attacking the models")
        logits = query_models(setting, trained)
        with atomic_write(folder.path / "logits.npz") as file:
            np.savez(file, labels=setting.dataset.labels, **logits)
        # Here, because the first step need not wait for the second that what judges and draws takes to import.
        from mu_jax.evaluation.report import write_report
        from mu_jax.experiments.comparison_results import evaluate, report_data

        results = evaluate(setting, trained, logits)
        write_report(folder.path, report_data(setting, results, logits, folder.metrics()))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def train_models(setting: Setting, folder: RunFolder, shown: TrainingProgress) -> dict[str, Trained]:
    """Train, unlearn and retrain, each model from its newest checkpoint."""
    config, dataset, splits = setting.config, setting.dataset, setting.splits
    task = Task(
        model=setting.model,
        images=setting.images,
        labels=dataset.labels,
        num_classes=dataset.num_classes,
        retain=splits.retain,
        forget=splits.forget,
        data=config.data,
        seed=config.seed,
    )
    original_plan = Plan(
        name="original",
        start="scratch",
        examples=task.examples(config.train.label_smoothing),
        index=np.union1d(splits.retain, splits.forget),
        optimization=config.train,
    )
    trained = {"original": carry_out_in(folder, original_plan, task, config.loop.chunk_steps, shown)}
    task = dataclasses.replace(task, original=trained["original"].variables)
    for plan in (
        finetune(task, config.finetune),
        retrain(task, config.train),
        retrain(task, config.train, name="retrain_again"),
    ):
        trained[plan.name] = carry_out_in(folder, plan, task, config.loop.chunk_steps, shown)
    return trained


def query_models(setting: Setting, trained: Mapping[str, Trained]) -> dict[str, np.ndarray]:
    """Logits float32[N,C] of every model on every image, training images first."""
    data = setting.config.data
    query = make_query(setting.query_model, data.mean, data.std, setting.config.evaluation.query_batch)
    return {name: np.asarray(query(model.variables, setting.images)) for name, model in trained.items()}
