"""An attack that makes decisions of its own, as its block of `results.json`, in strict JSON."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Num

from mu_jax.evaluation import intervals, roc


def evaluate_decisions(
    scores: Num[Array | np.ndarray, "N"],
    predicted: Bool[Array | np.ndarray, "N"],
    is_member: Bool[Array | np.ndarray, "N"],
    *,
    fpr: tuple[float, ...] = (0.001, 0.01, 0.1),
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All that is reported of an attack that scores examples and calls some of them members; fractions.

    Of the decisions `predicted`, made without the labels they are judged by:

        accuracy           (TP + TN) / N: the share of right answers, which the larger side dominates
        balanced_accuracy  ½(TPR + 1 − FPR): as if members and non-members were equally many
        advantage          TPR − FPR = 2·balanced_accuracy − 1
        precision          TP / (TP + FP): who is called a member, is one. It rests on the share of members here
        recall             TP / members: the TPR

    `accuracy` and `balanced_accuracy` are one number where both sides are equally many, and only there; 0.85 with an
    advantage of 0.17 is possible for the first and not for the second. (`evaluate_scores`, whose attacks come without
    decisions, calls a balanced accuracy `accuracy`.) Precision and its interval are None where nobody is called a
    member. Of the scores, as in `evaluate_scores`: `auc`, `auc_distance` = |AUC − ½|, and `tpr_at_fpr` with the number
    of false positives at each threshold. Scores need not agree with the decisions.

    Intervals: Wilson's of accuracy, precision and recall, Newcombe's of balanced accuracy and (its image) advantage,
    the bootstrap's of AUC and TPR; examples are the unit of chance, the models are held fixed. Where the numbers of
    members and non-members are fixed beforehand, precision's is wider than it need be (measured: 95% covers 99%).
    InputError as in `mu_jax.evaluation.roc`, for an array that does not fit or a side without examples.
    """
    area = roc.auc(scores, is_member)
    tpr, fpr_of_calls = roc.rates(predicted, is_member)
    call, member = np.asarray(predicted), np.asarray(is_member)
    members, called = int(member.sum()), int(call.sum())
    true_positives = int(np.sum(call & member))
    right = call == member
    bounds = intervals.roc_intervals(scores, is_member, fpr, level=level, samples=samples, seed=seed)
    balanced = intervals.balanced_accuracy_interval(predicted, is_member, level=level)
    precision, precision_interval = None, None
    if called:
        precision = true_positives / called
        precision_interval = list(intervals.proportion_interval(true_positives, called, level=level))
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
        "accuracy": float(np.mean(right)),
        "balanced_accuracy": roc.balanced_accuracy(predicted, is_member),
        "advantage": tpr - fpr_of_calls,
        "precision": precision,
        "recall": tpr,
        "true_positives": true_positives,
        "false_positives": called - true_positives,
        "tpr_at_fpr": rows,
        "interval": {
            "auc": list(bounds.auc),
            "accuracy": list(intervals.accuracy_interval(right, level=level)),
            "balanced_accuracy": list(balanced),
            "advantage": [2 * end - 1 for end in balanced],
            "precision": precision_interval,
            "recall": list(intervals.proportion_interval(true_positives, members, level=level)),
            "level": float(level),
        },
        "members": members,
        "nonmembers": int(member.size) - members,
    }
