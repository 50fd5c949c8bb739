"""Signals of models that never were, alike in every process; made in place, so that making them is no memory peak."""

import numpy as np

from benchmarks.attack_case import AttackCase

_BLOCK = 4096


def make_inputs(case: AttackCase) -> dict[str, np.ndarray]:
    """The arrays that the case's attack takes, by name: float32 signals and boolean membership."""
    random = np.random.default_rng(0)
    if case.kind == "forgetting":
        # Unlearned models are a little off in place and in spread, by an amount of the example's own.
        centre, width = random.normal(3, 4, case.examples), random.uniform(0.5, 2, case.examples)
        shift, stretch = random.normal(0, 0.5, case.examples), random.uniform(0.7, 1.3, case.examples)
        return {
            "unlearned": _normal(random, case, centre + width * shift, width * stretch),
            "retrained": _normal(random, case, centre, width),
        }
    if case.kind == "rmia":
        found = {}
        for name, examples in (("", case.examples), ("population_", case.population)):
            member = _halves(random, case.models, examples)
            found[f"{name}target"] = _probabilities(random, random.random((1, examples)) < 0.5)[0]
            found[f"{name}reference"] = _probabilities(random, member)
            found[f"{name}member"] = member
        return found
    if case.kind == "lira":
        member = _halves(random, case.models, case.examples)
        target_member = random.random((1, case.examples)) < 0.5
        target = _margins(np.random.default_rng(1), target_member, case.views)
        return {"target": target[0], "phi": _margins(random, member, case.views), "member": member}
    # Complementary pairs: the model that leaves with a target is then its pair's other half for every example, so
    # `lira_scores` without these two is the same attack.
    member = np.empty((case.models, case.examples), bool)
    member[::2] = random.random((case.models // 2, case.examples)) < 0.5
    member[1::2] = ~member[::2]
    for example in np.flatnonzero((member[::2] == member[0]).all(axis=0)):
        member[:2, example] = member[:2, example][::-1]
    return {"phi": _margins(random, member, case.views), "member": member}


def _halves(random: np.random.Generator, models: int, examples: int) -> np.ndarray:
    """Each example in half of the models."""
    member = np.empty((models, examples), bool)
    for start in range(0, examples, _BLOCK):
        block = member[:, start : start + _BLOCK]
        block[:] = random.random(block.shape).argsort(axis=0) < models // 2
    return member


def _margins(random: np.random.Generator, member: np.ndarray, views: int) -> np.ndarray:
    """φ [K, N, A]: each example's own centre and spread, one spread higher for members."""
    of_example = np.random.default_rng(2)
    centre = of_example.normal(3, 4, (member.shape[1], 1)).astype(np.float32)
    width = of_example.uniform(0.5, 2, (member.shape[1], 1)).astype(np.float32)
    phi = np.empty((*member.shape, views), np.float32)
    for row, holds in zip(phi, member, strict=True):
        random.standard_normal(dtype=np.float32, out=row)
        row += holds[:, None]
        row *= width
        row += centre
    return phi


def _probabilities(random: np.random.Generator, member: np.ndarray) -> np.ndarray:
    """Of the true class, [K, N]: uniform, and larger for members."""
    found = np.empty(member.shape, np.float32)
    for row, holds in zip(found, member, strict=True):
        random.random(dtype=np.float32, out=row)
        np.sqrt(row, out=row, where=holds)
    return found


def _normal(
    random: np.random.Generator, case: AttackCase, centre: np.ndarray, width: np.ndarray
) -> np.ndarray:
    """φ [M, N]."""
    phi = np.empty((case.models, case.examples), np.float32)
    for row in phi:
        random.standard_normal(dtype=np.float32, out=row)
        row *= width.astype(np.float32)
        row += centre.astype(np.float32)
    return phi
