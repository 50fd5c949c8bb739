"""Images per second of ResNet-18's whole training step (forward, backward, SGD), beside PyTorch's.

    python scripts/bench_ops.py --cases=8x8_w16_k16,32x32_w16_chunk --json=ops.json

A case is `SIDExSIDE_wWIDTH_MODE[_bf16][_bBATCH]`. Modes: `single`, one compiled step called from Python; `chunk`,
up to ten steps in one compiled call; `kK`, K models with batches of their own in such a chunk. Ours is the fastest of
the lowerings and mappings asked for; the ratio's denominator is PyTorch's eager float32, and for `_bf16` cases its
fastest eager bfloat16. PyTorch is a process of its own; the sides take turns, one at work at a time.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.case_names import parse_cases
from benchmarks.choices_table import choice_row, key_of, merge_choices
from benchmarks.orchestrator import Contender, fastest, measure
from benchmarks.rows import row, write_rows
from benchmarks.table import case_table, summary
from benchmarks.training_case import TrainingCase
from benchmarks.worker_process import Worker
from mu_jax.config import InputError

_LOWERINGS = flags.DEFINE_list("lowerings", ["auto"], "`auto`, `all`, or names: the fastest counts.")
_MAPPINGS = ("vmap", "map", "pmap_vmap", "pmap_map")
_MAPPING = flags.DEFINE_list("mapping", [*_MAPPINGS], f"For K models: some of {', '.join(_MAPPINGS)}.")
_BATCH = flags.DEFINE_integer("batch", None, "Replaces every case's batch size.")
_WRITE_TABLE = flags.DEFINE_bool(
    "write-table", False, "Put the fastest of the lowerings into mu_jax/ops/choices.json."
)
_CHOICES = pathlib.Path(__file__).resolve().parent.parent / "mu_jax" / "ops" / "choices.json"
_UNIT = "images/s"
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")


def main() -> None:
    """Measures the cases, prints tables, writes rows."""
    _check_flags()
    backend, lowerings = _probe()
    cases = parse_cases(shell.CASES.value, _BATCH.value, machine.has_amx_bfloat16() or backend == "gpu")
    if not shell.CASES.value and not any(case.dtype == "bfloat16" for case in cases):
        say("the bfloat16 case is left out: this CPU has no AMX (name it in --cases to run it)")
    if _WRITE_TABLE.value:
        _refuse_equal_keys(cases, backend)
    rows, choices = [], []
    for case in cases:
        say(f"{case.name}: batch {case.batch}, {case.models} model(s), {case.dtype}")
        result, rates = _measure_case(case, backend, lowerings)
        rows.append(result)
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), rows)
        if _WRITE_TABLE.value:
            choices.append(choice_row(case, backend, rates, result["details"]["mapping"], result["device"]))
            merge_choices(_CHOICES, choices)
    print(f"\n{rows[0]['device']}\n\n{summary(rows)}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _check_flags() -> None:
    if not _LOWERINGS.value:
        raise InputError("--lowerings is empty, but expected auto, all or names; give some, or leave it out.")
    if not _MAPPING.value:
        raise InputError(f"--mapping is empty, but expected some of {', '.join(_MAPPINGS)}; give one.")
    for flag, values in (("lowerings", _LOWERINGS.value), ("mapping", _MAPPING.value)):
        if len(set(values)) < len(values):
            raise InputError(f"--{flag} is {','.join(values)!r}, but expected each once; drop one.")
    for mapping in _MAPPING.value:
        shell.one_of("mapping", mapping, _MAPPINGS)
    if _WRITE_TABLE.value and _LOWERINGS.value != ["all"] and len({*_LOWERINGS.value} - {"auto"}) < 2:
        raise InputError(
            f"--write-table is given with --lowerings={','.join(_LOWERINGS.value)}, but expected all, or two names "
            "or more to choose from; add --lowerings=all."
        )
    if _BATCH.value is not None and _BATCH.value < 2:
        raise InputError(f"--batch is {_BATCH.value}, but expected at least 2; change it.")
    parse_cases(shell.CASES.value, _BATCH.value, False)


def _probe() -> tuple[str, list[str]]:
    """JAX's backend, and the lowerings to measure."""
    with contextlib.closing(_jax_worker("vmap", "unknown")) as worker:
        facts = worker.ask("describe")
    lowerings = facts["lowerings"] if _LOWERINGS.value == ["all"] else _LOWERINGS.value
    for lowering in lowerings:
        shell.one_of("lowerings", lowering, ("all", "auto", *facts["lowerings"]))
    if "all" in lowerings:
        raise InputError("--lowerings has all beside names, but expected all alone; drop the names.")
    return facts["backend"], lowerings


def _refuse_equal_keys(cases: Sequence[TrainingCase], backend: str) -> None:
    for case in cases:
        if case.batch != case.default_batch:
            raise InputError(
                f"--write-table has the case {case.name!r} with a batch of {case.batch}, but its entries are for "
                f"{case.default_batch} at that size; drop the batch."
            )
    keys = [key_of(choice_row(case, backend, {"": 0.0}, "", "")) for case in cases]
    for case, key in zip(cases, keys, strict=True):
        if keys.count(key) > 1:
            raise InputError(
                f"--write-table has two cases for the entry of {case.name!r}, which differ in the batch alone; "
                "drop one."
            )


def _jax_worker(mapping: str, backend: str) -> Worker:
    # Without it JAX takes most of a GPU's memory at the start, and PyTorch runs on the same one.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    over_devices = mapping.startswith("pmap")
    if over_devices and backend == "cpu":
        environment["JAX_NUM_CPU_DEVICES"] = str(machine.usable_cores())
    return Worker(
        "JAX pmap" if over_devices else "JAX", sys.executable, "benchmarks.jax_training_worker", environment
    )


