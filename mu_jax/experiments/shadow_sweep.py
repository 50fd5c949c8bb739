"""Many shadow models on known halves of the data, for every attack that asks how a model would look without an example.

Trains K models, many in one compiled program, reads their signals on all examples as soon as a group of them has
ended, and keeps only those. Groups are what a kill may cost; several processes may share them out.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mu_jax.config import InputError, ShadowSweep, to_dict
from mu_jax.data.files import write_json
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.run_folder import RunFolder, finished_results, read_config, versions
from mu_jax.experiments.signal_check import SignalCheck
from mu_jax.experiments.signal_parts import SignalParts
from mu_jax.experiments.signal_pool import member_sha256, read_description, read_pool, refuse_another_recipe
from mu_jax.experiments.sweep_plan import SweepPlan
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.experiments.sweep_setting import SweepSetting, model_name, prepare_sweep
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.group_log import GroupReport
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer, TrainedGroup
from mu_jax.training.placement import Placement, fit_to_memory, free_bytes

MANY_PROCESSES = True
"""Processes under `jax.distributed` share the work; they meet in the run folder alone."""


def run(
    config: ShadowSweep,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: SweepProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the sweep in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    one_cpu_device_a_core()
    done = finished_results(workdir, to_dict(config), _but_for_growth)
    if done is not None and done["sweep"]["models"] == config.sweep.models:
        _refuse_another_membership_file(config, workdir)
        return done, True
    recorded = read_config(workdir)
    setting = prepare_sweep(config, recorded and recorded["inputs"]["convolution"])
    _check_growth(workdir, setting)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "convolution": setting.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
        comparable=_but_for_growth,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    with folder, progress or SweepProgress() as shown:
        return _Sweep(setting, folder, shown).run(), False


def _but_for_growth(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a config, what more models may not change. The memberships themselves are compared, not their file's name.

    Memory only sizes the groups of a new sweep; one that is begun keeps the groups of its plan.
    """
    growing = ("models", "membership_file", "memory_gib")
    return {**config, "sweep": {key: value for key, value in config["sweep"].items() if key not in growing}}


def _refuse_another_membership_file(config: ShadowSweep, workdir: pathlib.Path) -> None:
    """A finished sweep reads no data, so of a file only its name can be compared."""
    before = read_config(workdir)["config"]["sweep"]["membership_file"]
    if before != config.sweep.membership_file:
        raise InputError(
            f"{workdir} holds a finished sweep by the memberships in {before!r}, but sweep.membership_file is now "
            f"{config.sweep.membership_file!r}; set it back, or choose another --workdir."
        )


def _check_growth(workdir: pathlib.Path, setting: SweepSetting) -> None:
    """Refuse what cannot go on, before anything in the folder is changed."""
    models = setting.config.sweep.models
    plan = SweepPlan.load(workdir / "plan.json")
    if plan is None:
        setting.membership([models])
        setting.first_placement(jax.process_count())
    else:
        plan.grown_to(models, setting.membership, workdir / "plan.json")
    saved = read_description(workdir / "signals")
    if saved is not None:
        refuse_another_recipe(workdir / "signals", saved, setting.produced_by())


