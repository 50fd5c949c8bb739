"""What does the smoothness of a model do to it, to adversarial examples that carry over, and to AMUN?

Models of the same weights at the start and the same batches are trained with their layers clipped at several norms,
with and without batch-norm, all side by side; so are models without the forget set. AMUN forgets on each original, with
neighbours of its own and clipping as in training, and is compared with its kind's retrained model.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from mu_jax.config import SmoothAmun, to_dict
from mu_jax.data.files import write_json
from mu_jax.evaluation.report.smooth_page import write_smooth_report
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.run_folder import RunFolder, finished_results
from mu_jax.experiments.smooth_answers import SmoothAnswer
from mu_jax.experiments.smooth_attacks import SmoothAttacks
from mu_jax.experiments.smooth_groups import SmoothGroups, Work
from mu_jax.experiments.smooth_results import Studied, histories_of, results_of
from mu_jax.experiments.smooth_setting import Member, SmoothSetting, prepare_smooth
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.training.chunk import Examples
from mu_jax.unlearning.amun import amun


def run(
    config: SmoothAmun,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the study in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    one_cpu_device_a_core()
    setting = prepare_smooth(config)
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
        studied = _Study(setting, folder, shown).run()
        results = results_of(studied)
        write_smooth_report(folder.path, results, to_dict(config), histories_of(studied))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


class _Study:
    """One study in an open folder."""

    def __init__(self, setting: SmoothSetting, folder: RunFolder, shown: SweepProgress) -> None:
        self.setting, self.shown = setting, shown
        self.groups = SmoothGroups(setting, folder, shown)
        self.attacks = SmoothAttacks(setting, folder.path, shown.say)

    def run(self) -> Studied:
        answers: dict[Member, SmoothAnswer] = {}
        attacked, neighbours = {}, {}
        self.groups.start()
        for norm in self.setting.config.smoothness.norms:
            originals, retrained = (self.setting.members(norm, role) for role in ("original", "retrain"))
            works = [Work(member, self.setting.trained_rows, None) for member in originals]
            works += [Work(member, self.setting.splits.retain, None) for member in retrained]
            answers |= self.groups.train("train", self.setting.config.train, self._examples(norm, {}), works)
            for kind in self.setting.kinds(norm):
                self.shown.say(f"{kind.name}: attacking")
                mine = [one for one in originals if one.kind == kind and answers[one].diverged_step < 0]
                models = {one.number: self.groups.variables(one) for one in mine}
                attacked[kind] = self.attacks.attack(kind, models)
                for member in mine:
                    variables = models[member.number]
                    stored = self.attacks.neighbours(member, variables, self.setting.task(norm, variables))
                    if stored is not None:
                        neighbours[member] = stored
            answers |= self._forget(norm, {one: neighbours[one] for one in originals if one in neighbours})
        return Studied(self.setting, answers, attacked, neighbours, self.groups.compile_seconds)

    def _forget(self, norm: str, neighbours: Mapping[Member, Any]) -> dict[Member, SmoothAnswer]:
        """AMUN on each original that has neighbours."""
        if not neighbours:
            return {}
        config, number = self.setting.config, len(self.setting.dataset.labels)
        plans, works, offset = {}, [], 0
        for member, stored in neighbours.items():
            variables = self.groups.variables(member)
            plan = amun(self.setting.task(norm, variables), config.amun, stored)
            plans[member] = plan
            # Each plan has its neighbours right behind the data; here they lie one original's after another's.
            index = np.where(plan.index >= number, plan.index + offset, plan.index)
            offset += plan.examples.images.shape[0] - number
            works.append(Work(Member("amun", member.kind, member.number), index, variables))
        examples = self._examples(norm, plans)
        return self.groups.train("amun", config.amun.optimization, examples, works)

    def _examples(self, norm: str, plans: Mapping[Member, Any]) -> Examples:
        """The data, then the neighbours of all plans, then rows that nothing visits: one shape for both stages."""
        setting, config = self.setting, self.setting.config
        smoothness, number = config.smoothness, len(setting.dataset.labels)
        room = smoothness.models * len(smoothness.clips) * len(setting.splits.forget)
        plain = setting.task(norm).examples(
            config.amun.optimization.label_smoothing if plans else config.train.label_smoothing
        )
        more = [plan.examples for plan in plans.values()]
        left = room - sum(len(one.weights) - number for one in more)

        def joined(name: str, leaf: jax.Array) -> jax.Array:
            parts = [leaf, *(getattr(one, name)[number:] for one in more)]
            parts.append(jnp.zeros((left, *leaf.shape[1:]), leaf.dtype))
            return jnp.concatenate(parts)

        augmented = np.arange(number + room) < (number + room if config.amun.augment_neighbours else number)
        return Examples(
            images=joined("images", plain.images),
            targets=joined("targets", plain.targets),
            weights=joined("weights", plain.weights),
            augmented=jnp.asarray(augmented),
        )
