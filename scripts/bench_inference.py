"""Images per second of a trained network's logits, beside PyTorch's.

    python scripts/bench_inference.py --cases=inference_w16,inference_w64 --json=inference.json

A case is `inference_wWIDTH[_sSIDE][_nIMAGES]`: a ResNet-18 in eval mode, in float32, is asked for the logits of 2,048
random 8-bit images of 32×32×3 (SIDE×SIDE×3), which lie on the device, until all logits are on the host. Both sides have
the same weights, normalise the images themselves, and take them in blocks.

Ours is the query of every experiment, one compiled loop over blocks; the fastest of the lowerings and blocks counts.
The ratio's denominator is PyTorch's fastest float32 form: eager, channels-last, compiled, or compiled with the weights
frozen. The logits are compared: the exit code is 1 where they differ by more than 1e-4 of the largest. Each side is a
process of its own; they take turns, one at work at a time. Memory is the peak of a side's process.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
from absl import flags

from benchmarks import machine, shell
from benchmarks.inference_case import InferenceCase
from benchmarks.inference_names import parse_cases
from benchmarks.inference_table import agreement_line, compare, summary
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.table import case_table
from benchmarks.torch_side import start_torch
from benchmarks.worker_process import Worker
from mu_jax.config import InputError
from mu_jax.ops.choice import choose_lowering, signal_lowering
from mu_jax.ops.convolution import LOWERINGS

_LOWERINGS = flags.DEFINE_list(
    "lowerings",
    ["auto"],
    "`auto` (that of training and that of signals), `all`, or names: the fastest counts.",
)
_BLOCKS = flags.DEFINE_list(
    "blocks", ["128", "512"], "Images at a time, ours and theirs: the fastest counts."
)
_UNIT = "images/s"
_MOST_IMAGES = 100_000
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    blocks = _check_flags()
    rows = []
    for case in parse_cases(shell.CASES.value):
        say(f"{case.name}: {case.images} images")
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_measure_case(dataclasses.replace(case, folder=folder), blocks))
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)
    wrong = [one["case"] for one in rows if not (one["details"]["agreement"] or {"agree": True})["agree"]]
    if wrong:
        say(f"bench_inference.py: the sides' logits differ in {', '.join(wrong)}; one of them is wrong.")
        sys.exit(1)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _check_flags() -> list[int]:
    """The sizes of blocks."""
    if not _LOWERINGS.value:
        raise InputError("--lowerings is empty, but expected auto, all or names; give some, or leave it out.")
    for lowering in _LOWERINGS.value:
        shell.one_of("lowerings", lowering, ("auto", "all", *LOWERINGS))
    blocks = []
    for word in _BLOCKS.value:
        if not word.isdecimal() or not 1 <= int(word) <= _MOST_IMAGES:
            raise InputError(
                f"--blocks has {word!r}, but expected numbers of images from 1 to {_MOST_IMAGES}; change it."
            )
        blocks.append(int(word))
    for flag, values in (("lowerings", _LOWERINGS.value), ("blocks", blocks)):
        if not values or len(set(values)) < len(values):
            raise InputError(
                f"--{flag} is {','.join(map(str, values))!r}, but expected one or more, each once; change it."
            )
    return blocks


def _lowerings(case: InferenceCase, backend: str) -> list[str]:
    if "all" in _LOWERINGS.value:
        return list(LOWERINGS)
    auto = choose_lowering("auto", backend, width=case.width, image_size=case.side)
    named = [[auto, signal_lowering(auto)] if one == "auto" else [one] for one in _LOWERINGS.value]
    return list(dict.fromkeys(itertools.chain(*named)))


def _measure_case(case: InferenceCase, blocks: list[int]) -> dict[str, Any]:
    """The case's row; its workers live no longer."""
    with contextlib.ExitStack() as stack:
        # Otherwise JAX takes most of a GPU's memory, and PyTorch runs on the same one.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        jax_worker = Worker("JAX", sys.executable, "benchmarks.jax_inference_worker", environment)
        stack.callback(jax_worker.close)
        workers, facts = [jax_worker], {"JAX": jax_worker.ask("describe")}
        backend = facts["JAX"]["backend"]
        torch, torch_facts = start_torch(stack, "benchmarks.torch_inference_worker")
        fields = dataclasses.asdict(case)
        jax_worker.ask("prepare", name="weights", case=fields, variant={"form": "weights"})
        ours = [
            Contender(
                f"{lowering}, block {block}",
                jax_worker,
                {"form": "query", "lowering": lowering, "block": block},
            )
            for lowering, block in itertools.product(_lowerings(case, backend), blocks)
        ]
        theirs: list[Contender] = []
        if torch is not None:
            workers.append(torch)
            facts["PyTorch"] = torch_facts
            theirs = _torch_forms(torch, "cuda" if backend == "gpu" else "cpu", blocks)
        rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
        measure(ours, theirs, fields, rounds=rounds, seconds=seconds, say=say)
        memory = {worker.name: worker.ask("memory") for worker in workers}
        best, reference = fastest(ours), fastest(theirs)
        if best is None:
            raise InputError(
                f"The case {case.name!r} does not run here ({ours[0].unavailable}); make it smaller."
            )
        compared = None
        if reference is not None:
            compared = compare(
                *(np.load(case.logits(side), allow_pickle=False) for side in ("ours", "torch"))
            )
    print(f"\n{case.name}\n{case_table(ours, theirs, best, reference, memory, _UNIT)}", flush=True)
    print(agreement_line(compared) if compared else f"PyTorch: {torch_facts}", flush=True)
    details = {
        "width": case.width,
        "side": case.side,
        "images": case.images,
        "rounds": rounds,
        "ours": {one.label: _details(one) for one in ours},
        "torch": {one.label: _details(one) for one in theirs},
        "ours_best": best.label,
        "torch_reference": reference and reference.label,
        "torch_missing": torch_facts if torch is None else None,
        "agreement": compared,
        "memory": memory,
        "environment": machine.environment(_ENVIRONMENT),
    }
    return row(case.name, best.rate, reference and reference.rate, _UNIT, device_line(facts), details)


def _torch_forms(worker: Worker, device: str, blocks: list[int]) -> list[Contender]:
    forms = [("eager", False), ("eager", True), ("compiled", False), ("frozen", False)]
    if shell.TORCH.value == "eager":
        forms = forms[:2]
    found = []
    for (execution, channels_last), block in itertools.product(forms, blocks):
        label = f"{execution}{' channels-last' if channels_last else ''}, block {block}"
        variant = {"execution": execution, "channels_last": channels_last, "device": device, "block": block}
        found.append(Contender(label, worker, variant))
    return found


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
