"""Models per minute of sweeps of shadow models, beside PyTorch's, which trains one whole model after another.

    python scripts/bench_sweep.py --cases=digits_w16_k32,cifar_w16_k8 --cifar=npz:cifar10.npz --json=sweeps.json

A case is `DATA_wWIDTH_kMODELS[_bf16][_eEPOCHS]`. DATA: `digits` (scikit-learn's 1,797 real images of 8×8, batch 32, 10
epochs) or `cifar` (2,048 images of 32×32 in colour, batch 64, 4 epochs; synthetic ones unless `--cifar` names others).
Each model is a ResNet-18 that starts from fresh weights, trains on a random half of the images (SGD 0.1, momentum 0.9,
weight decay 5e-4, a cosine, no augmentation), and is then queried on all of them, as they are and mirrored, in
float32, until φ and the true class's probability are on the host. Initialisation counts, compilation does not.

A round of ours is the whole sweep of K models, placed as the experiment `shadow_sweep` would. A round of PyTorch is as
many whole models as last about `--seconds`, at least one and at most K: because it trains them one after another, its
models per minute do not depend on K. The ratio's denominator is PyTorch's fastest form of the case's dtype. Not among
them are `torch.func`'s stacked models, which are not one after another; bench_ops measures their training step.
PyTorch is a process of its own; the sides take turns, one at work at a time. Its memory, and ours, is the peak of the
process with all its forms.
"""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.sweep_case import SweepCase
from benchmarks.sweep_data import load_images, write_case
from benchmarks.sweep_names import check_epochs, parse_cases
from benchmarks.sweep_table import learning_lines, summary
from benchmarks.table import case_table
from benchmarks.worker_process import Worker
from mu_jax.config import InputError
from mu_jax.data import Dataset

_MAPPINGS = ("one", "map", "vmap", "pmap_one", "pmap_map", "pmap_vmap")
_MAPPING = flags.DEFINE_list(
    "mapping",
    ["auto"],
    f"`auto` (as the sweeps choose), `all`, or some of {', '.join(_MAPPINGS)}: the fastest counts.",
)
_CIFAR = flags.DEFINE_string(
    "cifar",
    None,
    "The images of `cifar`: npz:FILE or another data.source of 32×32×3; by default synthetic ones.",
)
_EPOCHS = flags.DEFINE_float(
    "epochs", None, "Replaces every case's epochs, for a quick look; names then say so."
)
_UNIT, _SPAN = "models/min", 60.0
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    _check_flags()
    cases = parse_cases(shell.CASES.value, _EPOCHS.value)
    images = {data: load_images(data, _CIFAR.value) for data in {case.data: None for case in cases}}
    rows = []
    for case in cases:
        dataset, synthetic = images[case.data]
        say(
            f"{case.name}: {len(dataset.labels)} images, {dataset.name}, batch {case.batch}, {case.epochs:g} epochs"
        )
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "case.npz"
            write_case(file, case, dataset)
            rows.append(_measure_case(dataclasses.replace(case, file=str(file)), dataset, synthetic))
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _check_flags() -> None:
    if not _MAPPING.value:
        raise InputError(
            f"--mapping is empty, but expected auto, all or some of {', '.join(_MAPPINGS)}; give one."
        )
    if len(set(_MAPPING.value)) < len(_MAPPING.value):
        raise InputError(f"--mapping is {','.join(_MAPPING.value)!r}, but expected each once; drop one.")
    for mapping in _MAPPING.value:
        shell.one_of("mapping", mapping, ("auto", "all", *_MAPPINGS))
    if "all" in _MAPPING.value and len(_MAPPING.value) > 1:
        raise InputError("--mapping has all beside names, but expected all alone; drop the names.")
    if _EPOCHS.value is not None:
        check_epochs(_EPOCHS.value, f"--epochs is {_EPOCHS.value:g}", "change it")


def _mappings(case: SweepCase) -> tuple[str, ...]:
    if case.models == 1:
        return ("one",)
    return _MAPPINGS if _MAPPING.value == ["all"] else tuple(_MAPPING.value)


