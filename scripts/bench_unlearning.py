"""Seconds of each unlearning method beside retraining, and of two of them beside the same method in PyTorch.

    python scripts/bench_unlearning.py --cases=finetune,amun --data=npz:cifar10.npz --examples=50000 --json=methods.json

A case is a method's name. ResNet-18 of `--width` 16 has learned `--training-epochs` epochs of `--examples` images of
32×32 (synthetic ones unless `--data` names others), which does not count, and which `--workdir` keeps for the next
time; `--fraction` of them, drawn at random, are to be forgotten. Each method runs whole, by its published settings
(`mu_jax.config.methods`), in a round: its adversarial set where it needs one (PGD-50 in ℓ2 with the doubling search),
its plan (masks, labels), and all its steps. Compilation is apart; methods share programs, so it is short for a later
one of the same shape. `--share=0.1` is a quick look, at a tenth of all epochs, retraining's too.

Retraining is AMUN's recipe (SGD 0.1, a tenth of it every 40 epochs, batch 128, crops and mirroring) for
`--retrain-epochs` (200). It is not run to its end: rounds of about `--seconds` give its images a second, and its
seconds are extrapolated from those. Each side's methods are beside its own retraining.

PyTorch, for `finetune` and `amun`, keeps the images on the device and augments whole batches there; the form that is
the fastest at retraining is that of its methods. Its adversarial search is that of bench_adversarial, in the same
8-bit images as ours. Each side is a process of its own; they take turns, one at work at a time.

Two kinds of cases are of class unlearning, on scikit-learn's digits of 8×8 whatever `--data` says. The class 8 is
forgotten, in batches of 32 without crops; `--share` shortens the 5 epochs of unlearning, `--training-epochs` the
originals' own training.

| case | |
|---|---|
| `ulira_METHOD_kK` | K originals unlearned by finetune, random_labels, delete or trw, all with one optimization |
| `trw_step` | a step of Tilted ReWeighting beside one of fine-tuning, on one original, both ours |

A round of `ulira_METHOD_kK` is all K of ours, side by side as the experiment `class_unlearning` places them; PyTorch
unlearns as many as last about `--seconds`, one after another, and its fastest form counts. Targets that are read off
the originals count on both sides, compilation does not. `ratio` is ours ÷ PyTorch in unlearned models a minute, but of
`trw_step` TRW's milliseconds ÷ fine-tuning's.
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
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.sweep_names import check_epochs
from benchmarks.table import case_table
from benchmarks.torch_side import start_torch
from benchmarks.training_data import load_training_images, weights_path, write_images
from benchmarks.ulira_bench import measure_case
from benchmarks.ulira_names import split_cases
from benchmarks.ulira_table import summary as class_summary
from benchmarks.unlearning_case import TORCH_METHODS, UnlearningCase
from benchmarks.unlearning_names import method_case, retrain_case
from benchmarks.unlearning_table import (
    SPAN,
    method_figures,
    parts_table,
    retrain_figures,
    retrain_lines,
    summary,
    unlike,
)
from benchmarks.worker_process import Worker
from mu_jax.config import InputError
from mu_jax.data import Dataset

_DATA = flags.DEFINE_string(
    "data",
    None,
    "The methods' images: npz:FILE or another data.source; by default synthetic ones of 32×32×3.",
)
_EXAMPLES = flags.DEFINE_integer("examples", 2048, "Training images, the first so many of the source.")
_WIDTH = flags.DEFINE_integer("width", 16, "Of ResNet-18.")
_FRACTION = flags.DEFINE_float("fraction", 0.1, "Share of the training images to forget.")
_TRAINING_EPOCHS = flags.DEFINE_float("training-epochs", 15.0, "Of the model that is to forget.")
_RETRAIN_EPOCHS = flags.DEFINE_float("retrain-epochs", 200.0, "That retraining would take.")
_SHARE = flags.DEFINE_float("share", 1.0, "Of all methods' and retraining's epochs, for a quick look.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A folder that keeps the trained models; by default they are trained anew."
)
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the methods and the cases of class unlearning, prints tables, writes rows."""
    _check_flags()
    methods, cases = split_cases(shell.CASES.value, _WIDTH.value, _SHARE.value, _TRAINING_EPOCHS.value)
    if _WORKDIR.value is not None:
        pathlib.Path(_WORKDIR.value).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kept = pathlib.Path(_WORKDIR.value or name)
        rows = _measure_methods(methods, folder, kept) if methods else []
        if rows:
            print(f"\n{rows[0]['device']}\n\n{summary(rows, rows[0]['details']['torch_missing'])}")
            print(retrain_lines(rows[0]["details"]), flush=True)
        for case in cases:
            rows.append(measure_case(case, folder, kept, say))
            if shell.JSON.value:
                write_rows(pathlib.Path(shell.JSON.value), rows)
    if cases:
        print(f"\n{rows[-1]['device']}\n\n{class_summary(rows[len(methods) :])}", flush=True)


