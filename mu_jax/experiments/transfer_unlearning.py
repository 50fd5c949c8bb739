"""A pretrained network is fine-tuned on data of which a part must then be forgotten: transfer learning.

The pretrained weights have never seen what is to be forgotten, so exact unlearning is fine-tuning them once more
without it (`retrain`), which takes a fraction of a training from scratch: a method has to beat that.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.adversarial.stored import variables_sha256
from mu_jax.config import InputError, TransferUnlearning, to_dict
from mu_jax.config.errors import one_of
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import atomic_write, write_json
from mu_jax.data.splits import make_splits
from mu_jax.experiments.carried import carry_out_in
from mu_jax.experiments.comparison_results import evaluate, report_data
from mu_jax.experiments.pretrained import PretrainedWeights, read_pretrained, settle, with_new_head
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.saved_checkpoint import SavedRun
from mu_jax.experiments.setting import Setting, Trained, attack_model, build_models, read_data
from mu_jax.experiments.unlearning_comparison import query_models
from mu_jax.models import build_model
from mu_jax.ops import choose_lowering
from mu_jax.unlearning.methods import METHODS, make_plan
from mu_jax.unlearning.plan import Plan, Task

QUESTION = (
    "A pretrained network was fine-tuned, and some of that data must go: does a method hide it as well as fine-tuning "
    "the same pretrained weights without it, and is it any faster?"
)


@dataclasses.dataclass(frozen=True)
class TransferSetting(Setting):
    """What is fixed before the first step."""

    config: TransferUnlearning
    given: PretrainedWeights | None
    """a checkpoint's weights; None where they are trained here"""
    before: Dataset | None
    """what they are trained on here"""


def run(
    config: TransferUnlearning,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: TrainingProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the experiment in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    config, source = settle(config, overrides or {})
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    setting = prepare_transfer(config, source)
    came_from = (
        {"fingerprint of the pretraining data": setting.before.fingerprint()}
        if setting.given is None
        else {"pretrained weights": variables_sha256(setting.given.variables)}
    )
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "fingerprint of the splits": setting.splits.fingerprint(),
            **came_from,
            "convolution": setting.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder, progress or TrainingProgress() as shown:
        folder.say_changed_versions(shown.say)
        setting.splits.save(folder.path / "splits.npz")
        weights, costs = pretrained_weights(setting, folder, shown)
        trained = train_models(setting, weights, folder, shown)
        shown.say("querying and attacking the models")
        logits = query_models(setting, trained)
        with atomic_write(folder.path / "logits.npz") as file:
            np.savez(file, labels=setting.dataset.labels, **logits)
        facts = {
            "path": config.pretrained.checkpoint,
            "source": config.pretrained.data.source if setting.given is None else None,
            "classes": weights.classes,
            "sha256": variables_sha256(weights.variables),
            **costs,
        }
        results = evaluate(setting, trained, logits) | {"question": QUESTION, "pretrained": facts}
        from mu_jax.evaluation.report import write_report  # drawing takes long to import

        write_report(folder.path, report_data(setting, results, logits, folder.metrics()))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def prepare_transfer(config: TransferUnlearning, source: SavedRun | None) -> TransferSetting:
    """Read and check everything that the config points at; writes nothing."""
    for name in config.names:
        one_of("names", name, tuple(METHODS))
        if METHODS[name].neighbours:
            raise InputError(
                f"names holds {name!r}, which needs an adversarial set; leave it away, and let configs/unlearn.py "
                "forget by it from this run's folder."
            )
    dataset = read_data(config.data, config.seed)
    splits = make_splits(dataset, config.data, config.forget, config.seed)
    lowering = choose_lowering(
        config.model.convolution,
        jax.default_backend(),
        width=config.model.width,
        image_size=max(dataset.image_shape[:2]),
        dtype=config.model.compute_dtype,
    )
    given = read_pretrained(config, source, dataset, lowering)
    before = read_data(config.pretrained.data, config.seed) if given is None else None
    if before is not None and before.image_shape != dataset.image_shape:
        raise InputError(
            f"pretrained.data has images of {before.image_shape}, but data of {dataset.image_shape}; choose two of one "
            "size."
        )
    setting = TransferSetting(
        config, dataset, splits, lowering, *build_models(config.model, dataset, lowering), given, before
    )
    _ = setting.nonmembers  # fails now rather than after training
    return setting


def pretrained_weights(
    setting: TransferSetting, folder: RunFolder, shown: TrainingProgress
) -> tuple[PretrainedWeights, dict[str, Any]]:
    """(the weights that all start from, what results.json says that they took here)."""
    config, before = setting.config, setting.before
    if setting.given is not None:
        return setting.given, {"seconds": None, "trained_samples": None}
    model = build_model(
        config.model,
        num_classes=before.num_classes,
        image_shape=before.image_shape,
        convolution=setting.lowering,
    )
    everyone = np.arange(len(before.y_train))
    task = Task(
        model=model,
        images=jax.numpy.asarray(before.x_train),
        labels=before.y_train,
        num_classes=before.num_classes,
        retain=everyone,
        forget=everyone[:0],
        data=config.pretrained.data,
        seed=config.seed,
    )
    optimization = config.pretrained.train
    plan = Plan("pretrained", "scratch", task.examples(optimization.label_smoothing), everyone, optimization)
    made = carry_out_in(folder, plan, task, config.loop.chunk_steps, shown)
    costs = {"seconds": made.seconds, "trained_samples": made.trained_samples}
    return PretrainedWeights(model, made.variables, before.num_classes), costs


def train_models(
    setting: TransferSetting, weights: PretrainedWeights, folder: RunFolder, shown: TrainingProgress
) -> dict[str, Trained]:
    """Fine-tune, unlearn, and fine-tune again without the forgotten, each model from its newest checkpoint."""
    config, dataset, splits = setting.config, setting.dataset, setting.splits
    chunk_steps = config.loop.chunk_steps
    task = Task(
        model=setting.model,
        images=setting.images,
        labels=dataset.labels,
        num_classes=dataset.num_classes,
        retain=splits.retain,
        forget=splits.forget,
        data=config.data,
        seed=config.seed,
        query_model=setting.query_model,
        attack_model=attack_model(setting),
        # Indices overrule classes, as in what is drawn.
        forget_classes=() if config.forget.indices else config.forget.classes,
        architecture=config.model,
        lowering=setting.lowering,
    )

    def fine_tuned(name: str, rows: np.ndarray) -> Trained:
        plan = Plan(
            name=name,
            start="original",
            examples=task.examples(config.train.label_smoothing),
            index=rows,
            optimization=config.train,
            variables=with_new_head(weights, setting.model, dataset.num_classes, name, config.seed),
        )
        return carry_out_in(folder, plan, task, chunk_steps, shown)

    trained = {"original": fine_tuned("original", np.union1d(splits.retain, splits.forget))}
    known = dataclasses.replace(task, original=trained["original"].variables)
    for name in config.names:
        plan = make_plan(name, known, METHODS[name].settings_of(config.methods))
        trained[name] = carry_out_in(folder, plan, known, chunk_steps, shown)
    for name in ("retrain", "retrain_again"):
        trained[name] = fine_tuned(name, splits.retain)
    return trained
