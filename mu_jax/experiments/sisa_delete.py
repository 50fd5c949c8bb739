"""A folder that deletes: fit a SISA ensemble once, then give it one request after another.

The first call fits; every call deletes what `forget.indices` or `forget.classes` name, and writes a certificate. The
settings of the first call hold for good: a later one need not repeat them. In a folder of `sisa_posterior` it deletes
from that experiment's ensemble, and removes what the experiment had measured on the deleted images.
"""

import contextlib
import hashlib
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.config import InputError, SisaDelete, first_difference, from_config_dict, to_dict
from mu_jax.data.files import write_json
from mu_jax.data.splits import draw_validation, read_indices
from mu_jax.evaluation.report.sisa_delete_page import write_sisa_delete_report
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.progress import LiveProgress, TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, read_config
from mu_jax.experiments.sisa_images import check_images, note_images
from mu_jax.experiments.sisa_results import accuracies, data_facts, model_facts
from mu_jax.experiments.sisa_setting import SisaSetting, prepare_sisa
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.unlearning.sisa.cost import expected_cost
from mu_jax.unlearning.sisa.ensemble import Sisa

# What a call may change of a folder's settings: the request, and how it is carried out.
_FREE = ("forget", "keep_measurements", "loop", "evaluation", "experiment")
# Of a folder of `sisa_posterior`: everything that has seen the deleted images, but the ensemble itself.
_MEASUREMENTS = ("checkpoints", "answers", "figures", "results.json", "report.html", "splits.npz")


