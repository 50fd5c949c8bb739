"""What FastClip costs a training step, and how fast layers are measured beside the same algorithm in PyTorch.

    python scripts/bench_fastclip.py --cases=fastclip_w16,measure_w64 --json=fastclip.json

| case | |
|---|---|
| `fastclip_wWIDTH[_sSIDE]` | training with the norms of all layers tracked and clipped, beside plain training |
| `measure_wWIDTH[_sSIDE]` | the norms of all layers to 1e-6, by themselves and with their batch-norm |

The network is ResNet-18 with batch-norm, for images of 32×32×3 (SIDE×SIDE×3).

Training: batches of 64 (32 below 32 pixels) of random images, SGD with momentum, 100 steps in one compiled program: the
period of the published schedule, which clips layers by themselves every 50 steps and with their batch-norm every 100.
Forms are `plain`, `track` (the clip is infinite) and `fastclip` (1.0), all ours; rounds of whole chunks interleave
them, and `ratio` is the time of `fastclip` over that of `plain`, the median over rounds. The hundred iterations before
a training's first step are not in it. PyTorch's own ratio, of the published scheme in eager PyTorch, stands beside it.

Measuring: a round is one call for all layers, compilation apart. Both sides have the same weights (fresh kernels,
random scales and variances of batch-norm) and the same algorithm (blocks of five vectors, Rayleigh–Ritz, a Chebyshev
polynomial) in float32; PyTorch's by `F.conv2d` and `F.conv_transpose2d`, and the faster of its two memory formats
counts. `ratio` is PyTorch's seconds over ours. The norms are compared: the exit code is 1 where they differ by more
than 1e-4. Beside them stands the published PowerQR with one vector and 100 iterations, its time and its error.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.fastclip_case import AGREED, TRAINING, FastclipCase
from benchmarks.fastclip_names import parse_cases
from benchmarks.fastclip_table import (
    differences,
    measuring_lines,
    summary,
    training_figures,
    training_lines,
)
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import write_rows
from benchmarks.table import case_table
from benchmarks.torch_side import start_torch
from benchmarks.worker_process import Worker
from mu_jax.config import InputError

_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    cases, rows = parse_cases(shell.CASES.value), []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            weights = str(pathlib.Path(folder) / "weights.npz")
            rows.append(_measure_case(dataclasses.replace(case, weights=weights)))
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)
    wrong = [
        row["case"] for row in rows if (row["details"].get("agreement") or {}).get("largest", 0) > AGREED
    ]
    if wrong:
        say(f"bench_fastclip.py: the sides' norms differ in {', '.join(wrong)}; one of them is wrong.")
        sys.exit(1)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _measure_case(case: FastclipCase) -> dict[str, Any]:
    """The case's row; its workers live no longer."""
    say(f"{case.name}:")
    with contextlib.ExitStack() as stack:
        # Otherwise JAX takes most of a GPU's memory, and PyTorch runs on the same one.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        workers = [Worker("JAX", sys.executable, "benchmarks.jax_fastclip_worker", environment)]
        stack.callback(workers[0].close)
        facts = {"JAX": workers[0].ask("describe")}
        torch, torch_facts = start_torch(stack, "benchmarks.torch_fastclip_worker")
        if torch is not None:
            workers.append(torch)
            facts["PyTorch"] = torch_facts
        device = "cuda" if facts["JAX"]["backend"] == "gpu" else "cpu"
        ours, theirs = _contenders(case, workers[0], torch, device)
        measure(
            ours,
            theirs,
            dataclasses.asdict(case),
            rounds=shell.ROUNDS.value,
            seconds=shell.SECONDS.value,
            say=say,
            span=1.0 if case.kind == TRAINING else 60.0,
        )
        memory = {worker.name: worker.ask("memory") for worker in workers}
    for one in ours:
        if not one.rates:
            raise InputError(f"The case {case.name!r} does not run here: {one.unavailable}; make it smaller.")
    details = {
        "kind": case.kind,
        "width": case.width,
        "side": case.side,
        "rounds": shell.ROUNDS.value,
        "ours": {one.label: _details(one) for one in ours},
        "torch": {one.label: _details(one) for one in theirs},
        "torch_missing": torch_facts if torch is None else None,
        "memory": memory,
        "environment": machine.environment(_ENVIRONMENT),
    }
    finish = _training_row if case.kind == TRAINING else _measuring_row
    row, best, reference, lines = finish(case, ours, theirs, details)
    unit = "images/s" if case.kind == TRAINING else "calls/min"
    print(f"\n{case.name}\n{case_table(ours, theirs, best, reference, memory, unit)}\n{lines}", flush=True)
    if torch is None:
        print(f"PyTorch: {torch_facts}", flush=True)
    return row | {"device": device_line(facts), "details": details}