def _measure_case(
    case: TrainingCase, backend: str, lowerings: Sequence[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """The case's row, and the images per second of each lowering; its workers live no longer."""
    with contextlib.ExitStack() as stack:
        workers, facts = [], {}

        def start(worker: Worker) -> Worker:
            stack.callback(worker.close)
            facts[worker.name] = worker.ask("describe")
            workers.append(worker)
            return worker

        ours: list[Contender] = []
        jax_workers: dict[bool, Worker] = {}
        for mapping in _MAPPING.value if case.mode == "many" else ("one",):
            # Mappings of as many devices share a process.
            over_devices = mapping.startswith("pmap")
            if over_devices not in jax_workers:
                jax_workers[over_devices] = start(_jax_worker(mapping, backend))
            worker = jax_workers[over_devices]
            for lowering in lowerings:
                label = lowering if mapping == "one" else f"{lowering}, {mapping}"
                ours.append(Contender(label, worker, {"lowering": lowering, "mapping": mapping}))
        theirs: list[Contender] = []
        if shell.TORCH.value != "none":
            # Nothing of our side's environment: JAX's settings are none of PyTorch's.
            worker = start(
                Worker("PyTorch", shell.TORCH_PYTHON.value, "benchmarks.torch_training_worker", {})
            )
            device = "cuda" if backend == "gpu" else "cpu"
            theirs = [_torch(worker, device, *variant) for variant in _torch_variants(case, device)]

        rounds, seconds = shell.ROUNDS.value, shell.SECONDS.value
        measure(ours, theirs, dataclasses.asdict(case), rounds=rounds, seconds=seconds, say=say)
        memory = {worker.name: worker.ask("memory") for worker in workers}
    best = fastest(ours)
    if best is None:
        raise InputError(
            f"The case {case.name!r} has no variant of ours left ({ours[0].unavailable}); change it."
        )
    eager = [c for c in theirs if c.variant["execution"] == "eager"]
    reference = fastest([c for c in eager if c.variant["dtype"] == "bfloat16"])
    if case.dtype == "float32":
        reference = next((c for c in eager if c.label == "eager float32"), None)
    for one in ours:
        if one.variant["lowering"] == "auto" and one.facts:
            one.label = one.label.replace("auto", f"auto ({one.facts['lowering']})")
    print(f"\n{case.name}\n{case_table(ours, theirs, best, reference, memory)}\n", flush=True)

    torch_best = fastest(theirs)
    details = {
        "batch": case.batch,
        "models": case.models,
        "rounds": rounds,
        "ours": {one.label: _details(one) for one in ours},
        "torch": {one.label: _details(one) for one in theirs},
        "ours_best": best.label,
        "torch_reference": reference and reference.label,
        "torch_best": torch_best and {"how": torch_best.label, "rate": round(torch_best.rate, 2)},
        "memory": memory,
        "idle_cpu_seconds": {worker.name: round(worker.idle_cpu_seconds, 3) for worker in workers},
        "environment": machine.environment(_ENVIRONMENT),
    }
    rates: dict[str, float] = {}
    for one in ours:
        if one.rates:
            lowering = one.facts["lowering"]
            rates[lowering] = max(one.rate, rates.get(lowering, 0.0))
    details["mapping"] = best.variant["mapping"]
    result = row(case.name, best.rate, reference and reference.rate, _UNIT, _device(facts), details)
    return result, rates


def _torch_variants(case: TrainingCase, device: str) -> list[tuple[str, str, bool]]:
    """(execution, dtype, channels last) of PyTorch's ways; first those that the ratio needs."""
    eager32 = [("eager", "float32", False)]
    eager16 = [("eager", "bfloat16", False), ("eager", "bfloat16", True)]
    if shell.TORCH.value == "eager":
        return eager16 if case.dtype == "bfloat16" else eager32
    variants = eager16 + eager32 if case.dtype == "bfloat16" else eager32 + eager16
    variants += [("eager", "float32", True), ("compiled", "float32", False)]
    if case.dtype == "bfloat16" or device == "cuda":
        variants.append(("compiled", "bfloat16", True))
    if device == "cuda":
        variants.append(("graphs", "bfloat16", True))
    if case.mode == "many":
        variants.append(("functional", "float32", False))
        if device == "cuda":
            variants.append(("functional", "bfloat16", False))
    return variants


def _torch(worker: Worker, device: str, execution: str, dtype: str, channels_last: bool) -> Contender:
    label = f"{execution} {dtype}{' channels-last' if channels_last else ''}"
    variant = {"execution": execution, "dtype": dtype, "channels_last": channels_last, "device": device}
    required = execution == "eager" and (dtype == "bfloat16" or not channels_last)
    return Contender(label, worker, variant, required)


def _details(one: Contender) -> dict[str, Any]:
    if not one.rates:
        return {"unavailable": one.unavailable}
    rates = [round(rate, 2) for rate in one.rates]
    return {
        "rate": round(one.rate, 2),
        "rates": rates,
        "others_share": round(one.others_share, 3),
        **one.facts,
    }


def _device(facts: Mapping[str, Mapping[str, Any]]) -> str:
    jax_facts = facts.get("JAX") or facts["JAX pmap"]
    versions = {name: version for one in facts.values() for name, version in one["versions"].items()}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name in ("jax", "torch"))
    where = f", {machine.usable_cores()} cores" if jax_facts["backend"] == "cpu" else ""
    return f"{jax_facts['device']}{where}, {named}"


if __name__ == "__main__":
    shell.run(main)
