"""The worker that attacks PyTorch's models: the same features, and the same classifiers one after another.

A process of its own, so that PyTorch's interpreter need not have scikit-learn, and no threads but scikit-learn's own
are about. A variant is `{"posteriors": FILE}`, an array `.npy` float32[K,Q,C]; a step is the whole attack.
"""

import platform
from typing import Any

import numpy as np
import sklearn

from benchmarks import machine
from benchmarks.leaks_answers import read_plan
from benchmarks.leaks_attack import attack_pairs
from benchmarks.leaks_case import LeaksCase
from benchmarks.serving import Prepared, serve


def describe() -> dict[str, Any]:
    """The machine and the versions."""
    versions = {"python": platform.python_version(), "scikit-learn": sklearn.__version__}
    return {"backend": "cpu", "device": machine.cpu_name(), "versions": versions}


def prepare(case: LeaksCase, variant: dict[str, Any]) -> Prepared:
    """Reads the plan and the posteriors."""
    plan = read_plan(case.file)
    posteriors = np.load(variant["posteriors"], allow_pickle=False)
    found: dict[str, Any] = {}

    def run_steps(count: int) -> float:
        for _ in range(count):
            result = attack_pairs(plan, posteriors, workers=1)
        found.update(
            auc=result["auc"], stages={name: round(result[name], 4) for name in ("pairs", "attacks")}
        )
        return 0.0

    return Prepared(run_steps, case.pairs, most=1, found=found)


if __name__ == "__main__":
    serve(LeaksCase, describe, prepare, lambda: None)