def _jax_worker() -> Worker:
    # One device a core, as the experiment itself makes them; of these a mapping without `pmap_` uses the first, which
    # computes with all cores. Without the other JAX takes most of a GPU's memory, and PyTorch runs on the same one.
    environment = {
        "JAX_NUM_CPU_DEVICES": str(machine.usable_cores()),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return Worker("JAX", sys.executable, "benchmarks.jax_sweep_worker", environment)


def _measure_case(case: SweepCase, dataset: Dataset, synthetic: bool) -> dict[str, Any]:
    """The case's row; its workers live no longer."""
    with contextlib.ExitStack() as stack:
        workers = [_jax_worker()]
        stack.callback(workers[0].close)
        facts = {"JAX": workers[0].ask("describe")}
        ours = [Contender(mapping, workers[0], {"mapping": mapping}) for mapping in _mappings(case)]
        theirs: list[Contender] = []
        if shell.TORCH.value != "none":
            # Nothing of our side's environment: JAX's settings are none of PyTorch's.
            worker = Worker("PyTorch", shell.TORCH_PYTHON.value, "benchmarks.torch_sweep_worker", {})
            stack.callback(worker.close)
            workers.append(worker)
            facts[worker.name] = worker.ask("describe")
            device = "cuda" if facts["JAX"]["backend"] == "gpu" else "cpu"
            theirs = [_torch(worker, case, device, *form) for form in _torch_forms(case, device)]

        rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
        measure(ours, theirs, dataclasses.asdict(case), rounds=rounds, seconds=seconds, say=say, span=_SPAN)
        memory = {worker.name: worker.ask("memory") for worker in workers}
    best = fastest(ours)
    if best is None:
        raise InputError(
            f"The case {case.name!r} has no variant of ours left ({ours[0].unavailable}); change it."
        )
    reference = fastest([one for one in theirs if one.variant["dtype"] == case.dtype])
    for one in ours:
        if one.label == "auto" and one.facts:
            one.label = f"auto ({one.facts['mapping']})"
    data = f"{dataset.name}, not real" if synthetic else dataset.name
    table = case_table(ours, theirs, best, reference, memory, _UNIT)
    print(f"\n{case.name} ({data})\n{table}\n{learning_lines(ours, theirs)}\n", flush=True)

    details = {
        "data": dataset.name,
        "synthetic": synthetic,
        "examples": len(dataset.labels),
        "models": case.models,
        "batch": case.batch,
        "epochs": case.epochs,
        "rounds": rounds,
        "ours": {one.label: _details(one) for one in ours},
        "torch": {one.label: _details(one) for one in theirs},
        "ours_best": best.label,
        "torch_reference": reference and reference.label,
        "memory": memory,
        "idle_cpu_seconds": {worker.name: round(worker.idle_cpu_seconds, 3) for worker in workers},
        "environment": machine.environment(_ENVIRONMENT),
    }
    return row(case.name, best.rate, reference and reference.rate, _UNIT, device_line(facts), details)


def _torch_forms(case: SweepCase, device: str) -> list[tuple[str, str, bool]]:
    """(execution, dtype, channels last) of PyTorch's forms."""
    if shell.TORCH.value == "eager":
        return [("eager", case.dtype, False)]
    forms = [("eager", "float32", False), ("eager", "float32", True), ("compiled", "float32", False)]
    if device == "cuda":
        forms.append(("graphs", "float32", True))
    if case.dtype == "bfloat16":
        forms += [("eager", "bfloat16", False), ("eager", "bfloat16", True), ("compiled", "bfloat16", True)]
        if device == "cuda":
            forms.append(("graphs", "bfloat16", True))
    return forms


def _torch(
    worker: Worker, case: SweepCase, device: str, execution: str, dtype: str, channels_last: bool
) -> Contender:
    label = f"{execution} {dtype}{' channels-last' if channels_last else ''}"
    variant = {"execution": execution, "dtype": dtype, "channels_last": channels_last, "device": device}
    # Beside float32 forms none of bfloat16 is dropped as hopeless: the ratio divides by the fastest of these.
    return Contender(label, worker, variant, required=dtype == case.dtype == "bfloat16")


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


if __name__ == "__main__":
    flags.set_default(shell.ROUNDS, 3)
    flags.set_default(shell.SECONDS, 5.0)
    shell.run(main)
