"""The search for the smallest ε at which each image's label flips, beside a PyTorch loop of the same algorithm.

    python scripts/bench_adversarial.py --data=npz:cifar10.npz --workdir=models --json=adversarial.json

A case is `pgdSTEPS_wWIDTH[_nEXAMPLES][_eEPOCHS]`: AMUN's Algorithm 1 in ℓ2 on ResNet-18, for 2,000 training images of
32×32 (synthetic ones unless `--data` names others). A round is so many steps of PGD, of ε/10 each; ε begins at
`--epsilon`, doubles after each round, and the search goes on from the current iterate; each example keeps its first
iterate that flips. The model has learned EPOCHS epochs (15) of up to 4,096 images, the attacked ones among them, before
anything is timed; `--workdir` keeps it for the next time. Compilation does not count either.

Both sides attack the same images with the same weights, in float32, 128 at a time (on a GPU also 512), and no weight
takes a gradient. Ours is `mu_jax.adversarial.pgd`, as the experiments call it. PyTorch's examples leave the batch as
they flip, and after each round those that are left make full batches again. Its forms are tried on the first
`--trial` examples at the first two ε, and the fastest does the whole search, which is what the ratio divides by. A
round of either side is the whole search of all examples. What both have found is compared: the ε of at least 95% of
the examples must agree.

Each side is a process of its own; they take turns, one at work at a time. Memory is the peak of a side's process.
"""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from benchmarks import machine, shell
from benchmarks.adversarial_case import EPSILON, TRAINING_EXAMPLES, AdversarialCase, largest_epsilon
from benchmarks.adversarial_names import parse_cases
from benchmarks.adversarial_table import agreement, agreement_line, epsilon_counts, epsilon_table, summary
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.table import case_table
from benchmarks.torch_side import start_torch
from benchmarks.training_data import load_training_images, weights_path, write_images
from benchmarks.worker_process import Worker
from mu_jax.config import InputError
from mu_jax.data import Dataset

