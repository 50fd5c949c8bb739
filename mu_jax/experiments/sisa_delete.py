"""A folder that deletes: fit a SISA ensemble once, then give it one request after another.

The first call fits; every call deletes what `forget.indices` or `forget.classes` name, and writes a certificate. The
settings of the first call hold for good: a later one need not repeat them. In a folder of `sisa_posterior` it deletes
from that experiment's ensemble, and removes what the experiment had measured on the deleted images.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mu_jax.config import InputError, SisaDelete, first_difference, from_config_dict, to_dict
from mu_jax.data.files import user_path, write_json
from mu_jax.data.splits import draw_validation, read_indices
from mu_jax.evaluation.report.sisa_delete_page import write_sisa_delete_report
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.facts import data_facts, model_facts, parameter_count
from mu_jax.experiments.named_code import with_named_code
from mu_jax.experiments.progress import LiveProgress, TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, read_config
from mu_jax.experiments.sisa_images import check_images, note_images
from mu_jax.experiments.sisa_results import accuracies
from mu_jax.experiments.sisa_setting import SisaSetting, prepare_sisa
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.unlearning.sisa.cost import expected_cost
from mu_jax.unlearning.sisa.ensemble import Sisa
from mu_jax.unlearning.sisa.requests import RequestLog

# What a call may change of a folder's settings: the request, and how it is carried out.
_FREE = ("forget", "keep_measurements", "loop", "evaluation", "experiment")
# Of a folder of `sisa_posterior`: everything that has seen the deleted images, but the ensemble itself.
_OWN = ("results.json", "report.html", "figures")
_MEASUREMENTS = ("checkpoints", "answers", "figures", "results.json", "report.html", "splits.npz")


def run(
    config: SisaDelete,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: LiveProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Fit where nothing is fitted, delete what is asked for, say what was done: (what results.json holds, False)."""
    where, saved = _folder_of(workdir)
    overrides = overrides or {}
    _check_request(config, overrides)
    if saved is not None:
        module = config.model.module
        config = _of_folder(config, saved["config"], overrides, where)
        config = dataclasses.replace(config, model=with_named_code(config.model, saved, module, where))
    one_cpu_device_a_core()
    setting = prepare_sisa(config, saved and saved["inputs"].get("convolution"))
    rows = _trained_rows(setting)
    wanted = _wanted(setting, rows)
    folder = RunFolder(
        where,
        to_dict(config),
        inputs={"convolution": setting.lowering, "backend": jax.default_backend()},
        overrides=overrides,
        comparable=_binding,
    )
    with folder, progress or TrainingProgress() as shown:
        if folder.changed_versions:
            shown.say(
                f"fitted under other versions of {', '.join(folder.changed_versions)}: what is retrained now may "
                "differ in bits from a fit under one of them"
            )
        sharding = setting.sharding(rows)
        trainer = setting.trainer(folder.path, len(sharding.slices))
        shown.say(f"compiled in {trainer.compile_seconds:.1f} s")
        sisa = setting.ensemble(folder.path, trainer, sharding)
        check_images(folder.path, setting.digests, np.setdiff1d(rows, sisa.deleted()))

        def clean() -> list[str]:
            """Everything derived from images that are to go, but the ensemble, before any retraining."""
            note_images(folder.path, setting.digests, np.setdiff1d(rows, sisa.deleted()))
            gone = _remove(folder.path, _OWN)
            if where != pathlib.Path(workdir) and not config.keep_measurements:
                gone += [f"../{name}" for name in _remove(pathlib.Path(workdir), _MEASUREMENTS)]
                if len(gone) > len(_OWN):
                    shown.say(
                        "removed what sisa_posterior measured on the deleted images, and its other models"
                    )
            return gone

        # What a kill left half-way comes first: it was asked for first.
        finished = sisa.pending()
        sisa.fit(shown.say, clean() if finished else ())
        certificates = [sisa.certificate(number) for number in finished]
        if wanted.size:
            shown.say(f"deleting {len(wanted)} images")
            certificate = sisa.unlearn(wanted, shown.say, clean)
            if certificate is not None:
                certificates.append(certificate)
            elif not finished:
                shown.say("all of them were deleted before: nothing was retrained")
        results = _results(setting, sisa, trainer, folder.path, certificates)
        write_sisa_delete_report(folder.path, results, to_dict(config))
        write_json(folder.path / "results.json", results)
    return results | {"folder": str(where)}, False


