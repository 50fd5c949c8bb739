"""Measures the cases of class unlearning: workers, contenders, and rows."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import machine, shell
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row
from benchmarks.sweep_data import load_images
from benchmarks.table import case_table
from benchmarks.torch_side import start_torch
from benchmarks.training_data import weights_path, write_images
from benchmarks.ulira_case import TRW_STEP, UliraCase
from benchmarks.ulira_table import models_lines, step_figures, step_lines
from benchmarks.worker_process import Worker
from mu_jax.config import InputError
from mu_jax.data import Dataset

_UNIT, _SPAN = "models/min", 60.0
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def measure_case(
    case: UliraCase, folder: pathlib.Path, kept: pathlib.Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """The case's row, after its tables are printed; its data go into `folder`, its originals into `kept`."""
    dataset, _ = load_images("digits", None)
    file = folder / "digits.npz"
    write_images(file, dataset)
    weights = weights_path(kept, dataset, case.width, case.training_epochs)
    if case.method != TRW_STEP:
        weights = weights.with_name(f"originals_k{case.models}_{weights.name}")
    placed = dataclasses.replace(case, file=str(file), weights=str(weights))
    measured = _measure_steps if case.method == TRW_STEP else _measure_models
    say(f"{case.name}: {dataset.name}, width {case.width}")
    with contextlib.ExitStack() as stack:
        return measured(stack, placed, dataset, say)


def _measure_models(
    stack: contextlib.ExitStack, case: UliraCase, dataset: Dataset, say: Callable[[str], None]
) -> dict[str, Any]:
    """K models unlearned side by side, beside PyTorch's one after another."""
    # One device a core, as the experiment itself makes them.
    ours_worker = _jax_worker(
        stack, "benchmarks.jax_ulira_worker", {"JAX_NUM_CPU_DEVICES": str(machine.usable_cores())}
    )
    facts = {"JAX": ours_worker.ask("describe")}
    torch, torch_facts = start_torch(stack, "benchmarks.torch_ulira_worker")
    if torch is not None:
        facts["PyTorch"] = torch_facts
    trained = _trained(ours_worker, case)
    say(f"originals: {trained['accuracy']['retain']:.1%} of the images that stay, before unlearning")
    ours = [Contender("side by side", ours_worker, {"do": "unlearn"}, required=True)]
    theirs = _torch_forms(torch, "cuda" if facts["JAX"]["backend"] == "gpu" else "cpu")
    _run(case, ours, theirs, say, _SPAN)
    best, reference = ours[0], fastest(theirs)
    if not best.rates:
        raise InputError(f"The case {case.name!r} does not run here ({best.unavailable}); leave it out.")
    for one in (*ours, *theirs):
        if one.rates:
            judged = _ask_prepare(one.worker, f"accuracy {one.label}", case, one.variant | {"do": "accuracy"})
            one.facts["accuracy"] = judged["accuracy"]
    memory = {worker.name: worker.ask("memory") for worker in (ours_worker, torch) if worker}
    print(f"\n{case.name} ({dataset.name})\n{case_table(ours, theirs, best, reference, memory, _UNIT)}")
    sides = {"ours": best.facts} | {f"PyTorch, {one.label}": one.facts for one in theirs if one.rates}
    print(models_lines(case.method, sides), flush=True)
    details = _common(case, dataset, trained, memory) | {
        "models": case.models,
        "epochs": case.epochs,
        "settings": case.settings,
        "ours": {one.label: _details(one) for one in ours},
        "torch": {one.label: _details(one) for one in theirs},
        "ours_best": best.label,
        "torch_reference": reference and reference.label,
        "torch_missing": torch_facts if torch is None else None,
    }
    return row(case.name, best.rate, reference and reference.rate, _UNIT, device_line(facts), details)


def _measure_steps(
    stack: contextlib.ExitStack, case: UliraCase, dataset: Dataset, say: Callable[[str], None]
) -> dict[str, Any]:
    """A step of TRW beside one of fine-tuning, both ours."""
    worker = _jax_worker(stack, "benchmarks.jax_trw_worker", {})
    facts = {"JAX": worker.ask("describe")}
    trained = _trained(worker, case)
    both = [
        Contender(method, worker, {"do": "step", "method": method}, required=True)
        for method in ("finetune", "trw")
    ]
    _run(case, both, [], say, 1.0)
    for one in both:
        if not one.rates:
            raise InputError(f"The case {case.name!r} does not run here ({one.unavailable}); leave it out.")
    memory = {worker.name: worker.ask("memory")}
    figures = step_figures({one.label: one.rates for one in both}, {one.label: one.facts for one in both})
    print(f"\n{case.name} ({dataset.name})\n{case_table(both, [], both[1], both[0], memory, 'steps/s')}")
    print(step_lines(figures), flush=True)
    details = _common(case, dataset, trained, memory) | figures
    details["ours"] = {one.label: _details(one) for one in both}
    ours = figures["ms_a_step"]["trw"]
    # What a step is set beside here is no other framework's.
    return row(case.name, ours, None, "ms/step", device_line(facts), details) | {
        "ours": ours,
        "ratio": figures["ratio"],
    }


def _jax_worker(stack: contextlib.ExitStack, module: str, environment: Mapping[str, str]) -> Worker:
    # Otherwise JAX takes most of a GPU's memory, and PyTorch runs on the same one.
    worker = Worker("JAX", sys.executable, module, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **environment})
    stack.callback(worker.close)
    return worker


def _torch_forms(worker: Worker | None, device: str) -> list[Contender]:
    if worker is None:
        return []
    forms = [("eager", False), ("eager", True), ("compiled", False)]
    if device == "cuda":
        forms.append(("graphs", True))
    found = []
    for execution, channels_last in forms[:1] if shell.TORCH.value == "eager" else forms:
        label = f"{execution} float32{' channels-last' if channels_last else ''}"
        variant = {
            "do": "unlearn",
            "execution": execution,
            "channels_last": channels_last,
            "device": device,
        }
        found.append(Contender(label, worker, variant))
    return found


def _trained(worker: Worker, case: UliraCase) -> dict[str, Any]:
    return _ask_prepare(worker, "train", case, {"do": "train"})


def _ask_prepare(worker: Worker, name: str, case: UliraCase, variant: dict[str, Any]) -> dict[str, Any]:
    return worker.ask("prepare", name=name, case=dataclasses.asdict(case), variant=variant)["facts"]


def _run(
    case: UliraCase,
    ours: list[Contender],
    theirs: list[Contender],
    say: Callable[[str], None],
    span: float,
) -> None:
    rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
    measure(ours, theirs, dataclasses.asdict(case), rounds=rounds, seconds=seconds, say=say, span=span)


def _common(
    case: UliraCase, dataset: Dataset, trained: Mapping[str, Any], memory: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "data": dataset.name,
        "examples": len(dataset.y_train),
        "width": case.width,
        "rounds": shell.ROUNDS.value,
        "training_epochs": case.training_epochs,
        "trained": dict(trained),
        "memory": dict(memory),
        "environment": machine.environment(_ENVIRONMENT),
    }


def _details(one: Contender) -> dict[str, Any]:
    if not one.rates:
        return {"unavailable": one.unavailable}
    rates = [round(rate, 3) for rate in one.rates]
    return {
        "rate": round(one.rate, 3),
        "rates": rates,
        "others_share": round(one.others_share, 3),
        **one.facts,
    }
