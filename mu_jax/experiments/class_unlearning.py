"""Can one tell, from the classes that stay, that a class was forgotten rather than never seen?

Originals learn all classes; for each class to forget, as many models are retrained without it. Every method forgets the
class on every original, all of them side by side, and MIA-NN, U-LiRA and distances between posteriors compare what the
unlearned models say of that class with what the retrained ones say.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from mu_jax.config import ClassUnlearning, to_dict
from mu_jax.data.files import write_json
from mu_jax.evaluation.report.class_page import write_class_report
from mu_jax.experiments.blocks import of_block, together
from mu_jax.experiments.class_groups import ClassGroups, Work
from mu_jax.experiments.class_results import results_of
from mu_jax.experiments.class_setting import ClassSetting, Member, MethodRow, prepare_classes
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.unlearning.methods import make_plan
from mu_jax.unlearning.plan import Edit, Plan, finished, start_of, training_run

PyTree = Any


def run(
    config: ClassUnlearning,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the comparison in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    one_cpu_device_a_core()
    setting = prepare_classes(config)
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
    with folder, SweepProgress(console) as shown:
        folder.say_changed_versions(shown.say)
        setting.splits.save(folder.path / "splits.npz")
        groups = ClassGroups(setting, folder, shown)
        _Comparison(setting, groups).run()
        shown.say("attacking")
        results = results_of(setting, groups.answer, groups.compile_seconds)
        write_class_report(folder.path, results, to_dict(config))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


class _Comparison:
    """One comparison in an open folder."""

    def __init__(self, setting: ClassSetting, groups: ClassGroups) -> None:
        self.setting, self.groups = setting, groups

    def run(self) -> None:
        """Make every model that the folder lacks."""
        setting = self.setting
        originals = setting.members("original")
        scratch = [
            *originals,
            *(one for label in setting.classes for one in setting.members("retrain", label)),
        ]
        unlearned = {
            (row, label): setting.members(row.name, label)
            for label in setting.classes
            for row in setting.rows
        }
        everything = [*scratch, *(one for members in unlearned.values() for one in members)]
        self.groups.start(everything, self._images)
        self._train_from_scratch(scratch)
        sound = [member for member in originals if self.groups.answer(member).diverged_step < 0]
        for label in setting.classes:
            for row in setting.rows:
                members = [member for member in unlearned[row, label] if originals[member.number] in sound]
                if any(self.groups.answer(member) is None for member in members):
                    self._unlearn(row, label, members)

    def _images(self, member: Member) -> float:
        """Roughly, for the time left."""
        optimization = self.setting.config.train
        for row in self.setting.rows:
            if row.name == member.role:
                optimization = getattr(row.settings, "optimization", row.settings)
        return getattr(optimization, "epochs", 0.0) * len(self.setting.trained)

    def _train_from_scratch(self, members: Sequence[Member]) -> None:
        setting, config = self.setting, self.setting.config
        task = setting.task(setting.classes[0])
        examples = [task.examples(config.train.label_smoothing)] * config.shadows.models
        works = []
        for member in members:
            training = setting.training_run(member)
            start = jax.tree.map(np.asarray, setting.model.init(training.keys()[0]))
            works.append(Work(member, training, start, keep=member.role == "original"))
        self.groups.train("train", together(examples, len(setting.dataset.labels)), works)

    def _unlearn(self, row: MethodRow, label: int, members: Sequence[Member]) -> None:
        """One method's models of one class, from the originals of their numbers."""
        setting = self.setting
        works, examples = [], {}
        for member in members:
            original = Member("original", -1, member.number)
            variables = jax.tree.map(jnp.asarray, self.groups.variables(original))
            task = setting.task(label, variables, self.groups.answer(original).logits)
            began = time.perf_counter()
            plan = make_plan(row.method, task, row.settings, name=member.name)
            seconds = time.perf_counter() - began
            if isinstance(plan, Edit):
                if self.groups.answer(member) is None:
                    self.groups.finish(
                        member,
                        plan.variables,
                        seconds=seconds,
                        preparation_seconds=0.0,
                        trained_samples=0,
                        read_samples=plan.read_samples,
                    )
                continue
            examples[member.number] = plan.examples
            works.append(
                Work(
                    member,
                    of_block(training_run(plan, task), member.number * len(setting.dataset.labels)),
                    jax.tree.map(np.asarray, start_of(plan, task)),
                    finish=_finish(plan),
                    preparation_seconds=seconds,
                )
            )
        if works:
            # Models whose original diverged have no plan; their block is there for the shape's sake.
            some = next(iter(examples.values()))
            blocks = [examples.get(number, some) for number in range(setting.config.shadows.models)]
            self.groups.train(
                f"{row.name} of class {label}", together(blocks, len(setting.dataset.labels)), works
            )


def _finish(plan: Plan) -> Any:
    return None if plan.finish is None else lambda variables: finished(plan, variables)