def _check_request(config: SisaDelete, overrides: Mapping[str, Any]) -> None:
    """InputError for a request that would not do what it says."""
    if "forget.fraction" in overrides:
        raise InputError(
            f"forget.fraction is {config.forget.fraction}, but expected images by name: a deletion on request is not "
            "drawn by lot; give --config.forget.indices=FILE.npy or --config.forget.classes=CLASS."
        )
    if config.forget.indices and config.forget.classes:
        raise InputError(
            f"forget.indices is {config.forget.indices!r} and forget.classes {config.forget.classes}, but expected one "
            "of the two; ask for one after the other."
        )


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
    # Until the experiment is done the ensemble's only deletion is its own; later ones are `sisa_delete`'s, and a kill
    # may have left one of those half-way.
    requests = RequestLog(workdir / "sisa" / "requests.jsonl").requests()
    if not (workdir / "results.json").exists() and len(requests) < 2:
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


def _wanted(setting: SisaSetting, rows: np.ndarray) -> np.ndarray:
    """Training positions that this call is to delete; none where it names none."""
    forget, labels = setting.config.forget, setting.dataset.y_train
    if forget.indices:
        wanted = read_indices(user_path(forget.indices), len(labels))
        strangers = np.setdiff1d(wanted, rows)
        if strangers.size:
            raise InputError(
                f"{forget.indices} holds position {strangers[0]}, which is set aside for validation, but expected "
                f"positions of the {len(rows)} images that the ensemble is fitted on; remove it."
            )
        return wanted
    unknown = [label for label in forget.classes if not 0 <= label < setting.dataset.num_classes]
    if unknown:
        raise InputError(
            f"forget.classes has {unknown[0]}, but expected classes from 0 to {setting.dataset.num_classes - 1}; "
            "correct it."
        )
    return np.intersect1d(np.flatnonzero(np.isin(labels, forget.classes)), rows)


def _remove(folder: pathlib.Path, names: Sequence[str]) -> list[str]:
    """Those of these files and folders that were there."""
    there = [folder / name for name in names if (folder / name).exists()]
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [path.name for path in there]


def _results(
    setting: SisaSetting,
    sisa: Sisa,
    trainer: ParallelTrainer,
    folder: pathlib.Path,
    certificates: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    left, dataset = sisa.sharding, setting.dataset
    test = np.arange(len(dataset.y_train), len(dataset.labels))
    accuracy, interval = {}, {}
    if len(left.examples):  # else nobody is left to answer
        answers = sisa.predict(dataset.images)
        accuracy, interval = accuracies(setting, answers, {"retain": left.examples, "test": test})
    models = setting.models(folder / "models", trainer)
    variables = next((one for one in models.variables(left) if one is not None), {"params": {}})
    steps = [step for of in models.steps(left) for step in of]
    return {
        "experiment": setting.config.experiment,
        "question": "What was deleted from this ensemble, what did it cost, and how does the ensemble stand now?",
        "seed": setting.config.seed,
        "data": data_facts(setting)
        | {"train": len(dataset.y_train), "retain": len(left.examples), "test": len(test)}
        | {"forget": len(sisa.deleted())},
        "model": model_facts(setting, parameter_count(variables)),
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
        "tables": {"requests": _requests(setting, sisa)},
        "certificates": list(certificates),
        "environment": environment(),
    }


def _requests(setting: SisaSetting, sisa: Sisa) -> list[dict[str, Any]]:
    """One row a request of the log; InputError where a certificate is missing, or not what was written."""
    rows, before = [], 0
    config = setting.config
    total = len(_trained_rows(setting))
    for request in sisa.requests():
        one = sisa.certificate(request.id)
        count = len(request.indices)
        expected = None
        if config.sisa.sharding == "uniform" and total - before > count:
            with contextlib.suppress(InputError):  # fewer examples than slices are left
                shape = (total - before, config.sisa.shards, config.sisa.slices, count)
                expected = expected_cost(*shape)["examples_retrained"]
        rows.append(
            {
                "request": request.id,
                "indices": count,
                "shards": len({place["shard"] for place in one["places"]}),
                "steps": len(one["retrained"]),
                "examples_retrained": one["examples_retrained"],
                "expected_examples": expected,
                "seconds": one["seconds"],
                "certified": one["certified"],
                "certificate_sha256": hashlib.sha256(
                    sisa.certificate_path(request.id).read_bytes()
                ).hexdigest(),
            }
        )
        before += count
    return rows
