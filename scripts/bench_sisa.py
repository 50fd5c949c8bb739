"""SISA: shards fitted side by side, beside one after another and PyTorch; and what a deletion costs beside a retrain.

    python scripts/bench_sisa.py --cases=fit_s10,delete_one --json=sisa.json

A case is `[cifar_]fit_sSHARDS` or `[cifar_]delete_one[_sSHARDS]`, then `[_rSLICES][_wWIDTH][_eEPOCHS]`. By default
there are 10 shards × 4 slices, ResNet-18s of width 16, and e₀ = 20 epochs of batch 32 on scikit-learn's 1,797 digits of
8×8. `cifar_` has 2,048 images of 32×32 (synthetic ones unless `--cifar` names others), 10 epochs, batch 64. Every image
is learned from. Gradient descent is that of bench_sweep, its cosine beginning anew with every slice. Compilation does
not count.

`fit`, in shards a minute: from fresh weights until every slice's checkpoint is on disk. Ours are the shards side by
side, placed as the experiments place them, and one after another with all cores, as public code trains them. A round of
ours is the whole ensemble, and removing the one before. A round of PyTorch is as many whole shards as last about
`--seconds`, at least one and at most S: they too follow one another, for the same steps on the same slices, and what a
slice leaves (weights and optimizer) is saved. The ratio's denominator is PyTorch's fastest form.

`delete_one`, in deletions a minute: an ensemble is fitted, which does not count; then examples are deleted in a fixed
random order, `--deletions` a round, a request each, from the call until the certificate is on disk. All n count alike:
figures are means, because deletions differ by the slice that they strike. It is done with the experiments' placement
and, beside it, with that of one shard after another: side by side a deletion's only shard is alone on its device, so on
a CPU it has one core. A full retrain stands beside it, counted as one deletion: one model on all images for e₀ epochs
(what a deletion costs without SISA), and the ensemble fitted anew. One model uses one core's program unless it is
compiled for all, so it is: it has one device, which computes with all cores. PyTorch deletes the same examples from an
ensemble of its own, by training the example's shard from its slice on; it writes states, but neither hashes images nor
writes a certificate, which ours does. The ratio's denominator is PyTorch's fastest form.

Each side is a process of its own; they take turns, one at work at a time. Memory is the peak of a side's process.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.sisa_case import SisaCase
from benchmarks.sisa_data import write_case
from benchmarks.sisa_deletions import deletion_figures
from benchmarks.sisa_names import parse_cases
from benchmarks.sisa_table import check_steps, deletion_lines, summary
from benchmarks.sweep_data import load_images
from benchmarks.sweep_names import check_epochs
from benchmarks.sweep_table import learning_lines
from benchmarks.table import case_table
from benchmarks.worker_process import Worker
from mu_jax.config import InputError
from mu_jax.data import Dataset

_CIFAR = flags.DEFINE_string(
    "cifar",
    None,
    "The images of `cifar_`: npz:FILE or another data.source of 32×32×3; by default synthetic ones.",
)
_EPOCHS = flags.DEFINE_float(
    "epochs", None, "Replaces every case's epochs, for a quick look; names then say so."
)
_DELETIONS = flags.DEFINE_integer("deletions", 10, "Deletions in a round of `delete_one`.")
_SPAN = 60.0
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    if _EPOCHS.value is not None:
        check_epochs(_EPOCHS.value, f"--epochs is {_EPOCHS.value:g}", "change it")
    cases = parse_cases(shell.CASES.value, _EPOCHS.value)
    images = {data: load_images(data, _CIFAR.value) for data in {case.data: None for case in cases}}
    _check_deletions(min(len(dataset.labels) for dataset, _ in images.values()))
    rows = []
    for case in cases:
        dataset, synthetic = images[case.data]
        say(
            f"{case.name}: {len(dataset.labels)} images, {dataset.name}, {case.shards} shards × {case.slices} slices, "
            f"batch {case.batch}, {case.epochs:g} epochs"
        )
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "case.npz"
            write_case(file, case, dataset)
            bench = {"fit": _measure_fit, "delete_one": _measure_deletions}[case.what]
            rows.append(bench(dataclasses.replace(case, file=str(file)), dataset, synthetic))
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _check_deletions(examples: int) -> None:
    # Half of the examples stay, so that the ensemble in the last round is still like that in the first.
    most = examples // (2 * shell.ROUNDS.value)
    if not 1 <= _DELETIONS.value <= most:
        raise InputError(
            f"--deletions is {_DELETIONS.value} in each of {shell.ROUNDS.value} rounds, but expected 1 to {most}, so "
            f"that at least half of {examples} examples stay; change it."
        )


def _measure_fit(case: SisaCase, dataset: Dataset, synthetic: bool) -> dict[str, Any]:
    """The row of a case `fit`; its workers live no longer."""
    with contextlib.ExitStack() as stack:
        workers = [_jax_worker(stack)]
        facts = {"JAX": workers[0].ask("describe")}
        together = Contender("side by side", workers[0], {"do": "fit", "mapping": "auto"}, required=True)
        in_turn = Contender("one after another", workers[0], {"do": "fit", "mapping": "one"}, required=True)
        ours, theirs = [together, in_turn], _torch_side(stack, workers, facts, do="fit")
        memory = _run(case, ours, theirs, workers)
        for one in (*ours, *theirs):
            if one.rates:
                request = {"case": dataclasses.asdict(case), "variant": one.variant | {"do": "learned"}}
                learned = one.worker.ask("prepare", name=f"learned by {one.label}", **request)["facts"]
                one.facts |= {name: learned[name] for name in learned if name.endswith("member_accuracy")}
    best, reference = _best(case, ours), fastest(theirs)
    check_steps(ours, theirs)
    _name_mappings(ours)
    table = case_table(ours, theirs, best, reference, memory, "shards/min")
    print(f"\n{_title(case, dataset, synthetic)}\n{table}\n{learning_lines(ours, theirs)}\n", flush=True)
    details = _details(case, dataset, synthetic, ours, workers, memory) | {
        "side_by_side": _rate(together),
        "one_after_another": _rate(in_turn),
        "torch": {one.label: _contender(one) for one in theirs},
        "ours_best": best.label,
        "torch_reference": reference and reference.label,
    }
    return row(case.name, best.rate, reference and reference.rate, "shards/min", device_line(facts), details)


def _measure_deletions(case: SisaCase, dataset: Dataset, synthetic: bool) -> dict[str, Any]:
    """The row of a case `delete_one`; its workers live no longer."""
    with contextlib.ExitStack() as stack:
        worker = _jax_worker(stack)
        workers, facts = [worker], {"JAX": worker.ask("describe")}

        def contender(label: str, **variant: Any) -> Contender:
            return Contender(label, worker, variant, required=True)

        many = {"do": "delete", "deletions": _DELETIONS.value}
        deletion = contender("a deletion, placed side by side", **many, mapping="auto")
        in_turn = contender("a deletion, placed one after another", **many, mapping="one")
        retrain = contender("one model anew", do="retrain")
        refit = contender("the ensemble anew, side by side", do="refit", mapping="auto")
        ours, theirs = [deletion, in_turn, retrain, refit], _torch_side(stack, workers, facts, **many)
        memory = _run(case, ours, theirs, workers)
    for one in (deletion, retrain, refit):
        _best(case, [one])
    _name_mappings(ours)
    by_label = {
        one.label: deletion_figures(
            case,
            len(dataset.labels),
            **{name: one.facts.pop(name) for name in ("seconds", "training_seconds", "examples_retrained")},
            retrain_seconds=_SPAN / retrain.rate,
            refit_seconds=_SPAN / refit.rate,
        )
        for one in (deletion, in_turn)
        if one.rates
    }
    measured = [one for one in theirs if one.rates]
    reference = min(measured, key=lambda one: statistics.fmean(one.facts["seconds"]), default=None)
    table = case_table(ours, theirs, deletion, reference, memory, "deletions/min")
    print(f"\n{_title(case, dataset, synthetic)}\n{table}", flush=True)
    for label, figures in by_label.items():
        print(f"{label}: {deletion_lines(figures)}", flush=True)
    details = _details(case, dataset, synthetic, ours, workers, memory) | {
        "deletion": by_label[deletion.label],
        "deletion_one_after_another": by_label.get(in_turn.label),
        "torch": {one.label: _contender(one) for one in theirs},
        "ours_best": deletion.label,
        "torch_reference": reference and reference.label,
    }
    rate = _SPAN / by_label[deletion.label]["seconds"]
    torch_rate = reference and _SPAN / statistics.fmean(reference.facts["seconds"])
    return row(case.name, rate, torch_rate, "deletions/min", device_line(facts), details)


def _jax_worker(stack: contextlib.ExitStack) -> Worker:
    # One device a core, as the experiments themselves make them; one shard after another uses the first, which computes
    # with all cores. Without the other JAX takes most of a GPU's memory, and PyTorch runs on the same one.
    environment = {
        "JAX_NUM_CPU_DEVICES": str(machine.usable_cores()),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    worker = Worker("JAX", sys.executable, "benchmarks.jax_sisa_worker", environment)
    stack.callback(worker.close)
    return worker


def _torch_side(
    stack: contextlib.ExitStack, workers: list[Worker], facts: dict[str, Any], **what: Any
) -> list[Contender]:
    """PyTorch's forms of what is to be done, and its worker among the others; nothing where it is left out."""
    if shell.TORCH.value == "none":
        return []
    # Nothing of our side's environment: JAX's settings are none of PyTorch's.
    worker = Worker("PyTorch", shell.TORCH_PYTHON.value, "benchmarks.torch_sisa_worker", {})
    stack.callback(worker.close)
    workers.append(worker)
    facts[worker.name] = worker.ask("describe")
    device = "cuda" if facts["JAX"]["backend"] == "gpu" else "cpu"
    forms = [("eager", False), ("eager", True), ("compiled", False)]
    if device == "cuda":
        forms.append(("graphs", True))
    found = []
    for execution, channels_last in forms[:1] if shell.TORCH.value == "eager" else forms:
        variant = {
            "execution": execution,
            "dtype": "float32",
            "channels_last": channels_last,
            "device": device,
        }
        label = f"{execution} float32{' channels-last' if channels_last else ''}"
        found.append(Contender(label, worker, {**what, **variant}))
    return found