class _Sweep:
    """One run of the experiment in an open folder."""

    def __init__(self, setting: SweepSetting, folder: RunFolder, shown: SweepProgress) -> None:
        self.setting, self.folder, self.shown = setting, folder, shown
        self.models = setting.config.sweep.models
        self.process, self.processes = jax.process_index(), jax.process_count()
        self.parts = SignalParts(folder.path / "signals")
        self._check_signals = SignalCheck(setting)

    def run(self) -> dict[str, Any]:
        if self.folder.changed_versions:
            self.shown.say(
                f"begun under other versions of {', '.join(self.folder.changed_versions)}: models may differ in bits "
                "from those of an undisturbed sweep"
            )
        plan, trainer = self._settle_plan()
        member = self.setting.membership(list(plan.blocks))
        if member_sha256(member) != plan.member_sha256:
            raise InputError(
                f"The membership is not the one in {self.folder.path / 'plan.json'}; choose another --workdir."
            )
        stored = self.parts.stored_models()
        groups = groups_of(self.models, plan.placement.width, stored, self.process, self.processes)
        # Groups that a kill cut short tell their story anew.
        self.folder.keep_metrics(lambda line: set(range(line["models"][0], line["models"][1] + 1)) <= stored)
        compile_seconds = self._train(groups, member, trainer, plan.placement)
        if self.process:
            self.folder.wait_for((self.folder.path / "results.json").exists, "the first process", None)
            return finished_results(self.folder.path, to_dict(self.setting.config), _but_for_growth)
        self._wait_for_others()
        if self.parts.parts.is_dir() or self._finished_models() < self.models:
            self.parts.merge(
                member=member,
                labels=self.setting.dataset.labels,
                produced_by=self.setting.produced_by(),
                queries=[view._asdict() for view in self.setting.views],
                blocks=plan.blocks,
                made_with={
                    "placement": dataclasses.asdict(plan.placement),
                    "convolution": self.setting.lowering,
                    "device": jax.local_devices()[0].device_kind,
                    "versions": versions(),
                },
            )
        # Here, because the first step need not wait for the seconds that what attacks and draws takes to import.
        from mu_jax.evaluation.report import write_sweep_report
        from mu_jax.experiments.sweep_attacks import attack_pool
        from mu_jax.experiments.sweep_results import report_data, results_of

        pool = read_pool(self.parts.signals, self.setting.produced_by())
        results = results_of(self.setting, pool, plan.placement, self.processes, compile_seconds)
        attacks = attack_pool(self.setting, pool, results, self.folder.path / "scores.npz", self.shown.say)
        # A group that another number of processes began before tells the same steps twice.
        told = {(*line["models"], line["step"]): line for line in self.folder.metrics()}
        curves = [told[key] for key in sorted(told)]
        write_sweep_report(self.folder.path, report_data(self.setting, pool, results, curves, attacks))
        # Last of all: a folder with results.json is a finished run.
        write_json(self.folder.path / "results.json", results)
        return results

    def _settle_plan(self) -> tuple[SweepPlan, ParallelTrainer | None]:
        """The recorded plan, grown where more models are asked for; made by the first process where there is none.

        A new plan comes with the compiled trainer that showed that it fits.
        """
        path = self.folder.path / "plan.json"
        if self.process:
            self.folder.wait_for(
                lambda: (plan := SweepPlan.load(path)) is not None and sum(plan.blocks) == self.models,
                "plan.json from the first process",
            )
        plan, trainer = SweepPlan.load(path), None
        if plan is None:
            self.shown.say("compiling")
            try:
                trainer = fit_to_memory(
                    self.setting.make_trainer, self.setting.first_placement(self.processes), self._budget
                )
            except InputError:
                self.folder.forget_config()  # the same folder may be tried with other settings
                raise
            sha256 = member_sha256(self.setting.membership([self.models]))
            plan = SweepPlan(trainer.placement, (self.models,), sha256)
            plan.save(path)
        elif sum(plan.blocks) != self.models:
            plan = plan.grown_to(self.models, self.setting.membership, path)
            plan.save(path)
        return plan, trainer

    def _budget(self, placement: Placement) -> int | None:
        given = self.setting.config.sweep.memory_gib
        return int(given * 2**30) if given else free_bytes(placement)

    def _train(
        self,
        groups: Sequence[tuple[int, list[int]]],
        member: np.ndarray,
        trainer: ParallelTrainer | None,
        placement: Placement,
    ) -> float:
        """Train this process's groups and store what they say: the seconds of compilation."""
        mine = sum(len(models) for _, models in groups)
        owned = groups_of(self.models, placement.width, set(), self.process, self.processes)
        total = sum(len(models) for _, models in owned)
        runs = {group: self.setting.runs(member, models) for group, models in groups}
        images = sum(run.trained_samples for group in runs.values() for run in group)
        self.shown.start(total, total - mine, images)
        if not groups:
            return 0.0
        trainer = trainer or self.setting.make_trainer(placement)
        with _memory_in_words(placement):
            trainer.compile()
        self.shown.compiled(trainer.compile_seconds)
        done = total - mine
        for group, models in groups:

            def on_chunk(
                report: GroupReport, group: int = group, models: list[int] = models, done: int = done
            ):
                self.folder.append_metrics(_line(group, models, report))
                self.shown.update(group, done, report.images, report.seconds, report.loss)

            with _memory_in_words(placement):
                trained = trainer.train(runs[group], on_chunk=on_chunk)
            self._store(group, models, runs[group], member, trained)
            del trained  # its weights, before the next group has its own
            done += len(models)
            self.shown.group_done(done)
        return trainer.compile_seconds

    def _store(
        self,
        group: int,
        models: list[int],
        runs: Sequence[TrainingRun],
        member: np.ndarray,
        trained: TrainedGroup,
    ) -> None:
        # Weights may be finite and still so large that what they say of an image is not.
        silent = (trained.diverged_step < 0) & ~np.isfinite(trained.signals["phi"]).all(axis=(1, 2))
        steps = np.array([run.steps for run in runs])
        trained = dataclasses.replace(
            trained,
            diverged_step=np.where(silent, steps, trained.diverged_step),
            loss=np.where(silent, np.nan, trained.loss),
        )
        self._check_signals(trained)
        signals = dict(trained.signals)
        right = signals.pop("correct")[:, :, 0]  # of the image as it is
        inside = member[models]
        diverged = np.flatnonzero(trained.diverged_step >= 0)
        for i in diverged:
            self.shown.say(
                f"model {models[i]} diverged at step {trained.diverged_step[i]} of {runs[i].steps}: its signals are "
                "kept and marked (try a smaller learning_rate or a longer warmup_epochs)"
            )
        if self.setting.config.sweep.keep_models:
            # Before the part, so that a model that is stored has its weights.
            for i, model in enumerate(models):
                checkpoints = Checkpoints(self.folder.path / "checkpoints" / model_name(model))
                checkpoints.save(runs[i].steps, trained.of(i))
        self.parts.write(
            group,
            models,
            signals,
            {
                "diverged_step": trained.diverged_step,
                "loss": trained.loss,
                "member_accuracy": (right & inside).sum(axis=1) / inside.sum(axis=1),
                "nonmember_accuracy": (right & ~inside).sum(axis=1) / (~inside).sum(axis=1),
                "trained_samples": np.array(
                    [
                        run.trained_samples if step < 0 else int(step) * run.optimization.batch_size
                        for run, step in zip(runs, trained.diverged_step, strict=True)
                    ]
                ),
                "seconds": np.full(len(models), trained.seconds / len(models)),
                "query_seconds": np.full(len(models), trained.query_seconds / len(models)),
            },
        )

    def _finished_models(self) -> int:
        saved = read_description(self.parts.signals)
        return saved["models"] if saved else 0

    def _wait_for_others(self) -> None:
        missing = self.models - len(self.parts.stored_models())
        if missing and self.processes > 1:
            self.shown.say(f"waiting for {missing} models of other processes")
            self.folder.wait_for(
                lambda: len(self.parts.stored_models()) == self.models, "other processes", None, poll=2.0
            )


