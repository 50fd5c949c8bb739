"""Seconds and memory of the attacks on pools of models, beside their definitions in NumPy, and beside PyTorch.

    python scripts/bench_attacks.py --cases=lira_256x60000x18,rmia_20000x5000 --json=attacks.json

| case | ours | beside it |
|---|---|---|
| `lira_KxNxA` | `lira_scores`, online, a variance for each example, float32 φ [K, N, A] | masked float64 means |
| `rmia_NxZ` | `rmia_scores`, online, 128 references, one augmentation | all N × Z quotients in float64 |
| `forgetting_MxN` | `forgetting_score` of N examples, M models of a kind | every interval's ends, on 16 examples |
| `forgetting_M` | the same of 1,000 examples, as the time of one | the same |
| `leave_one_out_lira_KxNxA` | `leave_one_out_lira` of all K targets | `lira_scores` of 2 targets, times K/2 |

Either version is a process of its own, the two take turns, and each first runs once untimed: that result is compared.
Seconds are the median of the rounds, in each of which what takes less than 0.25 s is repeated to last that long. Memory
is the peak of the process (maximum resident set) after all rounds, less that after making the inputs. Signals are
random numbers made for the size alone. Ours computes on all cores with threads; the definition is NumPy as it comes,
which for these operations uses one. The pool of `leave_one_out_lira` is made of complementary pairs, since only there
one `lira_scores` is the same attack.

LiRA and RMIA stand beside PyTorch too, in a process of its own that also computes in float64 and on all cores: LiRA in
blocks of examples, eager or compiled; RMIA by all comparisons, or by sorting. The fastest of its forms counts. The exit
code is 1 where any of the versions disagree with ours.
"""

import contextlib
import dataclasses
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from benchmarks import machine, shell
from benchmarks.attack_case import AttackCase, parse_cases
from benchmarks.attack_table import agree, compare, summary
from benchmarks.attack_worker import ROUND_SECONDS
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import write_rows
from benchmarks.torch_side import start_torch
from benchmarks.worker_process import Worker
from mu_jax.config import InputError

