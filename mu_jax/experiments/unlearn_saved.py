"""One method deletes from one saved model: a run's, or a PyTorch file's; the loss attack looks before and after.

No model is retrained without the data, so nothing here says how near the result comes to that.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.adversarial.stored import StoredAdversarialSet, load, save, variables_sha256
from mu_jax.config import InputError, UnlearnSaved, to_dict
from mu_jax.data.files import atomic_write, write_json
from mu_jax.evaluation.report.saved_page import write_saved_report
from mu_jax.experiments.carried import carry_out_in
from mu_jax.experiments.comparison_results import report_data
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results, read_json
from mu_jax.experiments.saved_checkpoint import read_checkpoint
from mu_jax.experiments.setting import Trained
from mu_jax.experiments.unlearn_saved_results import Unlearned, evaluate_saved, left_out_line, left_out_of
from mu_jax.experiments.unlearn_saved_setting import (
    WEIGHTS,
    SavedSetting,
    prepare_saved,
    refuse_other_weights,
)
from mu_jax.experiments.unlearning_comparison import query_models
from mu_jax.unlearning.methods import METHODS, make_plan, neighbours_config
from mu_jax.unlearning.neighbours import adversarial_neighbours
from mu_jax.unlearning.plan import Edit, Plan

_SECONDS_BETWEEN_LINES = 10.0


def run(
    config: UnlearnSaved,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: TrainingProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the experiment in `workdir`, or what is left of it: (what results.json holds, whether it was done before).

    `overrides`: what flags set. Where the checkpoint is a run's folder, settings of data and model that are neither
    there nor other than their defaults are that run's.
    """
    config, source = read_checkpoint(config, overrides or {})
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        refuse_other_weights(config, source, done)
        return done, True
    setting = prepare_saved(config, source)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "fingerprint of the splits": setting.splits.fingerprint(),
            WEIGHTS: variables_sha256(setting.original),
            "convolution": setting.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder, progress or TrainingProgress() as shown:
        folder.say_changed_versions(shown.say)
        stored, plan, preparation = _prepare_plan(setting, folder, shown)
        setting.splits.save(folder.path / "splits.npz")
        trained = carry_out_in(folder, plan, setting.task, config.loop.chunk_steps, shown)
        read = 0
        if isinstance(plan, Edit):
            # What made it is all of its work.
            trained, preparation = dataclasses.replace(trained, seconds=preparation), 0.0
            read = plan.read_samples
        shown.say("querying and attacking the models")
        models = {"original": Trained(setting.original, 0.0, 0.0, 0), config.method: trained}
        logits = query_models(setting, models)
        with atomic_write(folder.path / "logits.npz") as file:
            np.savez(file, labels=setting.dataset.labels, **logits)
        results = evaluate_saved(setting, Unlearned(trained, stored, preparation, read), logits)
        write_saved_report(folder.path, report_data(setting, results, logits, folder.metrics()))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def _prepare_plan(
    setting: SavedSetting, folder: RunFolder, shown: TrainingProgress
) -> tuple[StoredAdversarialSet | None, Plan | Edit, float]:
    """(the adversarial set, the plan or the edit, the seconds that both took); a folder that they fail in is left as
    new."""
    config = setting.config
    try:
        stored, searched = None, 0.0
        if METHODS[config.method].neighbours:
            stored, searched = _neighbours(setting, folder.path, shown)
            if line := left_out_line(left_out_of(stored, setting.task.forget)):
                shown.say(line)
        began = time.perf_counter()
        settings = METHODS[config.method].settings_of(config.methods)
        plan = make_plan(config.method, setting.task, settings, neighbours=stored)
        preparation = searched + time.perf_counter() - began
    except InputError:
        if all(path.name == "config.json" or path.name.startswith(".") for path in folder.path.iterdir()):
            folder.forget_config()  # the same folder may be tried with other settings
        raise
    if stored is not None and not (folder.path / "neighbours.npz").exists():
        _keep(folder.path, stored, 0.0)  # a ready one that suits the task
    return stored, plan, preparation


def _neighbours(
    setting: SavedSetting, folder: pathlib.Path, shown: TrainingProgress
) -> tuple[StoredAdversarialSet, float]:
    """(the adversarial set, the seconds that its search took): the folder's, else the ready one, else a new one."""
    config = setting.config
    path, times = folder / "neighbours.npz", read_json(folder / "neighbours.json")
    if path.exists() and times is not None:
        stored = load(
            path,
            setting.reader,
            setting.original,
            transferred=METHODS[config.method].neighbours == "transferred",
            batch_size=config.neighbours.batch_size,
        )
        return stored, times["seconds"]
    if setting.ready is not None:
        return setting.ready, 0.0
    began = time.perf_counter()
    stored = adversarial_neighbours(
        setting.task, neighbours_config(config.method, config.neighbours), _lines(shown)
    )
    seconds = round(time.perf_counter() - began, 3)
    shown.say(f"{len(stored.images)} adversarial neighbours in {seconds:.1f} s")
    _keep(folder, stored, seconds)
    return stored, seconds


def _keep(folder: pathlib.Path, stored: StoredAdversarialSet, seconds: float) -> None:
    save(folder / "neighbours.npz", stored)
    write_json(folder / "neighbours.json", {"seconds": seconds})


def _lines(shown: TrainingProgress) -> Callable[[int, int], None]:
    """Lines on a long search, some seconds apart."""
    last = time.monotonic()

    def on_progress(finished: int, number: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            shown.say(f"adversarial neighbours: {finished:,} of {number:,} examples done")

    return on_progress