@contextlib.contextmanager
def _memory_in_words(placement: Placement) -> Iterator[None]:
    """What XLA says of memory that ran out, as one sentence."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"Memory ran out for groups of {placement.width} models ({str(error).splitlines()[0]}); free some and give "
            "the same command again, which goes on from the last group, or start in another --workdir with a lower "
            "--config.sweep.memory_gib."
        ) from None


def groups_of(
    models: int, width: int, stored: set[int], process: int = 0, processes: int = 1
) -> list[tuple[int, list[int]]]:
    """Of K models in groups of `width`, this process's groups and what of them is not stored yet.

    By number alone, so that processes need not agree on what is left: any number of them, started at any time, leave
    no group to two.
    """
    found = []
    for group in range(process, math.ceil(models / width), processes):
        left = [k for k in range(group * width, min((group + 1) * width, models)) if k not in stored]
        if left:
            found.append((group, left))
    return found


def _line(group: int, models: Sequence[int], report: GroupReport) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "group": group,
        "models": [models[0], models[-1]],
        "step": report.step,
        "steps": report.steps,
        "epoch": round(report.epoch, 4),
        "loss": number(report.loss),
        "loss_low": number(report.loss_low),
        "loss_high": number(report.loss_high),
        "accuracy": number(report.accuracy),
        "learning_rate": report.learning_rate,
        "diverged": report.diverged,
        "seconds": round(report.seconds, 4),
        "images_per_second": round(report.images / max(report.seconds, 1e-9), 1),
    }