def _contenders(
    case: FastclipCase, jax_worker: Worker, torch: Worker | None, device: str
) -> tuple[list[Contender], list[Contender]]:
    """Ours and theirs; the labels are the forms, and `channels-last` where it applies."""
    forms = ("plain", "track", "fastclip") if case.kind == TRAINING else ("measure", "power")
    if case.kind != TRAINING:
        jax_worker.ask("prepare", name="weights", case=dataclasses.asdict(case), variant={"form": "weights"})
    ours = [Contender(form, jax_worker, {"form": form}, required=True) for form in forms]
    theirs = []
    for form in forms if torch else ():
        layouts = (False, True) if form == "measure" and shell.TORCH.value == "all" else (False,)
        for channels_last in layouts:
            label = f"{form}{' channels-last' if channels_last else ''}"
            variant = {"form": form, "channels_last": channels_last, "device": device}
            theirs.append(Contender(label, torch, variant, required=True))
    return ours, theirs


def _training_row(
    case: FastclipCase, ours: list[Contender], theirs: list[Contender], details: dict[str, Any]
) -> tuple[dict[str, Any], Contender, Contender | None, str]:
    """(row, ours with FastClip, PyTorch's, lines); adds the figures to the details."""
    rates = {one.label: one.rates for one in ours}
    torch_rates = {one.label: one.rates for one in theirs} or None
    figures = training_figures(rates, case.batch, torch_rates)
    details |= figures
    reference = next((one for one in theirs if one.label == "fastclip"), None)
    row = {
        "case": case.name,
        "ours": figures["ms_a_step"]["fastclip"],
        "plain": figures["ms_a_step"]["plain"],
        "torch": reference and round(1000 * case.batch / reference.rate, 3),
        "ratio": figures["ratio"],
        "unit": "ms/step",
    }
    return row, ours[-1], reference, training_lines(figures)


def _measuring_row(
    case: FastclipCase, ours: list[Contender], theirs: list[Contender], details: dict[str, Any]
) -> tuple[dict[str, Any], Contender, Contender | None, str]:
    """(row, ours, PyTorch's faster form, lines); adds the comparisons to the details."""
    best, power = ours
    reference = fastest([one for one in theirs if one.variant["form"] == "measure"])
    true = best.facts["norms"]
    details["agreement"] = reference and differences(reference.facts["norms"], true)
    details["power"] = {}
    for side, one in (("ours", power), *(("PyTorch", o) for o in theirs if o.variant["form"] == "power")):
        details["power"][side] = {"seconds": _seconds(one), **differences(one.facts["norms"], true)}
    row = {
        "case": case.name,
        "ours": _seconds(best),
        "torch": reference and _seconds(reference),
        "ratio": reference and round(best.rate / reference.rate, 3),
        "unit": "s",
    }
    return row, best, reference, measuring_lines(details)


def _seconds(one: Contender) -> float:
    """Of a call, the median; rates are calls a minute."""
    return float(f"{statistics.median(60 / rate for rate in one.rates):.4g}")


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
    flags.set_default(shell.SECONDS, 5.0)
    shell.run(main)