def _measure_methods(methods: list[str], folder: pathlib.Path, kept: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of methods on single examples."""
    images, synthetic = load_training_images(_DATA.value, _EXAMPLES.value, 2)
    forget = _forget_set(len(images.y_train))
    say(f"{images.name}: {len(forget)} of {len(images.y_train)} images to forget, width {_WIDTH.value}")
    files = {
        "file": str(folder / "case.npz"),
        "forget": str(folder / "forget.npy"),
        "weights": str(weights_path(kept, images, _WIDTH.value, _TRAINING_EPOCHS.value)),
        "epochs": _TRAINING_EPOCHS.value,
    }
    write_images(pathlib.Path(files["file"]), images)
    np.save(files["forget"], forget)
    with contextlib.ExitStack() as stack:
        return _Bench(stack, files, images, synthetic, len(forget)).measure(methods)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _check_flags() -> None:
    for name, value, most in (("examples", _EXAMPLES.value, 10_000_000), ("width", _WIDTH.value, 1024)):
        if not 1 <= value <= most:
            raise InputError(f"--{name} is {value}, but expected 1 to {most}; change it.")
    if not 0 < _FRACTION.value < 1:
        raise InputError(f"--fraction is {_FRACTION.value:g}, but expected a value in (0, 1); change it.")
    if not 0 < _SHARE.value <= 1:
        raise InputError(f"--share is {_SHARE.value:g}, but expected a value in (0, 1]; change it.")
    for name, epochs in (
        ("training-epochs", _TRAINING_EPOCHS.value),
        ("retrain-epochs", _RETRAIN_EPOCHS.value),
    ):
        check_epochs(epochs, f"--{name} is {epochs:g}", "change it")


def _forget_set(number: int) -> np.ndarray:
    """Rows int64[F] in order, drawn at random."""
    count = min(max(1, round(_FRACTION.value * number)), number - 1)
    return np.sort(np.random.default_rng(0).choice(number, count, replace=False))


class _Bench:
    """The workers, and what all methods share: their files, and retraining."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        files: dict[str, Any],
        images: Dataset,
        synthetic: bool,
        forgotten: int,
    ) -> None:
        self._files, self._images, self._synthetic, self._forgotten = files, images, synthetic, forgotten
        # Otherwise JAX takes most of a GPU's memory, and PyTorch runs on the same one.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._jax = Worker("JAX", sys.executable, "benchmarks.jax_unlearning_worker", environment)
        stack.callback(self._jax.close)
        self._facts = {"JAX": self._jax.ask("describe")}
        self._torch, torch_facts = start_torch(stack, "benchmarks.torch_unlearning_worker")
        self._missing = torch_facts if self._torch is None else None
        if self._torch is not None:
            self._facts["PyTorch"] = torch_facts

    def measure(self, methods: list[str]) -> list[dict[str, Any]]:
        """The rows of the methods, after retraining; each is written as soon as it is there."""
        retrain_recipe = self._placed(retrain_case(_WIDTH.value, _SHARE.value * _RETRAIN_EPOCHS.value))
        request = {"name": "train", "case": dataclasses.asdict(retrain_recipe), "variant": {"do": "train"}}
        self._trained = self._jax.ask("prepare", **request)["facts"]
        say(f"the model is right on {self._trained['training_accuracy']:.1%} of the images it learned from")
        ours = Contender("retrain", self._jax, {"do": "retrain"}, required=True)
        theirs = self._torch_forms()
        self._run(retrain_recipe, [ours], theirs, 1.0)
        rounds = shell.ROUNDS.value
        best = fastest(theirs)
        self._retrain = retrain_figures(ours, rounds), retrain_figures(best, rounds)
        self._form = best and {name: best.variant[name] for name in best.variant if name != "do"}
        if self._retrain[0] is None:
            raise InputError(f"Retraining does not run here ({ours.unavailable}); change the flags.")
        memory = {worker.name: worker.ask("memory") for worker in (self._jax, self._torch) if worker}
        print(f"\nretraining, images/s ({self._title()})")
        print(case_table([ours], theirs, ours, best, memory), flush=True)
        rows = []
        for method in methods:
            rows.append(self._measure_method(method))
            if shell.JSON.value:
                write_rows(pathlib.Path(shell.JSON.value), rows)
        return rows

    def _measure_method(self, method: str) -> dict[str, Any]:
        case = self._placed(method_case(method, _WIDTH.value, _SHARE.value))
        ours = Contender(method, self._jax, {"do": "unlearn"}, required=True)
        theirs = []
        if self._torch is not None and method in TORCH_METHODS and self._form is not None:
            label = f"{method}, {_form_label(self._form)}"
            theirs = [Contender(label, self._torch, {"do": "unlearn", **self._form}, required=True)]
        self._run(case, [ours], theirs, SPAN)
        reference = fastest(theirs)
        figures = method_figures(ours, self._retrain[0])
        if figures is None:
            raise InputError(f"The case {case.name!r} does not run here ({ours.unavailable}); leave it out.")
        beside = method_figures(reference, self._retrain[1])
        memory = {worker.name: worker.ask("memory") for worker in (self._jax, self._torch) if worker}
        print(f"\n{case.name} ({self._title()})")
        print(case_table([ours], theirs, ours, reference, memory, "requests/h"))
        print(parts_table({"ours": figures, "PyTorch": beside}), flush=True)
        if warning := unlike(figures, beside):
            print(warning, flush=True)
        absent = None if method in TORCH_METHODS else "ours alone"
        if theirs and reference is None:
            absent = theirs[0].unavailable
        details = {
            "data": self._images.name,
            "synthetic": self._synthetic,
            "examples": len(self._images.y_train),
            "forget": self._forgotten,
            "width": case.width,
            "share": case.share,
            "rounds": shell.ROUNDS.value,
            "optimization": case.optimization,
            "trained": self._trained,
            "retrain_epochs": _SHARE.value * _RETRAIN_EPOCHS.value,
            "retrain": self._retrain[0],
            "torch_retrain": self._retrain[1],
            "ours": figures | {"rates": [round(rate, 4) for rate in ours.rates]},
            "torch": beside and beside | {"rates": [round(rate, 4) for rate in reference.rates]},
            "torch_form": reference and _form_label(self._form),
            "torch_absent": absent,
            "torch_missing": self._missing,
            "others_share": round(max(one.others_share for one in (ours, *theirs)), 3),
            "lowering": ours.facts["lowering"],
            "memory": memory,
            "environment": machine.environment(_ENVIRONMENT),
        }
        theirs_rate = reference and reference.rate
        return row(case.name, ours.rate, theirs_rate, "requests/h", device_line(self._facts), details)

    def _placed(self, case: UnlearningCase) -> UnlearningCase:
        return dataclasses.replace(case, **self._files)

    def _run(self, case: UnlearningCase, ours: list[Contender], theirs: list[Contender], span: float) -> None:
        say(f"{case.name}:")
        rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
        measure(ours, theirs, dataclasses.asdict(case), rounds=rounds, seconds=seconds, say=say, span=span)

    def _torch_forms(self) -> list[Contender]:
        """PyTorch's forms of retraining, the fastest of which its methods take."""
        if self._torch is None:
            return []
        device = "cuda" if self._facts["JAX"]["backend"] == "gpu" else "cpu"
        forms = [("eager", False), ("eager", True), ("compiled", False)]
        if device == "cuda":
            forms.append(("graphs", True))
        found = []
        for execution, channels_last in forms[:1] if shell.TORCH.value == "eager" else forms:
            form = {"execution": execution, "channels_last": channels_last, "device": device}
            found.append(Contender(_form_label(form), self._torch, {"do": "retrain", **form}))
        return found

    def _title(self) -> str:
        return f"{self._images.name}{', not real' if self._synthetic else ''}"


def _form_label(form: Mapping[str, Any]) -> str:
    return f"{form['execution']} float32{' channels-last' if form['channels_last'] else ''}"


if __name__ == "__main__":
    flags.set_default(shell.ROUNDS, 3)
    flags.set_default(shell.SECONDS, 5.0)
    shell.run(main)