_MEMORY = flags.DEFINE_float(
    "memory-gib",
    None,
    "The memory that a definition may take beside its inputs; by default what is free. Else it is skipped.",
)
_FOREIGN = ("seconds",)
# Of `torch_attack_worker`, which only an interpreter with PyTorch can read; without torch.compile first.
_TORCH_FORMS = {"lira": ("blocks", "blocks compiled"), "rmia": ("pairs", "sorted")}
_ENVIRONMENT = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints the table, writes rows."""
    _check_flags()
    cases = parse_cases(shell.CASES.value)
    load, rows, facts = os.getloadavg(), [], {}
    for case in cases:
        say(f"{case.name}: {case.inputs_bytes / 2**30:.2f} GiB of inputs in each of two processes")
        with tempfile.TemporaryDirectory() as folder:
            row, facts = _measure_case(dataclasses.replace(case, folder=folder))
        rows.append(row)
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
    beside = "load average before the first case " + ", ".join(f"{one:.2f}" for one in load)
    print(f"\n{_device(facts)}; {beside}\n\n{summary(rows)}", flush=True)
    wrong = [row["case"] for row in rows if not agree(row["details"])]
    if wrong:
        say(f"bench_attacks.py: the versions disagree in {', '.join(wrong)}; one of them is wrong.")
        sys.exit(1)


def say(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


def _check_flags() -> None:
    for name in _FOREIGN:
        if flags.FLAGS[name].present:
            raise InputError(
                f"--{name} is given, but expected --cases, --rounds, --json, --torch, --torch-python or "
                "--memory-gib; drop it, it is for other benchmarks."
            )
    if _MEMORY.value is not None and not 0 <= _MEMORY.value < 2**30:
        raise InputError(f"--memory-gib is {_MEMORY.value:g}, but expected 0 or more; change it.")


def _measure_case(case: AttackCase) -> tuple[dict[str, Any], dict[str, Any]]:
    """The case's row, and the machine's facts; its workers live no longer."""
    budget = None if _MEMORY.value is None else int(_MEMORY.value * 2**30)
    with contextlib.ExitStack() as stack:
        sides = {}
        for version in ("ours", "definition"):
            # On a GPU's machine too, these attacks are the host's work.
            worker = Worker(version, sys.executable, "benchmarks.attack_worker", {"JAX_PLATFORMS": "cpu"})
            stack.callback(worker.close)
            variant = {"version": version, "memory_bytes": budget}
            # Beside PyTorch's forms the definition is not dropped as hopeless.
            sides[version] = Contender(version, worker, variant, required=True)
        facts = sides["ours"].worker.ask("describe")
        load = os.getloadavg()
        ours, definition = sides.values()
        theirs, missing = _torch_forms(stack, case)
        fields, rounds = dataclasses.asdict(case), shell.ROUNDS.value
        measure([ours], [definition, *theirs], fields, rounds=rounds, seconds=ROUND_SECONDS, say=say)
        if not ours.rates:
            raise InputError(f"The case {case.name!r} cannot run here: {ours.unavailable}; make it smaller.")
        details = {
            "kind": case.kind,
            "models": case.models,
            "examples": case.examples,
            "augmentations": case.views,
            "population": case.population,
            "items": case.items,
            "rounds": rounds,
            "inputs_bytes": ours.facts["inputs_bytes"],
            **{name: _details(one, case) for name, one in sides.items()},
            "torch": {one.label: _details(one, case) for one in theirs},
            "torch_missing": missing,
            "load_average": [round(one, 2) for one in load],
            "environment": machine.environment(_ENVIRONMENT),
        }
        found = {one.label: _found(case, one.label) for one in (*sides.values(), *theirs) if one.rates}
        if definition.rates:
            details |= compare(case, found["ours"], found["definition"])
        for one in theirs:
            if one.rates:
                details["torch"][one.label] |= compare(case, found["ours"], found[one.label])
        reference = fastest(theirs)
        details["torch_reference"] = reference and reference.label
    return _row(case, details, facts), facts


def _torch_forms(stack: contextlib.ExitStack, case: AttackCase) -> tuple[list[Contender], str | None]:
    """PyTorch's forms of the attack, and why there are none."""
    if case.kind not in _TORCH_FORMS:
        return [], "not written for this attack"
    worker, facts = start_torch(stack, "benchmarks.torch_attack_worker")
    if worker is None:
        return [], facts
    forms = [
        form
        for form in _TORCH_FORMS[case.kind]
        if shell.TORCH.value == "all" or not form.endswith("compiled")
    ]
    return [Contender(f"torch {form}", worker, {"form": form}) for form in forms], None


def _found(case: AttackCase, label: str) -> np.ndarray:
    return np.load(pathlib.Path(case.folder) / f"{label}.npy", allow_pickle=False)


def _row(case: AttackCase, details: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """As those of the other benchmarks, in seconds: `ratio` says how many times as long the definition takes."""
    ours, definition = details["ours"]["seconds"], details["definition"].get("seconds")
    return {
        "case": case.name,
        "ours": ours,
        "definition": definition,
        "ratio": definition and float(f"{definition / ours:.4g}"),
        "unit": "s/example" if case.per_example else "s",
        "device": _device(facts),
        "details": details,
    }


def _details(one: Contender, case: AttackCase) -> dict[str, Any]:
    if not one.rates:
        return {"unavailable": one.unavailable}
    # A rate is items a second; a case is all of its items, or one.
    whole = 1 if case.per_example else case.items
    seconds = [whole / rate for rate in one.rates]
    peak = one.worker.ask("memory")["peak_bytes"]
    return {
        "seconds": float(f"{statistics.median(seconds):.4g}"),
        "seconds_of_rounds": [float(f"{value:.4g}") for value in seconds],
        "peak_bytes": peak,
        "above_inputs_bytes": peak - one.facts["inputs_peak_bytes"],
        "others_share": round(one.others_share, 3),
        **one.facts,
    }


def _device(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    memory = f"{facts['memory_bytes'] / 2**30:.1f} GiB of memory"
    return f"{facts['device']}, {machine.usable_cores()} cores, {memory}, {versions}"


if __name__ == "__main__":
    flags.set_default(shell.ROUNDS, 3)
    shell.run(main)
