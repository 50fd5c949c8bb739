"""One version of an attack, in a process of its own, so that its peak memory is its own; see `serving`."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import attack_definitions, machine
from benchmarks.attack_case import AttackCase
from benchmarks.attack_inputs import make_inputs
from benchmarks.free_memory import available_bytes, total_bytes
from benchmarks.serving import BadRequest, Prepared, Unavailable, peak_bytes, serve
from mu_jax.config import InputError

GAMMA, DELTA = 2.0, 1e-5
ROUND_SECONDS = 0.25
"""What is quicker is run so often in a round that it lasts about as long."""
# Of what is free, the most that arrays may take: other programs go on, too.
_SHARE = 0.9


@dataclasses.dataclass
class Version:
    """What is timed, and what of it is compared."""

    run: Callable[[], Any]
    items: int
    """Of the case's items, those that one run does."""
    compared: Callable[[Any], np.ndarray] = lambda result: result


def describe() -> dict[str, Any]:
    """The machine, and the versions of what computes."""
    names = ("numpy", "scipy", "jax")
    return {
        "device": machine.cpu_name(),
        "memory_bytes": total_bytes(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
    }


def prepare(case: AttackCase, variant: dict[str, Any]) -> Prepared:
    """Makes the inputs and runs once, untimed: the result goes to the case's folder to be compared."""
    ours = variant["version"] == "ours"
    _require_memory(case, ours, variant["memory_bytes"])
    try:
        build = _ours if ours else _definition
        inputs = make_inputs(case)
        version = build(case, inputs)
        before = peak_bytes()
        begin = time.perf_counter()
        result = version.run()
        seconds = time.perf_counter() - begin
        compared = version.compared(result)
    except InputError as error:
        raise BadRequest(str(error)) from None
    except MemoryError as error:
        raise Unavailable(f"it does not fit into memory ({error})") from None
    np.save(pathlib.Path(case.folder) / f"{variant['version']}.npy", compared)

    def run_steps(count: int) -> float:
        for _ in range(count):
            version.run()
        return 0.0

    inputs_bytes = sum(array.nbytes for array in inputs.values())
    facts = {"inputs_peak_bytes": before, "inputs_bytes": inputs_bytes, "items_a_run": version.items}
    return Prepared(run_steps, version.items, facts=facts, most=1 if seconds >= ROUND_SECONDS else None)


def _require_memory(case: AttackCase, ours: bool, budget: int | None) -> None:
    """Unavailable where the arrays are larger than what is free, or the definition's than `budget`."""
    own = 0 if ours else case.definition_bytes
    if own and budget is not None and own > budget:
        raise Unavailable(
            f"it needs about {_gibibytes(own)} beside its inputs, more than --memory-gib allows, {_gibibytes(budget)}"
        )
    free = available_bytes()
    if free is not None and case.inputs_bytes + own > _SHARE * free:
        more = f" and about {_gibibytes(own)} beside them" if own else ""
        raise Unavailable(
            f"it needs {_gibibytes(case.inputs_bytes)} for its inputs{more}, but {_gibibytes(free)} of memory are free"
        )


def _gibibytes(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def _ours(case: AttackCase, inputs: dict[str, np.ndarray]) -> Version:
    # Imported here: a process of NumPy's definition loads nothing of ours, JAX included.
    if case.kind == "rmia":
        from mu_jax.attacks.rmia import rmia_scores

        population_member = inputs["population_member"]
        arguments = [inputs[name] for name in ("target", "reference", "member")]
        arguments += [inputs["population_target"], inputs["population_reference"]]
        return Version(
            lambda: rmia_scores(*arguments, population_member=population_member, mode="online", gamma=GAMMA),
            case.items,
        )
    if case.kind == "forgetting":
        from mu_jax.evaluation.forgetting import forgetting_score, per_example_epsilon

        both = inputs["unlearned"], inputs["retrained"]
        few = [phi[:, : case.definition_items] for phi in both]

        def compared(_: float) -> np.ndarray:
            return np.append(per_example_epsilon(*few, DELTA), forgetting_score(*few, DELTA))

        return Version(lambda: forgetting_score(*both, DELTA), case.items, compared)
    from mu_jax.attacks.lira import leave_one_out_lira, lira_scores

    if case.kind == "lira":
        return Version(lambda: lira_scores(inputs["target"], inputs["phi"], inputs["member"]), case.items)
    targets = _targets(case)
    run = lambda: leave_one_out_lira(inputs["phi"], inputs["member"])  # noqa: E731
    return Version(run, case.items, lambda result: result[targets])


def _definition(case: AttackCase, inputs: dict[str, np.ndarray]) -> Version:
    if case.kind == "lira":
        run = lambda: attack_definitions.lira(inputs["target"], inputs["phi"], inputs["member"])  # noqa: E731
        return Version(run, case.items)
    if case.kind == "rmia":
        return Version(lambda: attack_definitions.rmia(*_rmia_arrays(inputs), GAMMA), case.items)
    if case.kind == "forgetting":
        few = [inputs[name][:, : case.definition_items] for name in ("unlearned", "retrained")]
        return Version(
            lambda: attack_definitions.epsilons(*few, DELTA),
            case.definition_items,
            lambda epsilon: np.append(epsilon, attack_definitions.forgetting(epsilon, case.models)),
        )
    from mu_jax.attacks.lira import lira_scores

    phi, member = inputs["phi"], inputs["member"]

    def one_after_another() -> np.ndarray:
        found = []
        for target in _targets(case):
            left = np.delete(np.arange(case.models), [target, target ^ 1])
            found.append(lira_scores(phi[target], phi[left], member[left]))
        return np.stack(found)

    return Version(one_after_another, case.definition_items)


def _rmia_arrays(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [inputs[f"{of}{name}"] for of in ("", "population_") for name in ("target", "reference", "member")]


def _targets(case: AttackCase) -> np.ndarray:
    """The first and the last model: those that are attacked one after another."""
    return np.linspace(0, case.models - 1, case.definition_items).astype(int)


if __name__ == "__main__":
    serve(AttackCase, describe, prepare, lambda: None)
