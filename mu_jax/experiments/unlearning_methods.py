"""Which unlearning method leaves a model that behaves most like a retrained one, and what does it cost?

Every method deletes the same forget sets from the same base models; beside them stand the original and two models
retrained without the data (the second one, by other random numbers, is the noise floor). All are attacked with one pool
of references over training and test images, and compared with `retrain` figure by figure.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.config import UnlearningMethods, to_dict
from mu_jax.data.files import write_json
from mu_jax.evaluation.report.methods_data import MethodsReportData, NeighbourPair
from mu_jax.evaluation.report.methods_page import write_methods_report
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.methods_judge import Found
from mu_jax.experiments.methods_models import MethodsWork
from mu_jax.experiments.methods_pool import given_pool, make_references
from mu_jax.experiments.methods_requests import meet_requests
from mu_jax.experiments.methods_results import results_of
from mu_jax.experiments.methods_setting import prepare_methods
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.sweep_progress import SweepProgress


def run(
    config: UnlearningMethods,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: TrainingProgress | None = None,
    pool_progress: SweepProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the experiment in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    one_cpu_device_a_core()
    setting = prepare_methods(config)
    pool = given_pool(setting)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            **{
                f"fingerprint of the splits {number}": splits.fingerprint()
                for number, splits in enumerate(setting.splits)
            },
            **({"references": f"{len(pool.member)} of {pool.hash}"} if pool else {}),
            "convolution": setting.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder:
        for number, splits in enumerate(setting.splits):
            splits.save(folder.path / ("splits.npz" if number == 0 else f"splits_{number}.npz"))
        references = make_references(setting, pool, folder.path / "pool", pool_progress or SweepProgress())
        with progress or TrainingProgress() as shown:
            folder.say_changed_versions(shown.say)
            work = MethodsWork(setting, folder, shown)
            made = work.do()
            requests = meet_requests(work)
            shown.say("attacking the models")
            found = Found(setting, made, references, requests)
            results = results_of(found)
            write_methods_report(folder.path, _report_data(found, results, folder.metrics()))
            # Last of all: a folder with results.json is a finished run.
            write_json(folder.path / "results.json", results)
    return results, False


def _report_data(found: Found, results: dict[str, Any], curves: list[dict[str, Any]]) -> MethodsReportData:
    config = found.setting.config
    return MethodsReportData(
        results=results, config=to_dict(config), curves=curves, gallery=_gallery(found, config)
    )


def _gallery(found: Found, config: UnlearningMethods) -> list[NeighbourPair]:
    """Some of the first forget set's examples that needed an attack, beside what it found."""
    if not found.made.neighbours:
        return []
    dataset, stored = found.setting.dataset, found.made.neighbours[0].stored
    moved = np.flatnonzero(stored.distance > 0)
    draw = np.random.default_rng([config.seed, 24])
    chosen = draw.choice(moved, min(config.evaluation.gallery_images, len(moved)), replace=False)
    # A page shows gray or colour: of other channels, the first one or three.
    channels = 3 if dataset.image_shape[-1] >= 3 else 1
    return [
        NeighbourPair(
            image=dataset.images[stored.index[row]][..., :channels],
            neighbour=stored.images[row][..., :channels],
            label=dataset.class_names[stored.labels[row]],
            adversarial_label=dataset.class_names[stored.adversarial_labels[row]],
            distance=float(stored.distance[row]),
        )
        for row in chosen
    ]
