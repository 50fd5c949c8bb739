"""Attacks on pairs of models in bulk: models retrained side by side, beside PyTorch's one after another.

    python scripts/bench_leaks.py --cases=retrain_k1000 --json=leaks.json

A case is `retrain_[cnn_]kMODELS[_eEPOCHS]`: an MLP of two hidden layers of 64, or the small CNN of width 16, on
scikit-learn's 1,797 digits of 8×8. Of every 20 models one is an original, which learns 400 digits in 20 epochs of batch
32 (SGD with momentum), and 19 are trained from fresh weights of their own on the same digits but one. Half of the
originals are the attacker's (shadow), half the victims (target), each half with one half of the digits. Every model
says its posteriors of all its side's digits. Each retrained model gives two pairs of posteriors, its original's and its
own: of the digit that it lacks (a member), and of one that neither learned. All five features are read by all four
classifiers, fitted on shadow pairs, judged on target pairs.

The figure is pairs a minute, from fresh weights to the last AUC. Compilation does not count, and is told. A round of
ours is the whole case: groups of models side by side, and fits side by side, one a core. A round of PyTorch is as many
whole models as last about `--seconds`, whence the seconds of all are extrapolated; eager and compiled, on all cores and
on one thread. Then its fastest form trains the models that no round has had, which is not timed, so that its attack is
of as many pairs: the same scikit-learn classifiers, one after another. The ratio's denominator is that form.

Beside the figures stand the seconds of each stage, what the originals of both sides are right on, and both sides' AUCs:
sides that differ in these by more than chance are said so. Each side is a process of its own; they take turns, one at
work at a time.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.leaks_case import LeaksCase
from benchmarks.leaks_data import write_plan
from benchmarks.leaks_names import parse_cases
from benchmarks.leaks_table import auc_lines, end_to_end, extrapolated_stages, stage_lines, summary, warnings
from benchmarks.measured_on import device_line
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.sweep_data import load_images
from benchmarks.sweep_names import check_epochs
from benchmarks.table import case_table
from benchmarks.torch_side import start_torch
from benchmarks.worker_process import Worker
from mu_jax.config import InputError
from mu_jax.data import Dataset
from mu_jax.ops.choice import MAPPINGS

_EPOCHS = flags.DEFINE_float(
    "epochs", None, "Replaces every case's epochs, for a quick look; names then say so."
)
_MAPPING = flags.DEFINE_string(
    "mapping", "auto", "How our models advance together: `auto`, or a mapping's name."
)
_GROUP = flags.DEFINE_integer(
    "models-per-device", 0, "Of ours, that train together on one device; 0 takes what was the fastest."
)
_UNIT, _SPAN = "pairs/min", 60.0
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    _check_flags()
    cases = parse_cases(shell.CASES.value, _EPOCHS.value)
    dataset, _ = load_images("digits", None)
    rows = []
    for case in cases:
        say(f"{case.name}: {case.models} models, {case.epochs:g} epochs, {case.pairs} pairs")
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
            file = pathlib.Path(name) / "case.npz"
            write_plan(file, case, dataset)
            rows.append(_Bench(stack, dataclasses.replace(case, file=str(file)), dataset).measure())
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _check_flags() -> None:
    if _EPOCHS.value is not None:
        check_epochs(_EPOCHS.value, f"--epochs is {_EPOCHS.value:g}", "change it")
    shell.one_of("mapping", _MAPPING.value, ("auto", *MAPPINGS))
    if not 0 <= _GROUP.value <= 10_000:
        raise InputError(
            f"--models-per-device is {_GROUP.value}, but expected 0 (the fastest) to 10000; change it."
        )


class _Bench:
    """One case: its workers, its rounds, and the row that comes of them."""

    def __init__(self, stack: contextlib.ExitStack, case: LeaksCase, dataset: Dataset) -> None:
        self._stack, self._case, self._dataset = stack, case, dataset
        # One device a core, as the experiments make them. Without the other JAX takes most of a GPU's memory, and
        # PyTorch runs on the same one.
        environment = {
            "JAX_NUM_CPU_DEVICES": str(machine.usable_cores()),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        self._jax = self._worker("JAX", "benchmarks.jax_leaks_worker", environment)
        self._facts = {"JAX": self._jax.ask("describe")}
        self._torch, torch_facts = start_torch(stack, "benchmarks.torch_leaks_worker")
        self._missing = torch_facts if self._torch is None else None
        if self._torch is not None:
            self._facts["PyTorch"] = torch_facts

    def measure(self) -> dict[str, Any]:
        """The case's row, after its tables are printed."""
        case = self._case
        variant = {"mapping": _MAPPING.value, "models_per_device": _GROUP.value}
        ours, theirs = [Contender("side by side", self._jax, variant, required=True)], self._torch_forms()
        self._run(ours, theirs)
        best = ours[0]
        if not best.rates:
            raise InputError(
                f"The case {case.name!r} cannot be measured, because ours failed ({best.unavailable}); change it."
            )
        best.label = f"side by side ({best.facts['mapping']})"
        sides = {"ours": {name: best.facts[name] for name in ("stages", "accuracy", "auc")}}
        reference = fastest(theirs)
        if reference is not None:
            sides["PyTorch"] = self._attack(theirs, reference)
        memory = {worker.name: worker.ask("memory") for worker in (self._jax, self._torch) if worker}
        print(f"\n{case.name} ({self._dataset.name})")
        print(case_table(ours, theirs, best, reference, memory, _UNIT))
        print(
            "\n".join([stage_lines(sides), auc_lines(sides), *warnings(sides, case.pairs // 2)]), flush=True
        )
        details = {
            "data": self._dataset.name,
            "network": case.network,
            "models": case.models,
            "pairs": case.pairs,
            "epochs": case.epochs,
            "rounds": shell.ROUNDS.value,
            "beside": sides,
            "ours": {one.label: _details(one) for one in ours},
            "torch": {one.label: _details(one) for one in theirs},
            "ours_best": best.label,
            "torch_reference": reference and reference.label,
            "torch_missing": self._missing,
            "memory": memory,
            "environment": machine.environment(_ENVIRONMENT),
        }
        return row(
            case.name, best.rate, reference and reference.rate, _UNIT, device_line(self._facts), details
        )

    def _attack(self, theirs: Sequence[Contender], form: Contender) -> dict[str, Any]:
        """PyTorch's attack, on models of its fastest form; makes rates of models those of pairs, end to end."""
        case, path = self._case, str(pathlib.Path(self._case.file).with_name("posteriors.npy"))
        say(f"the rest of {case.models} models, by {form.label}, for the attack on its pairs")
        rest = form.variant | {"do": "rest", "posteriors": path}
        trained = form.worker.ask("prepare", name="rest", case=dataclasses.asdict(case), variant=rest)[
            "facts"
        ]
        worker = self._worker("attack", "benchmarks.leaks_attack_worker", {})
        attack = Contender("one after another", worker, {"posteriors": path}, required=True)
        self._run([], [attack])
        seconds = statistics.median(_SPAN * case.pairs / rate for rate in attack.rates)
        stages = extrapolated_stages(
            case.models, form.rate, form.facts["seconds_a_model"], attack.facts["stages"]
        )
        for one in theirs:
            one.facts["models_a_minute"] = [round(rate, 3) for rate in one.rates]
            one.rates = [end_to_end(case.models, case.pairs, rate, seconds) for rate in one.rates]
        form.others_share = max(form.others_share, attack.others_share)
        return {
            "stages": stages,
            "accuracy": trained.pop("accuracy"),
            "auc": attack.facts["auc"],
            "attack_seconds": round(seconds, 4),
            **trained,
        }

    def _run(self, ours: Sequence[Contender], theirs: Sequence[Contender]) -> None:
        rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
        case = dataclasses.asdict(self._case)
        measure(ours, theirs, case, rounds=rounds, seconds=seconds, say=say, span=_SPAN)

    def _worker(self, name: str, module: str, environment: dict[str, str]) -> Worker:
        worker = Worker(name, sys.executable, module, environment)
        self._stack.callback(worker.close)
        return worker

    def _torch_forms(self) -> list[Contender]:
        if self._torch is None:
            return []
        gpu, cores = self._facts["JAX"]["backend"] == "gpu", machine.usable_cores()
        device = "cuda" if gpu else "cpu"
        forms = [("eager", cores, False)]
        if shell.TORCH.value == "all":
            forms.append(("compiled", cores, False))
            if gpu:
                forms.append(("graphs", cores, False))
            elif cores > 1:
                forms += [("eager", 1, False), ("compiled", 1, False)]
            if self._case.network == "cnn":
                forms.append(("eager", cores, True))
        found = []
        for execution, threads, channels_last in forms:
            label = execution + (", 1 thread" if threads < cores else "")
            label += " channels-last" if channels_last else ""
            form = {"execution": execution, "threads": threads, "channels_last": channels_last}
            found.append(Contender(label, self._torch, {"do": "train", **form, "device": device}))
        return found


def _details(one: Contender) -> dict[str, Any]:
    if not one.rates:
        return {"unavailable": one.unavailable}
    return {
        "rate": round(one.rate, 3),
        "rates": [round(rate, 3) for rate in one.rates],
        "others_share": round(one.others_share, 3),
        **{name: fact for name, fact in one.facts.items() if name not in ("stages", "accuracy", "auc")},
    }


if __name__ == "__main__":
    flags.set_default(shell.ROUNDS, 3)
    flags.set_default(shell.SECONDS, 5.0)
    shell.run(main)
