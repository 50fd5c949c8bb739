"""A sweep's pool put to attacks: each model in turn the target, the others its references."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mu_jax.config import InputError, to_dict
from mu_jax.evaluation.report.attack_data import AttackReportData
from mu_jax.experiments.audit import exposed_rows, pool_targets, write_scores
from mu_jax.experiments.membership_attacks import attack_all, report_of
from mu_jax.experiments.signal_pool import Pool
from mu_jax.experiments.sweep_setting import SweepSetting


def attack_pool(
    setting: SweepSetting, pool: Pool, results: dict[str, Any], path: pathlib.Path, say: Callable[[str], None]
) -> AttackReportData | None:
    """Attack, write every score to `path`, and add what came of it to `results`; None where nothing was possible.

    The pool is what a sweep is for, so an attack that it does not allow (too few models, say) is told and left out.
    """
    settings = setting.config.attack
    if not settings.names:
        return None
    try:
        targets, examples = pool_targets(pool, settings)
    except InputError as error:
        say(f"no attacks: {error}")
        results["tables"]["impossible_attacks"] = [
            {"attack": name, "reason": str(error)} for name in settings.names
        ]
        return None
    outcome = attack_all(targets, settings, setting.config.seed, say, allow_impossible=True)
    results["attack"] = to_dict(settings) | {"offline_a": outcome.offline_a}
    results["tables"]["attacks"] = outcome.rows
    if outcome.impossible:
        results["tables"]["impossible_attacks"] = outcome.impossible
    if not outcome.attacks:
        return None
    write_scores(path, outcome, targets, examples)
    dataset = setting.dataset
    report = report_of(
        outcome,
        targets,
        examples=examples,
        labels=np.asarray(dataset.labels[examples], np.int64),
        class_names=tuple(dataset.class_names),
        images=dataset.images[examples],
    )
    results["tables"]["exposed"] = exposed_rows(report, settings.gallery_images)
    return report
