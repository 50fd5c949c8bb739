"""Does deleting an example give away that it was there?

Original models learn, versions of them lose some examples again, by retraining or by an unlearning method, and an
attacker who holds what two versions say of an example tells whether it was deleted between them, or never learned. He
learns to on models of his own (the shadow side), and beside him stands the classical attacker who sees the original
alone. Chen et al., "When Machine Unlearning Jeopardizes Privacy", CCS 2021.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console

from mu_jax.config import UnlearningLeaks, to_dict
from mu_jax.data.files import atomic_write, write_json
from mu_jax.evaluation.report.leaks_page import write_leaks_report
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.leaks_lessons import origins_of
from mu_jax.experiments.leaks_methods import MethodModels
from mu_jax.experiments.leaks_models import Answers, LeaksModels
from mu_jax.experiments.leaks_results import results_of
from mu_jax.experiments.leaks_setting import EXACT, Arm, LeaksSetting, Side, prepare_leaks
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.sweep_progress import SweepProgress


def run(
    config: UnlearningLeaks,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the study in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    one_cpu_device_a_core()
    setting = prepare_leaks(config)
    folder = RunFolder(workdir, to_dict(config), inputs=_inputs(setting), overrides=overrides or {})
    with folder, SweepProgress(console) as shown:
        folder.say_changed_versions(shown.say)
        _save_sides(folder.path / "splits.npz", setting)
        models = LeaksModels(setting, folder, shown)
        methods = [
            MethodModels(models, arm, side)
            for arm in setting.arms
            if arm.method not in EXACT
            for side in setting.sides.values()
        ]
        models.start(sum(one.number for one in methods), sum((one.images for one in methods), 0.0))
        for target in setting.targets:
            for side in setting.sides.values():
                models.train(target, side)
        for method in methods:
            method.train()
        unlearned = {(one.arm, one.side): one for one in methods}

        def answers(arm: Arm, side: Side) -> Answers:
            return models.answers(arm, side) if arm.method in EXACT else unlearned[arm, side].answers()

        results = results_of(setting, models, answers, shown.say)
        write_leaks_report(folder.path, results, to_dict(config))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def _inputs(setting: LeaksSetting) -> dict[str, str]:
    found = {
        "fingerprint of the data": setting.dataset.fingerprint(),
        "backend": jax.default_backend(),
    }
    for name, lowering in setting.lowerings.items():
        found[f"convolution of {name}"] = lowering
    if "other" in setting.sides:
        found["fingerprint of the other data"] = setting.sides["other"].dataset.fingerprint()
    return found


def _save_sides(path: pathlib.Path, setting: LeaksSetting) -> None:
    """Where each side's examples lie in the data, and what each of them is; as attackers and owners would have it."""
    arrays = {}
    for name, side in setting.sides.items():
        arrays[f"{name}_rows"] = side.rows
        arrays |= {f"{name}_{role}": rows for role, rows in vars(side.roles).items()}
        for version in origins_of(side.plan):
            arrays[f"{name}_original_{version.original}"] = version.rows
    with atomic_write(path) as file:
        np.savez(file, **arrays)
