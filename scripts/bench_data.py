"""An epoch from 8-bit images to trained weights, and its batches by themselves, beside PyTorch.

    python scripts/bench_data.py --cases=epoch_w16,input --json=data.json

| case | |
|---|---|
| `epoch_wWIDTH[_sSIDE][_nEXAMPLES]` | a whole epoch of a ResNet-18's training |
| `input[_sSIDE][_nEXAMPLES]` | the batches of an epoch by themselves |

An epoch is of 2,048 random 8-bit images of 32×32×3 (SIDE×SIDE×3), in a new order, in full batches of 64 (32 below 32
pixels). Each image is cropped at random from itself padded by 4 pixels, mirrored with probability ½, and normalised to
float32. The images lie on the device, except those of PyTorch's DataLoader. Figures are images a second.

Ours trains as the experiments do, in compiled chunks of steps that make their own batches. Batches by themselves are
made as such a step makes them, by a call each or in a compiled loop, and all of them are written to memory. PyTorch's
epoch takes its batches by indexing (eager, channels-last, or with its loss compiled); batches by themselves are made by
indexing, eager or compiled, or by a DataLoader of one image after another, with 0 and with 2 workers. The fastest form
counts, on both sides. Each side is a process of its own; they take turns, one at work at a time. Memory is the peak of
a side's process, without that of a loader's workers.
"""

import contextlib
import dataclasses
import pathlib
import sys
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.data_case import EPOCH, DataCase
from benchmarks.data_names import parse_cases
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.table import aligned, case_table, number
from benchmarks.torch_side import start_torch
from benchmarks.worker_process import Worker
from mu_jax.config import InputError

_UNIT = "images/s"
_LOADER_WORKERS = (0, 2)
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    rows = []
    for case in parse_cases(shell.CASES.value):
        say(f"{case.name}: {case.batches} batches of {case.batch}")
        rows.append(_measure_case(case))
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{_summary(rows)}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _measure_case(case: DataCase) -> dict[str, Any]:
    """The case's row; its workers live no longer."""
    with contextlib.ExitStack() as stack:
        # Otherwise JAX takes most of a GPU's memory, and PyTorch runs on the same one.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        jax_worker = Worker("JAX", sys.executable, "benchmarks.jax_data_worker", environment)
        stack.callback(jax_worker.close)
        workers, facts = [jax_worker], {"JAX": jax_worker.ask("describe")}
        torch, torch_facts = start_torch(stack, "benchmarks.torch_data_worker")
        forms = ("train",) if case.kind == EPOCH else ("calls", "loop")
        ours = [Contender(form, jax_worker, {"form": form}) for form in forms]
        theirs: list[Contender] = []
        if torch is not None:
            workers.append(torch)
            facts["PyTorch"] = torch_facts
            theirs = _torch_forms(torch, case, "cuda" if facts["JAX"]["backend"] == "gpu" else "cpu")
        rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
        measure(ours, theirs, dataclasses.asdict(case), rounds=rounds, seconds=seconds, say=say)
        memory = {worker.name: worker.ask("memory") for worker in workers}
    best, reference = fastest(ours), fastest(theirs)
    if best is None:
        raise InputError(
            f"The case {case.name!r} does not run here ({ours[0].unavailable}); make it smaller."
        )
    print(f"\n{case.name}\n{case_table(ours, theirs, best, reference, memory, _UNIT)}", flush=True)
    if torch is None:
        print(f"PyTorch: {torch_facts}", flush=True)
    details = {
        "kind": case.kind,
        "width": case.width,
        "side": case.side,
        "examples": case.examples,
        "batch": case.batch,
        "rounds": rounds,
        "ours": {one.label: _details(one) for one in ours},
        "torch": {one.label: _details(one) for one in theirs},
        "ours_best": best.label,
        "torch_reference": reference and reference.label,
        "torch_missing": torch_facts if torch is None else None,
        "memory": memory,
        "environment": machine.environment(_ENVIRONMENT),
    }
    return row(case.name, best.rate, reference and reference.rate, _UNIT, device_line(facts), details)


def _torch_forms(worker: Worker, case: DataCase, device: str) -> list[Contender]:
    """PyTorch's forms; `--torch=eager` has none that is compiled or channels-last."""
    loaders = [{"form": "loader", "workers": workers} for workers in _LOADER_WORKERS]
    if case.kind == EPOCH:
        plain, more = [{"form": "eager"}], [{"form": "eager", "channels_last": True}, {"form": "compiled"}]
        if device == "cuda":
            more.append({"form": "graphs", "channels_last": True})
    else:
        plain = [{"form": "indexing"}, *loaders]
        more = [{"form": "indexing", "channels_last": True}, {"form": "indexing compiled"}]
    found = []
    for form in plain if shell.TORCH.value == "eager" else plain + more:
        variant = {"channels_last": False, "device": device, **form}
        label = variant["form"] + (" channels-last" if variant["channels_last"] else "")
        label += f", {variant['workers']} workers" if "workers" in variant else ""
        found.append(Contender(label, worker, variant))
    return found


def _summary(rows: list[dict[str, Any]]) -> str:
    """All cases, a line each."""
    lines = [("case", "how", "PyTorch's form", "ours, images/s", "PyTorch, images/s", "ratio")]
    for one in rows:
        details = one["details"]
        theirs = ("–", "–") if one["torch"] is None else (number(one["torch"]), f"{one['ratio']:.2f}")
        how = (details["ours_best"], details["torch_reference"] or "–")
        lines.append((one["case"], *how, number(one["ours"]), *theirs))
    return aligned(lines, 3)


def _details(one: Contender) -> dict[str, Any]:
    if not one.rates:
        return {"unavailable": one.unavailable}
    return {
        "rate": round(one.rate, 3),
        "rates": [round(rate, 3) for rate in one.rates],
        "others_share": round(one.others_share, 3),
        **one.facts,
    }


if __name__ == "__main__":
    flags.set_default(shell.SECONDS, 3.0)
    shell.run(main)