def run(
    config: SisaDelete,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: LiveProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Fit where nothing is fitted, delete what is asked for, say what was done: (what results.json holds, False)."""
    where, saved = _folder_of(workdir)
    if saved is not None:
        config = _of_folder(config, saved["config"], overrides or {}, where)
    one_cpu_device_a_core()
    setting = prepare_sisa(config, saved and saved["inputs"].get("convolution"))
    wanted = _wanted(setting)
    folder = RunFolder(
        where,
        to_dict(config),
        inputs={"convolution": setting.lowering, "backend": jax.default_backend()},
        overrides=overrides or {},
        comparable=_binding,
    )
    with folder, progress or TrainingProgress() as shown:
        # Written anew below: a kill in between leaves a folder without results, not one with old ones.
        (folder.path / "results.json").unlink(missing_ok=True)
        rows = _trained_rows(setting)
        sharding = setting.sharding(rows)
        trainer = setting.trainer(folder.path, len(sharding.slices))
        shown.say(f"compiled in {trainer.compile_seconds:.1f} s")
        sisa = setting.ensemble(folder.path, trainer, sharding)
        check_images(folder.path, setting.digests, np.setdiff1d(rows, sisa.deleted()))
        sisa.fit(shown.say)
        certificate = None
        if wanted.size:
            shown.say(f"deleting {len(wanted)} images")
            certificate = sisa.unlearn(wanted, shown.say)
            if certificate is None:
                shown.say("all of them were deleted before: nothing was retrained")
        note_images(folder.path, setting.digests, np.setdiff1d(rows, sisa.deleted()))
        if where != pathlib.Path(workdir) and sisa.deleted().size and not config.keep_measurements:
            _remove_measurements(pathlib.Path(workdir), shown)
        results = _results(setting, sisa, trainer, folder.path, certificate)
        write_sisa_delete_report(folder.path, results, to_dict(config))
        write_json(folder.path / "results.json", results)
    return results | {"folder": str(where)}, False


def _folder_of(workdir: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any] | None]:
    """(the ensemble's folder, its config.json or None): inside a folder of `sisa_posterior` it is `sisa/`."""
    workdir = pathlib.Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir is {workdir}, a file, but expected a folder; choose another one.")
    saved = read_config(workdir) if workdir.exists() else None
    if saved is None:
        if workdir.exists() and any(not path.name.startswith(".") for path in workdir.iterdir()):
            raise InputError(
                f"--workdir {workdir} is not empty and holds no config.json; choose a new or empty folder."
            )
        return workdir, None
    kind = saved["config"].get("experiment")
    if kind == "sisa_delete":
        return workdir, saved
    inner = read_config(workdir / "sisa") if kind == "sisa_posterior" else None
    if inner is None:
        raise InputError(
            f"{workdir} holds a run of {kind!r} without an ensemble to delete from, but expected a folder of "
            "sisa_delete or a finished one of sisa_posterior; choose another --workdir."
        )
    if not (workdir / "results.json").exists() and not (workdir / "sisa" / "results.json").exists():
        raise InputError(
            f"{workdir} holds a run of sisa_posterior that is not finished, and a deletion now would change what it "
            "measures; finish it with its own command, or choose another --workdir."
        )
    return workdir / "sisa", inner


def _binding(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in config.items() if key not in _FREE}


def _of_folder(
    config: SisaDelete, saved: Mapping[str, Any], overrides: Mapping[str, Any], where: pathlib.Path
) -> SisaDelete:
    """The folder's settings with this call's request; InputError where a flag wants another setting than it has."""
    given = to_dict(config)
    for key in overrides:
        top = key.split(".")[0]
        if top in _FREE:
            continue
        difference = first_difference(_at(saved, key), _at(given, key))
        if difference:
            raise InputError(
                f"{where} was fitted with other settings: {difference}; leave the flag away, or fit another --workdir."
            )
    return from_config_dict({**saved, **{key: given[key] for key in _FREE}})


def _at(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return {key: value}


def _trained_rows(setting: SisaSetting) -> np.ndarray:
    config = setting.config
    n_train = len(setting.dataset.y_train)
    return np.setdiff1d(
        np.arange(n_train), draw_validation(n_train, config.data.validation_fraction, None, config.seed)
    )


def _wanted(setting: SisaSetting) -> np.ndarray:
    """Training positions that this call is to delete; none where it names none."""
    forget, labels = setting.config.forget, setting.dataset.y_train
    if forget.indices:
        return read_indices(pathlib.Path(forget.indices).expanduser(), len(labels))
    unknown = [label for label in forget.classes if not 0 <= label < setting.dataset.num_classes]
    if unknown:
        raise InputError(
            f"forget.classes has {unknown[0]}, but expected classes from 0 to {setting.dataset.num_classes - 1}; "
            "correct it."
        )
    return np.intersect1d(np.flatnonzero(np.isin(labels, forget.classes)), _trained_rows(setting))


def _remove_measurements(workdir: pathlib.Path, shown: LiveProgress) -> None:
    there = [workdir / name for name in _MEASUREMENTS if (workdir / name).exists()]
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if there:
        shown.say(
            "removed what sisa_posterior measured on the deleted images, and its other models: "
            + ", ".join(path.name for path in there)
        )


def _results(
    setting: SisaSetting,
    sisa: Sisa,
    trainer: ParallelTrainer,
    folder: pathlib.Path,
    certificate: Mapping[str, Any] | None,
) -> dict[str, Any]:
    left, dataset = sisa.sharding, setting.dataset
    test = np.arange(len(dataset.y_train), len(dataset.labels))
    answers = sisa.predict(dataset.images)
    accuracy, interval = accuracies(setting, answers, {"retain": left.examples, "test": test})
    models = setting.models(folder / "models", trainer)
    variables = next(one for one in models.variables(left) if one is not None)
    steps = [step for of in models.steps(left) for step in of]
    return {
        "experiment": setting.config.experiment,
        "question": "What was deleted from this ensemble, what did it cost, and how does the ensemble stand now?",
        "seed": setting.config.seed,
        "data": data_facts(setting)
        | {"train": len(dataset.y_train), "retain": len(left.examples), "test": len(test)}
        | {"forget": len(sisa.deleted())},
        "model": model_facts(setting, variables),
        "sisa": setting.facts(trainer.placement, left)
        | {"emptied_shards": [s for s, sizes in enumerate(left.sizes) if not sizes.sum()]},
        "models": {
            "sisa": {
                "accuracy": accuracy,
                "accuracy_interval": interval,
                "attacks": {},
                "seconds": models.seconds(steps),
                "compile_seconds": trainer.compile_seconds,
                "trained_samples": sum(step.trained_samples for step in steps),
            }
        },
        "tables": {"requests": _requests(setting, sisa, folder)},
        "certificate": certificate,
        "environment": environment(),
    }


def _requests(setting: SisaSetting, sisa: Sisa, folder: pathlib.Path) -> list[dict[str, Any]]:
    """One row a certificate."""
    rows, before = [], 0
    config = setting.config
    number = 1
    total = len(_trained_rows(setting))
    while (path := folder / "certificates" / f"request_{number:06d}.json").exists():
        one = sisa.certificate(number)
        count = len(one["indices"])
        expected = None
        if config.sisa.sharding == "uniform" and total - before > count:
            with contextlib.suppress(InputError):  # fewer examples than slices are left
                shape = (total - before, config.sisa.shards, config.sisa.slices, count)
                expected = expected_cost(*shape)["examples_retrained"]
        rows.append(
            {
                "request": number,
                "indices": count,
                "shards": len({step["shard"] for step in one["retrained"]}),
                "steps": len(one["retrained"]),
                "examples_retrained": one["examples_retrained"] / config.train.epochs,
                "expected_examples": expected,
                "seconds": one["seconds"],
                "certified": one["certified"],
                "certificate_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
        before += count
        number += 1
    return rows
