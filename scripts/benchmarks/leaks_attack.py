"""From posteriors to pairs, features, classifiers and their AUCs: the same calls for both sides."""

import concurrent.futures
import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import threadpoolctl
from sklearn.exceptions import ConvergenceWarning

from mu_jax.attacks.leaks import FEATURES, construct_features
from mu_jax.attacks.pair_attack import CLASSIFIERS, fit_pair_attack
from mu_jax.evaluation.roc import auc

_SEED = 0


def attack_pairs(
    plan: Mapping[str, np.ndarray],
    posteriors: np.ndarray,
    workers: int,
    fit: Callable[..., Any] = fit_pair_attack,
) -> dict[str, Any]:
    """Every feature read by every classifier, fitted on shadow pairs and judged on target pairs.

    `posteriors` float32[K,Q,C] are what model k says of its side's digits. One `workers` fits one after another, as
    scikit-learn does by itself; more of them share the fits out among threads, which leaves each a core. Gives `pairs`
    and `attacks`, seconds, and `auc`, {feature: {classifier: AUC}}.
    """
    began = time.perf_counter()
    before, after = (posteriors[plan[model], plan["place"]] for model in ("before", "after"))
    shadow, member = plan["side"][plan["before"]] == 0, plan["is_member"]
    features = {kind: construct_features(before, after, kind) for kind in FEATURES}
    built = time.perf_counter()

    def one(kind: str, classifier: str) -> float:
        x = features[kind]
        attack = fit(x[shadow], member[shadow], classifier, _SEED)
        return float(auc(attack.confidence(x[~shadow]), member[~shadow]))

    # The last ones take longest: begun first, they leave no core idle at the end.
    fits = list(itertools.product(reversed(CLASSIFIERS), FEATURES))
    if workers == 1:
        found = [one(kind, classifier) for classifier, kind in fits]
    else:
        found = _shared_out(one, fits, workers)
    by_fit = dict(zip(fits, found, strict=True))
    return {
        "pairs": built - began,
        "attacks": time.perf_counter() - built,
        "auc": {kind: {name: round(by_fit[name, kind], 4) for name in CLASSIFIERS} for kind in FEATURES},
    }


def _shared_out(one: Callable[[str, str], float], fits: list[tuple[str, str]], workers: int) -> list[float]:
    with (
        # Threads restore each other's filters: what each fit ignores by itself is ignored for as long as any runs.
        warnings.catch_warnings(),
        threadpoolctl.threadpool_limits(1),
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return list(pool.map(lambda fit: one(fit[1], fit[0]), fits))