def _run(
    case: SisaCase, ours: Sequence[Contender], theirs: Sequence[Contender], workers: Sequence[Worker]
) -> dict[str, Any]:
    """Lets all run in turn; the workers' memory."""
    rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
    measure(ours, theirs, dataclasses.asdict(case), rounds=rounds, seconds=seconds, say=say, span=_SPAN)
    return {worker.name: worker.ask("memory") for worker in workers}


def _best(case: SisaCase, ours: Sequence[Contender]) -> Contender:
    best = fastest(ours)
    if best is None:
        raise InputError(
            f"The case {case.name!r} cannot be measured, because {ours[0].label} failed ({ours[0].unavailable}); "
            "change it."
        )
    return best


def _name_mappings(ours: Sequence[Contender]) -> None:
    for one in ours:
        if one.variant.get("mapping") == "auto" and one.facts:
            one.label = f"{one.label} ({one.facts['mapping']})"


def _title(case: SisaCase, dataset: Dataset, synthetic: bool) -> str:
    return f"{case.name} ({dataset.name}{', not real' if synthetic else ''})"


def _details(
    case: SisaCase,
    dataset: Dataset,
    synthetic: bool,
    ours: Sequence[Contender],
    workers: Sequence[Worker],
    memory: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "data": dataset.name,
        "synthetic": synthetic,
        "examples": len(dataset.labels),
        "shards": case.shards,
        "slices": case.slices,
        "width": case.width,
        "batch": case.batch,
        "epochs": case.epochs,
        "rounds": shell.ROUNDS.value,
        "ours": {one.label: _contender(one) for one in ours},
        "memory": memory,
        "idle_cpu_seconds": {worker.name: round(worker.idle_cpu_seconds, 3) for worker in workers},
        "environment": machine.environment(_ENVIRONMENT),
    }


def _contender(one: Contender) -> dict[str, Any]:
    if not one.rates:
        return {"unavailable": one.unavailable}
    return {
        "rate": round(one.rate, 3),
        "rates": [round(rate, 3) for rate in one.rates],
        "others_share": round(one.others_share, 3),
        **one.facts,
    }


def _rate(one: Contender) -> float | None:
    return round(one.rate, 3) if one.rates else None


if __name__ == "__main__":
    flags.set_default(shell.ROUNDS, 3)
    flags.set_default(shell.SECONDS, 5.0)
    shell.run(main)
