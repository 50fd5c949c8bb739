"""How large is each layer of a saved model, as the linear map that it is, and what do other methods claim?

The norm of a layer, with its stride and padding, is measured to a tolerance; beside it stand Miyato's (of the reshaped
kernel), Gouk's (some power iterations, and batch-norm by itself) and Sedghi's (by Fourier, for periodic images), and
the two of them that can be turned into bounds. No images are read.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from mu_jax.adversarial.stored import variables_sha256
from mu_jax.config import Spectra, to_dict
from mu_jax.data.files import write_json
from mu_jax.evaluation.report.spectra_page import write_spectra_report
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import parameter_count
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.spectra_rows import SpectraRows
from mu_jax.experiments.spectra_source import MeasuredModel, read_measured

_QUESTION = (
    "How much can each layer lengthen a difference between two inputs, and what do other methods say of it?"
)
_SECONDS_BETWEEN_LINES = 10.0


def run(
    config: Spectra,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: TrainingProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Measure in `workdir`: (what results.json holds, whether it was done before).

    A run that was cut off starts anew.
    """
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    measured = read_measured(config)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "weights of the checkpoint": variables_sha256(measured.variables),
            "convolution": measured.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder, progress or TrainingProgress() as shown:
        folder.say_changed_versions(shown.say)
        results = _results(config, measured, shown)
        write_spectra_report(folder.path, results, to_dict(config))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def _results(config: Spectra, measured: MeasuredModel, shown: TrainingProgress) -> dict[str, Any]:
    layers, claims = [], []
    number = len(measured.model.layers())
    began = last = time.monotonic()
    for row, of_layer in SpectraRows(config, measured):
        layers.append(row)
        claims.extend(of_layer)
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            shown.say(f"{len(layers)} of {number} layers measured")
    return {
        "experiment": config.experiment,
        "question": _QUESTION,
        "seed": config.seed,
        "checkpoint": measured.source,
        "data": {"image_shape": list(measured.image_shape), "classes": measured.classes},
        "models": {},
        "model": {
            **measured.facts,
            "parameters": parameter_count(measured.variables),
        },
        "spectra": {
            "name": measured.name,
            "tolerance": config.tolerance,
            "miyato_iterations": config.miyato_iterations,
            "gouk_iterations": config.gouk_iterations,
            "repeats": config.repeats,
            "seconds": round(time.monotonic() - began, 3),
        },
        "tables": {"layers": layers, "claims": claims},
        "environment": environment(),
    }
