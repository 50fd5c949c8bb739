"""A point of scale in processes of its own, and what they found put together."""

import dataclasses
import json
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from benchmarks.scale_plan import Point
from benchmarks.start_case import BEGAN
from benchmarks.start_process import ROOT, environment
from benchmarks.worker_process import WorkerDied

_QUICK_XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_POLL_SECONDS = 0.02
_LAST_LINES = 8


def measure_point(point: Point, rounds: int, quick: bool) -> dict[str, Any]:
    """The point's processes, started together, and `combined` of what they found; `quick` compiles without care.

    WorkerDied, with the last words of the process that failed; the others are ended then.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        task = {
            "case": dataclasses.asdict(point.case),
            "probes": point.probes,
            "rounds": rounds,
            "port": _free_port() if point.case.processes > 1 else 0,
        }
        (folder / "point.json").write_text(json.dumps(task))
        busy, own, began = machine.busy_cpu_seconds(), _childrens_cpu_seconds(), time.perf_counter()
        _run(point, folder, quick)
        elapsed = time.perf_counter() - began
        others = machine.busy_cpu_seconds() - busy - (_childrens_cpu_seconds() - own)
        found = [json.loads((folder / f"process_{i}.json").read_text()) for i in range(point.case.processes)]
    share = max(0.0, others / (elapsed * machine.usable_cores()))
    return combined(point, found) | {"others_share": round(share, 3), "whole_seconds": round(elapsed, 2)}


def combined(point: Point, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One point of what its processes found: a round lasts as long as the slowest of them; seconds are medians.

    `seconds` is a model-epoch's, without queries. Peaks are of the largest process; counts of work are all processes'.
    """
    train = [max(turn) for turn in zip(*(one["train_seconds"] for one in found), strict=True)]
    query = [max(turn) for turn in zip(*(one["query_seconds"] for one in found), strict=True)]
    most = {
        name: max(one[name] for one in found)
        for name in ("start_seconds", "compilation_peak_bytes", "working_peak_bytes")
    }
    whole = {
        name: sum(one[name] for one in found)
        for name in ("groups", "models", "chunks", "model_steps", "images_read")
    }
    return {
        "seconds": statistics.median(train) / point.case.model_epochs,
        "train_seconds": statistics.median(train),
        "query_seconds": statistics.median(query),
        "train_rounds": train,
        "query_rounds": query,
        "compile_seconds": max(one["compile_seconds"] + one["first_check_seconds"] for one in found),
        **most,
        **whole,
        **{
            name: found[0][name]
            for name in ("chunk_steps", "lowering", "device_bytes", "large_group", "facts")
        },
    }


def _run(point: Point, folder: pathlib.Path, quick: bool) -> None:
    changes = {
        # Devices are virtual here, whatever else the machine has, and every compilation is a cold one.
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(point.case.devices),
        "JAX_ENABLE_COMPILATION_CACHE": "0",
    }
    if quick:
        changes["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), _QUICK_XLA]))
    processes: list[subprocess.Popen] = []
    logs = [folder / f"process_{i}.err" for i in range(point.case.processes)]
    try:
        for i, log in enumerate(logs):
            with open(log, "w") as errors:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "benchmarks.jax_scale_worker", str(folder), str(i)],
                        cwd=ROOT,
                        env=environment(changes | {BEGAN: repr(time.time())}),
                        stdout=errors,
                        stderr=errors,
                    )
                )
        while any(process.poll() is None for process in processes):
            _refuse_death(point, processes, logs)
            time.sleep(_POLL_SECONDS)
        _refuse_death(point, processes, logs)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _refuse_death(point: Point, processes: Sequence[subprocess.Popen], logs: Sequence[pathlib.Path]) -> None:
    for i, process in enumerate(processes):
        if process.poll():
            said = "\n".join(logs[i].read_text(errors="replace").splitlines()[-_LAST_LINES:])
            words = f"its last lines were:\n{said}" if said else "it said nothing."
            raise WorkerDied(
                f"Process {i} of the point {point.case.name!r} ended with exit code {process.returncode}; {words}"
            )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _childrens_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
