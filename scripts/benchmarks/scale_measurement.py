"""What one process measures of a point of scale, by the classes that the experiment `shadow_sweep` stands on."""

import contextlib
import dataclasses
import os
import pathlib
import time
from typing import Any

import numpy as np

from benchmarks.jax_training_worker import describe
from benchmarks.scale_case import LEARNING_RATE, MEAN, MOMENTUM, STD, ScaleCase
from benchmarks.scale_hosts import EPOCHS, HOSTS, MODELS
from benchmarks.serving import peak_bytes
from benchmarks.start_case import BEGAN
from mu_jax.config import DataConfig, ModelConfig, OptimizationConfig, QueryConfig, ShadowSweep, SweepConfig
from mu_jax.experiments.devices import join_processes
from mu_jax.experiments.shadow_sweep import groups_of
from mu_jax.experiments.signal_check import SignalCheck
from mu_jax.experiments.sweep_setting import SweepSetting, prepare_sweep
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer, TrainedGroup
from mu_jax.training.placement import Placement

_POLL_SECONDS, _LONGEST_SECONDS = 0.002, 600.0
_STATUS, _CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def measure(point: dict[str, Any], process: int, folder: pathlib.Path) -> dict[str, Any]:
    """Seconds of each round, of the start and of compilation, and bytes; processes begin each round together.

    RuntimeError where a model diverges: it would train no further, and that is fast.
    """
    case, rounds = ScaleCase(**point["case"]), point["rounds"]
    if case.processes > 1:
        join_processes(f"127.0.0.1:{point['port']}", case.processes, process)
    setting = sweep_setting(case)
    member = setting.membership([case.models])
    placement = Placement("map", case.devices, case.models_per_device)
    trainer = setting.make_trainer(placement)
    ready = time.time()
    trainer.compile()
    check = SignalCheck(setting)
    groups = [
        setting.runs(member, models)
        for _, models in groups_of(case.models, placement.width, set(), process, case.processes)
    ]
    first_check = _warm_up(trainer, check, groups[0])
    compilation_peak = _peak_resident_bytes()
    _forget_peak()
    train_seconds, query_seconds = [], []
    for turn in range(rounds):
        _meet(folder, f"round_{turn}", process, case.processes)
        trained, queried = 0.0, 0.0
        for runs in groups:
            group = trainer.train(runs)
            _refuse_divergence(group)
            began = time.perf_counter()
            check(group)
            trained += group.seconds
            queried += group.query_seconds + time.perf_counter() - began
        train_seconds.append(trained)
        query_seconds.append(queried)
    working_peak = _peak_resident_bytes()
    found = {
        "start_seconds": ready - float(os.environ[BEGAN]),
        "compile_seconds": trainer.compile_seconds,
        "first_check_seconds": first_check,
        "train_seconds": train_seconds,
        "query_seconds": query_seconds,
        "groups": len(groups),
        "models": sum(map(len, groups)),
        "chunks": sum(-(-max(run.steps for run in runs) // trainer.chunk_steps) for runs in groups),
        "chunk_steps": trainer.chunk_steps,
        "model_steps": sum(run.steps for runs in groups for run in runs),
        "images_read": sum(map(len, groups)) * len(setting.dataset.labels) * len(setting.views),
        "compilation_peak_bytes": compilation_peak,
        "working_peak_bytes": working_peak,
        "lowering": setting.lowering,
        "device_bytes": {f"{placement.mapping} {placement.models_per_device}": trainer.bytes_per_device()},
        "large_group": large_group(setting),
        "facts": describe(),
    }
    del trainer
    for mapping, each in point["probes"]:
        probe = setting.make_trainer(Placement(mapping, case.devices, each))
        found["device_bytes"][f"{mapping} {each}"] = probe.bytes_per_device()
    return found


def sweep_setting(case: ScaleCase) -> SweepSetting:
    """The case as a shadow sweep of synthetic images."""
    half = case.examples // 2
    shape = f"{case.side},{case.side},3"
    config = ShadowSweep(
        data=DataConfig(
            source=f"synthetic:{shape},10,{half},{case.examples - half}", mean=(MEAN,), std=(STD,)
        ),
        model=ModelConfig(name=case.network, width=case.width),
        train=OptimizationConfig(
            epochs=case.epochs,
            batch_size=case.batch,
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=5e-4,
        ),
        # Pairs are exact halves: every model takes equally many steps.
        sweep=SweepConfig(
            models=case.models, membership="pairs", mapping="pmap_map" if case.devices > 1 else "map"
        ),
        query=QueryConfig(flip=True, shift=0),
    )
    return prepare_sweep(config)


def large_group(setting: SweepSetting) -> dict[str, int]:
    """By number of hosts, how many models the groups of the large sweep would have: as the experiment chooses it."""
    config = dataclasses.replace(
        setting.config,
        train=dataclasses.replace(setting.config.train, epochs=EPOCHS),
        sweep=dataclasses.replace(setting.config.sweep, models=MODELS),
    )
    large = dataclasses.replace(setting, config=config)
    return {str(hosts): large.first_placement(hosts).width for hosts in HOSTS}


def _warm_up(trainer: ParallelTrainer, check: SignalCheck, runs: list[TrainingRun]) -> float:
    """One step of a group, its query and its check; seconds of the check, which compiles."""
    short = trainer.batch_size / min(len(run.index) for run in runs)
    group = trainer.train(
        [
            dataclasses.replace(run, optimization=dataclasses.replace(run.optimization, epochs=short))
            for run in runs
        ]
    )
    began = time.perf_counter()
    check(group)
    return time.perf_counter() - began


def _refuse_divergence(group: TrainedGroup) -> None:
    diverged = np.count_nonzero(group.diverged_step >= 0)
    if diverged:
        raise RuntimeError(
            f"{diverged} of {len(group.diverged_step)} models diverged: what was timed is no training"
        )


def _meet(folder: pathlib.Path, name: str, process: int, processes: int) -> None:
    """Wait until every process has come here; like a sweep's, they meet in the folder alone."""
    (folder / f"{name}.{process}").touch()
    began = time.perf_counter()
    while not all((folder / f"{name}.{other}").exists() for other in range(processes)):
        if time.perf_counter() - began > _LONGEST_SECONDS:
            raise RuntimeError(f"another process did not come to {name}")
        time.sleep(_POLL_SECONDS)


def _peak_resident_bytes() -> int:
    """The largest resident set since `_forget_peak`; the process's life long where Linux is not there."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            # Not getrusage's figure, which a process inherits from the one that started it.
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return peak_bytes()


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
