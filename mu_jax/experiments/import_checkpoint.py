"""A PyTorch checkpoint becomes a finished run's folder, which every command that takes a saved model reads.

It says what the weights do on the data that they were trained on, so that a wrong normalisation, architecture or order
of classes is seen at once, and how well the loss attack tells its members.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.adversarial.stored import variables_sha256
from mu_jax.attacks.loss import loss_scores
from mu_jax.config import ImportCheckpoint, InputError, to_dict
from mu_jax.data.files import atomic_write, user_path, write_json
from mu_jax.data.splits import Splits, draw_validation
from mu_jax.evaluation.intervals import proportion_interval
from mu_jax.evaluation.membership import evaluate_scores
from mu_jax.evaluation.report.import_page import write_import_report
from mu_jax.experiments.carried import finished_checkpoints
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import data_facts, model_facts, parameter_count, split_sizes
from mu_jax.experiments.pretrained import check_can_be_read
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.setting import Setting, build_models, read_data
from mu_jax.models.pytorch_import import FROM_STATE_DICT, classes_of, load_state_dict
from mu_jax.ops import choose_lowering
from mu_jax.training.query import make_query

PyTree = Any
QUESTION = (
    "Do these weights, read from PyTorch, classify as they did there, and can an attack tell their members?"
)


@dataclasses.dataclass(frozen=True)
class ImportSetting(Setting):
    """What is fixed before anything is written."""

    config: ImportCheckpoint


def run(
    config: ImportCheckpoint,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: TrainingProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Import into `workdir`: (what results.json holds, whether it was done before). One that was cut off starts
    anew.
    """
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    setting, variables = prepare_import(config)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "weights of the checkpoint": variables_sha256(variables),
            "convolution": setting.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder, progress or TrainingProgress() as shown:
        setting.splits.save(folder.path / "splits.npz")
        finished_checkpoints(folder.path, "original").save(0, variables)
        shown.say("asking the model about its data")
        data = config.data
        query = make_query(setting.query_model, data.mean, data.std, config.evaluation.query_batch)
        logits = np.asarray(query(variables, setting.images))
        with atomic_write(folder.path / "logits.npz") as file:
            np.savez(file, labels=setting.dataset.labels, original=logits)
        results = _results(setting, variables, logits)
        write_import_report(folder.path, results, to_dict(config))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def prepare_import(config: ImportCheckpoint) -> tuple[ImportSetting, PyTree]:
    """Read and check everything that the config points at: (data and network, the weights); writes nothing."""
    path = user_path(config.checkpoint)
    if not config.checkpoint or not path.is_file():
        raise InputError(
            f"checkpoint is {config.checkpoint!r}, but expected a file of PyTorch's (.safetensors, .pth or .pt); give "
            "it with --config.checkpoint=FILE."
        )
    check_can_be_read(config.model, path)
    state_dict = load_state_dict(path)
    dataset = read_data(config.data, config.seed)
    if (classes := classes_of(state_dict)) != dataset.num_classes:
        raise InputError(
            f"{path} is a classifier of {classes} classes, but data.source {config.data.source} has "
            f"{dataset.num_classes}; give the data that it was trained on (configs/transfer.py gives it a new head)."
        )
    lowering = choose_lowering(
        config.model.convolution,
        jax.default_backend(),
        width=config.model.width,
        image_size=max(dataset.image_shape[:2]),
        dtype=config.model.compute_dtype,
    )
    model, query_model = build_models(config.model, dataset, lowering)
    variables = FROM_STATE_DICT[config.model.name](state_dict, jax.eval_shape(model.init, jax.random.key(0)))
    number = len(dataset.y_train)
    validation = draw_validation(number, config.data.validation_fraction, None, config.seed)
    known = np.setdiff1d(np.arange(number), validation)
    splits = Splits(known, known[:0], validation, np.arange(number, len(dataset.labels)))
    return ImportSetting(config, dataset, splits, lowering, model, query_model), variables


def _results(setting: ImportSetting, variables: PyTree, logits: np.ndarray) -> dict[str, Any]:
    config, splits, labels = setting.config, setting.splits, setting.dataset.labels
    settings = config.evaluation
    parts = {"train": splits.retain, "test": splits.test, "validation": splits.validation}
    correct = logits.argmax(axis=1) == labels
    hits = {part: (int(correct[rows].sum()), len(rows)) for part, rows in parts.items() if len(rows)}
    scores = np.asarray(loss_scores(logits, labels), np.float64)
    members, others = scores[splits.retain], scores[splits.test]
    attack = evaluate_scores(
        np.concatenate([members, others]),
        np.arange(len(members) + len(others)) < len(members),
        fpr=settings.fpr,
        level=settings.interval_level,
        samples=settings.bootstrap_samples,
        seed=config.seed,
    )
    original = {
        "accuracy": {part: right / total for part, (right, total) in hits.items()},
        "accuracy_interval": {
            part: list(proportion_interval(right, total, level=settings.interval_level))
            for part, (right, total) in hits.items()
        },
        "attacks": {"loss_threshold": attack},
        "gap_to_retrain": None,
        "gap_parts": {},
        "seconds": None,
        "compile_seconds": None,
        "trained_samples": None,
    }
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "checkpoint": {
            "path": str(user_path(config.checkpoint)),
            "model": None,
            "sha256": variables_sha256(variables),
        },
        "data": data_facts(setting) | split_sizes(splits),
        "model": model_facts(setting, parameter_count(variables)),
        "models": {"original": original},
        "tables": {},
        "environment": environment(),
    }
