"""What deletions from an ensemble cost beside training anew: measured in examples and seconds, and predicted."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.sisa_case import SisaCase
from mu_jax.unlearning.sisa.cost import expected_cost


def deletion_figures(
    case: SisaCase,
    examples: int,
    *,
    seconds: Sequence[float],
    training_seconds: Sequence[float],
    examples_retrained: Sequence[float],
    retrain_seconds: float,
    refit_seconds: float,
) -> dict[str, Any]:
    """Means over n deletions, one request each, and speed-ups over one model's training and the ensemble's.

    The k-th deletion leaves N − k of N `examples`, which one model would train on: so in examples the speed-up is
    Σ (N − k) / Σ retrained, whose expectation's ratio is the same for any n, and `predicted`. In seconds it is
    `retrain_seconds` / mean. An example retrained is one for e₀ epochs. Errors are standard errors of the mean, None
    for a single deletion.
    """
    number = len(seconds)
    left = sum(examples - k for k in range(1, number + 1))
    predicted = expected_cost(examples, case.shards, case.slices, 1)
    mean = statistics.fmean(seconds)
    return {
        "deletions": number,
        "seconds": round(mean, 4),
        "seconds_error": _error(seconds, 4),
        "training_seconds": round(statistics.fmean(training_seconds), 4),
        "examples_retrained": round(statistics.fmean(examples_retrained), 2),
        "examples_retrained_error": _error(examples_retrained, 2),
        "predicted_examples_retrained": round(predicted["examples_retrained"], 2),
        "retrain_seconds": round(retrain_seconds, 3),
        "refit_seconds": round(refit_seconds, 3),
        "speed_up": {
            # None where no step was due, as in a quick look of few epochs.
            "examples": round(left / sum(examples_retrained), 3) if sum(examples_retrained) else None,
            "seconds": round(retrain_seconds / mean, 3),
            "seconds_over_refit": round(refit_seconds / mean, 3),
            "predicted": round(predicted["speed_up"], 3),
        },
    }


def _error(values: Sequence[float], digits: int) -> float | None:
    if len(values) == 1:
        return None
    return round(statistics.stdev(values) / math.sqrt(len(values)), digits)
