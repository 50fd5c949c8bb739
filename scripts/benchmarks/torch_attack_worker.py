"""LiRA and RMIA in PyTorch, on all cores and in float64 as ours; a variant is `{"form"}`.

| form | |
|---|---|
| `blocks` | LiRA's means and deviations by masked sums, a block of examples at a time |
| `blocks compiled` | the same by torch.compile |
| `pairs` | RMIA's N × Z comparisons, a block of examples at a time |
| `sorted` | RMIA's counts by a binary search of each x among the sorted ratios of the population |

Without blocks LiRA's deviations alone would take several times the signals' memory.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.attack_case import AttackCase
from benchmarks.attack_inputs import make_inputs
from benchmarks.free_memory import available_bytes
from benchmarks.serving import Prepared, Unavailable, peak_bytes, serve
from benchmarks.torch_training_worker import describe, device_peak_bytes, why_it_fails

GAMMA, ROUND_SECONDS = 2.0, 0.25
"""As `attack_worker` has them."""
# Numbers in a block's largest array: a few megabytes, so that what is made of it stays in the caches.
_BLOCK = 2**19
# Of what is free, the most that the inputs may take.
_SHARE = 0.9


def prepare(case: AttackCase, variant: dict[str, Any]) -> Prepared:
    """Makes the inputs and runs once, untimed: the result goes to the case's folder to be compared."""
    free = available_bytes()
    if free is not None and case.inputs_bytes > _SHARE * free:
        raise Unavailable(f"it needs {case.inputs_bytes / 2**30:.3g} GiB for its inputs")
    inputs = {name: torch.from_numpy(array) for name, array in make_inputs(case).items()}
    before = peak_bytes()
    try:
        attack = lira(inputs, variant["form"]) if case.kind == "lira" else rmia(inputs, variant["form"])
        result = attack()
        begin = time.perf_counter()
        attack()
        seconds = time.perf_counter() - begin
    except Exception as error:
        if not variant["form"].endswith("compiled"):
            raise
        raise Unavailable(why_it_fails("compiled", error)) from error
    np.save(pathlib.Path(case.folder) / f"torch {variant['form']}.npy", result.numpy())

    def run_steps(count: int) -> float:
        for _ in range(count):
            attack()
        return 0.0

    facts = {"inputs_peak_bytes": before, "items_a_run": case.items}
    return Prepared(run_steps, case.items, facts=facts, most=1 if seconds >= ROUND_SECONDS else None)


def lira(inputs: dict[str, Tensor], form: str) -> Callable[[], Tensor]:
    """Online, a variance for each example: scores [N] from φ [K, N, A]."""
    target, phi, member = inputs["target"], inputs["phi"], inputs["member"]
    size = max(1, _BLOCK // (phi.shape[0] * phi.shape[2]))
    scores_of = _lira_block
    if form == "blocks compiled":
        # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        scores_of = torch.compile(_lira_block)

    def run() -> Tensor:
        blocks = zip(target.split(size), phi.split(size, 1), member.split(size, 1), strict=True)
        return torch.cat([scores_of(*block) for block in blocks])

    return run


def _lira_block(target: Tensor, phi: Tensor, member: Tensor) -> Tensor:
    target, phi = target.double(), phi.double()
    density = []
    for side in (member, ~member):
        weight = side[:, :, None].double()
        number = weight.sum(0)
        mean = (phi * weight).sum(0) / number
        variance = ((phi - mean).square() * weight).sum(0) / (number - 1)
        density.append(-(target - mean).square() / (2 * variance) - variance.log() / 2)
    return (density[0] - density[1]).mean(1)


def rmia(inputs: dict[str, Tensor], form: str) -> Callable[[], Tensor]:
    """Online: scores [N] from probabilities of K references, [K, N] and of the population [K, Z]."""

    def run() -> Tensor:
        ratio = _ratio(*(inputs[name] for name in ("target", "reference", "member")))
        names = ("population_target", "population_reference", "population_member")
        bar = GAMMA * _ratio(*(inputs[name] for name in names))
        if form == "sorted":
            # How many bars lie strictly below each ratio.
            return torch.searchsorted(bar.sort().values, ratio).double() / len(bar)
        size = max(1, _BLOCK // len(bar))
        return torch.cat([(block[:, None] > bar).double().mean(1) for block in ratio.split(size)])

    return run


def _ratio(target: Tensor, reference: Tensor, member: Tensor) -> Tensor:
    """p(x|θ) over ½(mean of the references that hold x + mean of the others), in float64."""
    total = reference.sum(0, dtype=torch.float64)
    held = torch.where(member, reference, 0.0).sum(0, dtype=torch.float64)
    number = member.sum(0)
    return 2 * target.double() / (held / number + (total - held) / (len(member) - number))


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    serve(AttackCase, describe, prepare, device_peak_bytes)
