"""An attack's scores or decisions as the block of `results.json` that describes it, in strict JSON."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Num

from mu_jax.attacks.loss import ShuffleSplitPredictions
from mu_jax.evaluation import intervals, roc
from mu_jax.evaluation.thresholds import cross_fitted_decisions


def evaluate_scores(
    scores: Num[Array | np.ndarray, "N"],
    is_member: Bool[Array | np.ndarray, "N"],
    *,
    fpr: tuple[float, ...] = (0.001, 0.01, 0.1),
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All that is reported of an attack that scores examples; fractions.

    `accuracy` and `advantage` are those of cross-fitted thresholds, so they are honest and may fall below ½
    and 0; `best_accuracy` picks its threshold on the labels it is judged by. `auc_distance` is |AUC − ½|: an
    AUC below ½ betrays forgotten examples as surely as one above. `tpr_at_fpr` has one row for each of `fpr`,
    with the number of false positives at its threshold. With a single example on a side no threshold can be
    cross-fitted: `accuracy`, its interval and `advantage` are then None.
    """
    area = roc.auc(scores, is_member)
    bounds = intervals.roc_intervals(scores, is_member, fpr, level=level, samples=samples, seed=seed)
    members = int(np.sum(np.asarray(is_member)))
    accuracy, advantage, accuracy_interval = None, None, None
    if 2 <= members <= np.size(np.asarray(is_member)) - 2:
        decisions = cross_fitted_decisions(scores, is_member, seed=seed)
        accuracy = roc.balanced_accuracy(decisions, is_member)
        advantage = roc.advantage(decisions, is_member)
        accuracy_interval = list(intervals.balanced_accuracy_interval(decisions, is_member, level=level))
    rows = []
    for rate, bound in zip(fpr, bounds.tpr_at_fpr, strict=True):
        point = roc.operating_point(scores, is_member, rate)
        rows.append(
            {
                "fpr": float(rate),
                "tpr": point.tpr,
                "false_positives": point.false_positives,
                "interval": list(bound),
            }
        )
    return {
        "auc": area,
        "auc_distance": abs(area - 0.5),
        "accuracy": accuracy,
        "best_accuracy": roc.best_balanced_accuracy(scores, is_member),
        "advantage": advantage,
        "tpr_at_fpr": rows,
        "interval": {
            "auc": list(bounds.auc),
            "accuracy": accuracy_interval,
            "level": float(level),
        },
        "members": members,
        "nonmembers": int(np.size(np.asarray(is_member))) - members,
    }


def evaluate_shuffle_splits(predictions: ShuffleSplitPredictions, *, level: float = 0.95) -> dict[str, Any]:
    """All that is reported of the challenge kit's loss attack; fractions.

    `accuracy` is the mean over the splits, as in the kit, and `split_accuracy_sd` their standard deviation
    (dividing by S − 1; 0 for a single split), which says how the splits differ and not how sure the mean is.
    """
    correct = predictions.predicted == predictions.is_member
    low, high = intervals.shuffle_split_accuracy_interval(correct, predictions.trained, level=level)
    accuracy = predictions.split_accuracy
    each_class = (predictions.trained + correct.shape[1]) // 2
    return {
        "accuracy": float(np.mean(accuracy)),
        "split_accuracy_sd": float(np.std(accuracy, ddof=1)) if accuracy.size > 1 else 0.0,
        "advantage": roc.advantage(predictions.predicted.ravel(), predictions.is_member.ravel()),
        "interval": {"accuracy": [low, high], "level": float(level)},
        "members": each_class,
        "nonmembers": each_class,
    }