_DATA = flags.DEFINE_string(
    "data", None, "The images: npz:FILE or another data.source; by default synthetic ones of 32×32×3."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A folder that keeps the trained models; by default they are trained anew."
)
_EPSILON = flags.DEFINE_float("epsilon", EPSILON, "The first ε, in units of a pixel's range.")
_TRIAL = flags.DEFINE_integer("trial", 128, "Examples on which PyTorch's forms are tried.")
_UNIT, _SPAN = "examples/min", 60.0
_BATCHES = {"cpu": (128,), "gpu": (128, 512)}
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    cases = parse_cases(shell.CASES.value, _EPSILON.value)
    if _TRIAL.value < 1:
        raise InputError(f"--trial is {_TRIAL.value}, but expected 1 or more examples; change it.")
    if _WORKDIR.value is not None:
        pathlib.Path(_WORKDIR.value).mkdir(parents=True, exist_ok=True)
    most = max(case.examples for case in cases)
    images, synthetic = load_training_images(_DATA.value, max(most, TRAINING_EXAMPLES), most)
    if not 0 < _EPSILON.value <= (largest := largest_epsilon(images.image_shape)):
        raise InputError(
            f"--epsilon is {_EPSILON.value:g}, but expected more than 0 and at most {largest:g}; change it."
        )
    rows = []
    for case in cases:
        learned = len(images.y_train)
        say(f"{case.name}: {case.examples} of {learned} images, {images.name}, ε from {case.epsilon:g}")
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "case.npz"
            write_images(file, images)
            kept = pathlib.Path(_WORKDIR.value or folder)
            case = dataclasses.replace(
                case,
                file=str(file),
                weights=str(weights_path(kept, images, case.width, case.epochs)),
                found=folder,
            )
            rows.append(_measure_case(case, images, synthetic))
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _measure_case(case: AdversarialCase, images: Dataset, synthetic: bool) -> dict[str, Any]:
    """The case's row; its workers live no longer."""
    with contextlib.ExitStack() as stack:
        # Otherwise JAX takes most of a GPU's memory, and PyTorch runs on the same one.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        jax_worker = Worker("JAX", sys.executable, "benchmarks.jax_adversarial_worker", environment)
        stack.callback(jax_worker.close)
        workers, facts = [jax_worker], {"JAX": jax_worker.ask("describe")}
        torch_worker, torch_facts = start_torch(stack, "benchmarks.torch_adversarial_worker")
        request = {"name": "train", "case": dataclasses.asdict(case), "variant": {"do": "train"}}
        trained = jax_worker.ask("prepare", **request)["facts"]
        say(_trained_line(trained))

        backend = facts["JAX"]["backend"]
        batches = _BATCHES.get(backend, _BATCHES["gpu"])
        ours = [
            Contender(f"batch {batch}", jax_worker, {"do": "search", "batch": batch}) for batch in batches
        ]
        tried: list[Contender] = []
        theirs: list[Contender] = []
        if torch_worker is not None:
            workers.append(torch_worker)
            facts["PyTorch"] = torch_facts
            tried = _trials(case, torch_worker, "cuda" if backend == "gpu" else "cpu", batches)
            theirs = _chosen(case, tried, largest_epsilon(images.image_shape))
        rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
        measure(ours, theirs, dataclasses.asdict(case), rounds=rounds, seconds=seconds, say=say, span=_SPAN)
        memory = {worker.name: worker.ask("memory") for worker in workers}
        files = {side: pathlib.Path(case.found) / f"{side}.npz" for side in ("jax", "torch")}
        found = {side: _read(file) for side, file in files.items() if file.exists()}
    best, reference = fastest(ours), fastest(theirs)
    if best is None:
        raise InputError(f"The case {case.name!r} does not run here ({ours[0].unavailable}); change it.")
    if reference is None:
        found.pop("torch", None)  # of a trial
    counts = {side: epsilon_counts(arrays) for side, arrays in found.items()}
    compared = agreement(found["jax"], found["torch"]) if reference else None

    data = f"{images.name}, not real" if synthetic else images.name
    print(f"\n{case.name} ({data})\n{case_table(ours, theirs, best, reference, memory, _UNIT)}", flush=True)
    if torch_worker is None:
        print(f"PyTorch: {torch_facts}", flush=True)
    if tried:
        print(
            f"PyTorch's forms on {tried[0].variant['examples']} examples, first two ε: {_tried_line(tried)}",
            flush=True,
        )
    print(_trained_line(trained), flush=True)
    print(epsilon_table(counts["jax"], counts.get("torch")), flush=True)
    if compared:
        print(agreement_line(compared), flush=True)
    details = {
        "data": images.name,
        "synthetic": synthetic,
        "examples": case.examples,
        "steps": case.steps,
        "width": case.width,
        "epsilon": case.epsilon,
        "rounds": rounds,
        "trained": trained,
        "ours": {one.label: _details(one) for one in ours},
        "torch": {one.label: _details(one) for one in theirs},
        "torch_tried": {one.label: _details(one) for one in tried},
        "torch_missing": torch_facts if torch_worker is None else None,
        "ours_best": best.label,
        "torch_reference": reference and reference.label,
        "epsilon_counts": counts,
        "agreement": compared,
        "memory": memory,
        "idle_cpu_seconds": {worker.name: round(worker.idle_cpu_seconds, 3) for worker in workers},
        "environment": machine.environment(_ENVIRONMENT),
    }
    return row(case.name, best.rate, reference and reference.rate, _UNIT, device_line(facts), details)


def _trials(case: AdversarialCase, worker: Worker, device: str, batches: tuple[int, ...]) -> list[Contender]:
    """PyTorch's forms, each measured on a few examples in two rounds."""
    forms = [("eager", False), ("eager", True), ("compiled", device == "cuda")]
    if shell.TORCH.value == "eager":
        forms = forms[:2]
    tried = []
    for batch in batches:
        for execution, channels_last in forms:
            variant = {"execution": execution, "channels_last": channels_last, "device": device}
            variant |= {"batch": batch, "examples": min(_TRIAL.value, case.examples)}
            variant |= {"largest": 2 * case.epsilon}
            label = f"{execution}{' channels-last' if channels_last else ''}, batch {batch}"
            tried.append(Contender(label, worker, variant))
    quick = dataclasses.asdict(case)
    measure([], tried, quick, rounds=2, seconds=shell.SECONDS.value, say=say, span=_SPAN)
    return tried


def _chosen(case: AdversarialCase, tried: list[Contender], largest: float) -> list[Contender]:
    """The fastest form of those tried, on all examples and up to the largest ε."""
    best = fastest(tried)
    if best is None:
        return []
    variant = best.variant | {"examples": case.examples, "largest": largest}
    return [Contender(best.label, best.worker, variant, required=True)]


def _trained_line(trained: Mapping[str, Any]) -> str:
    how = (
        "kept from before"
        if trained["kept_from_before"]
        else f"trained in {trained['training_seconds']:.0f} s"
    )
    return f"the model, {how}, is right on {trained['training_accuracy']:.1%} of the images it learned from"


def _tried_line(tried: list[Contender]) -> str:
    return "; ".join(
        f"{one.label}: {one.rate:.3g}/min" if one.rates else f"{one.label}: {one.unavailable}"
        for one in tried
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


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
