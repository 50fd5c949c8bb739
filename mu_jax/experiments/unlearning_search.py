"""With which settings does each unlearning method come nearest to retraining? Asked on a set that is not scored.

Trains the original model, retrains it twice without a forget set of the search's own, and tries every method with a
grid of settings on that set, many settings side by side. The set that an `unlearning_methods` run of the same data and
seed will score methods on is left alone: its examples are ordinary retained ones here.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console

from mu_jax.adversarial.pixels import PixelModel
from mu_jax.adversarial.stored import StoredAdversarialSet, load, save
from mu_jax.config import UnlearningSearch, to_dict
from mu_jax.data.files import write_json
from mu_jax.evaluation.report.search_page import write_search_report
from mu_jax.experiments.carried import carry_out_in
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.search_answers import said
from mu_jax.experiments.search_groups import SearchGroups
from mu_jax.experiments.search_results import REFERENCES, Searched, results_of
from mu_jax.experiments.search_setting import SearchSetting, prepare_search
from mu_jax.experiments.setting import Trained
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.training.query import make_query
from mu_jax.unlearning.methods import METHODS, neighbours_config
from mu_jax.unlearning.neighbours import adversarial_neighbours
from mu_jax.unlearning.plan import Plan, Task
from mu_jax.unlearning.retrain import retrain

ADVICE = (
    "Chosen on a forget set that is not the one to be scored. The smallest gap over a grid is lower than the same "
    "setting will have elsewhere; figures for a paper come from a run with these flags."
)


def run(
    config: UnlearningSearch,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the search in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    one_cpu_device_a_core()
    setting = prepare_search(config)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "fingerprint of the splits": setting.splits.fingerprint(),
            "fingerprint of the splits to be scored": setting.scored.fingerprint(),
            "convolution": setting.lowering,
            "convolution side by side": setting.group_lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder:
        results = _Search(setting, folder, console).run()
        write_search_report(folder.path, results, to_dict(config))
        write_json(folder.path / "best.json", best_of(results))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def best_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """What best.json holds: of each method the flags of its best setting, and all of them in one line to paste."""
    methods = {name: best for name, best in results["best"].items() if best["setting"] is not None}
    flags = dict.fromkeys(flag for best in methods.values() for flag in best["overrides"])
    return {
        "advice": ADVICE,
        "forget": results["data"]["forget"],
        "noise_floor": results["models"]["retrain_again"]["gap_to_retrain"],
        "methods": {
            name: {key: best[key] for key in ("gap", "setting", "overrides")}
            for name, best in methods.items()
        },
        # Of methods that read the same settings, a run can take the flags of one.
        "flags": None if results["search"]["shared_settings"] else " ".join(flags),
    }


class _Search:
    """One search in an open folder."""

    def __init__(self, setting: SearchSetting, folder: RunFolder, console: Console | None) -> None:
        self.setting, self.folder, self.console = setting, folder, console
        self._reader = PixelModel.of(setting.query_model, setting.config.data)
        self._neighbours: dict[str, StoredAdversarialSet] = {}

    def run(self) -> dict[str, Any]:
        config, setting = self.setting.config, self.setting
        setting.splits.save(self.folder.path / "splits.npz")
        task = setting.task
        with TrainingProgress(self.console) as shown:
            self.folder.say_changed_versions(shown.say)
            trained = {"original": self._carry_out(setting.original_plan(), shown)}
            task = dataclasses.replace(task, original=trained["original"].variables)
            for name in REFERENCES[1:]:
                trained[name] = self._carry_out(retrain(task, config.train, name), shown)
            for kind in dict.fromkeys(METHODS[name].neighbours for name in config.names):
                if kind:
                    self._neighbours[kind] = self._make_neighbours(kind, task, shown)
        with SweepProgress(self.console) as shown:
            groups = SearchGroups(setting, self.folder, shown, task, self._neighbours_of)
            answers = groups.run()
            shown.say("comparing the settings")
        query = make_query(
            setting.query_model, config.data.mean, config.data.std, config.evaluation.query_batch
        )
        references = {}
        for name, model in trained.items():
            logits = np.asarray(query(model.variables, setting.images))
            references[name] = (model, *said(logits, setting.dataset.labels))
        return results_of(
            Searched(setting, references, answers, self._neighbours, groups.programs, groups.compile_seconds)
        )

    def _carry_out(self, plan: Plan, shown: TrainingProgress) -> Trained:
        return carry_out_in(self.folder, plan, self.setting.task, self.setting.config.loop.chunk_steps, shown)

    def _neighbours_of(self, method: str) -> StoredAdversarialSet | None:
        return self._neighbours.get(METHODS[method].neighbours)

    def _make_neighbours(self, kind: str, task: Task, shown: TrainingProgress) -> StoredAdversarialSet:
        """An adversarial set of the search's own forget set: made once, for all methods and settings of its kind."""
        if kind == "transferred":
            # Another model of the same recipe and data, by other random numbers.
            other = self._carry_out(self.setting.original_plan("original_of_another"), shown)
            task = dataclasses.replace(task, original=other.variables)
        path = self.folder.path / "neighbours" / f"{kind}.npz"
        if path.exists():
            size = self.setting.config.neighbours.batch_size
            return load(path, self._reader, task.original, batch_size=size)
        method = "amun_fgsm" if kind == "fgsm" else "amun"
        stored = adversarial_neighbours(task, neighbours_config(method, self.setting.config.neighbours))
        left_out = len(stored.not_flipped) + len(stored.flipped_back)
        shown.say(
            f"{len(stored.images):,} adversarial neighbours ({kind})"
            + (f"; {left_out:,} examples have none and are left out" if left_out else "")
        )
        path.parent.mkdir(exist_ok=True)
        save(path, stored)
        return stored
