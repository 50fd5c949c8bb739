"""From a finished pool to what results.json and the report say of it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mu_jax.config import to_dict
from mu_jax.evaluation.report import SweepReportData
from mu_jax.evaluation.report.attack_data import AttackReportData
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.signal_pool import Pool
from mu_jax.experiments.sweep_setting import SweepSetting, model_name
from mu_jax.training.placement import Placement

QUESTION = (
    "What do models that were trained on an image say of it, and what do equal models that were not? These signals "
    "feed every membership attack."
)
# Enough for a smooth histogram.
_POOLED_SAMPLES = 200_000


def results_of(
    setting: SweepSetting, pool: Pool, placement: Placement, processes: int, compile_seconds: float
) -> dict[str, Any]:
    """Everything that results.json says; times are sums over all that ever trained for this pool."""
    config, dataset = setting.config, setting.dataset
    facts = pool.per_model
    models = {}
    for k in range(len(pool.member)):
        models[model_name(k)] = {
            "accuracy": {
                "member": float(facts["member_accuracy"][k]),
                "nonmember": float(facts["nonmember_accuracy"][k]),
            },
            "attacks": {},
            "members": int(pool.member[k].sum()),
            "loss": float(facts["loss"][k]) if np.isfinite(facts["loss"][k]) else None,
            "diverged_step": pool.diverged.get(k),
            "seconds": float(facts["seconds"][k]),
            "trained_samples": int(facts["trained_samples"][k]),
        }
    seconds, query_seconds = float(facts["seconds"].sum()), float(facts["query_seconds"].sum())
    shapes = jax.eval_shape(setting.model.init, jax.random.key(0))["params"]
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": {
            "source": config.data.source,
            "name": dataset.name,
            "train": len(dataset.y_train),
            "test": len(dataset.y_test),
            "examples": len(dataset.labels),
            "candidates": len(setting.candidates),
            "classes": dataset.num_classes,
            "image_shape": list(dataset.image_shape),
            "label_noise": config.data.label_noise,
        },
        "model": {
            "name": config.model.name,
            "width": config.model.width,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
            "compute_dtype": config.model.compute_dtype,
            "convolution": setting.lowering,
        },
        "models": models,
        "sweep": {
            "models": len(pool.member),
            "hash": pool.hash,
            "membership": config.sweep.membership,
            "candidates": config.sweep.candidates,
            "queries": len(setting.views),
            "mapping": placement.mapping,
            "devices": placement.devices,
            "models_per_device": placement.models_per_device,
            "groups": -(-len(pool.member) // placement.width),
            "processes": processes,
            "seconds": seconds,
            "query_seconds": query_seconds,
            "compile_seconds": compile_seconds,
            "images_per_second": float(facts["trained_samples"].sum()) / max(seconds, 1e-9),
            "models_per_minute": 60 * len(pool.member) / max(seconds + query_seconds, 1e-9),
            "diverged": len(pool.diverged),
        },
        "tables": {},
        "environment": environment(),
    }


def report_data(
    setting: SweepSetting,
    pool: Pool,
    results: dict[str, Any],
    curves: Sequence[dict[str, Any]],
    attacks: AttackReportData | None,
) -> SweepReportData:
    """What the page shows beyond results.json; reads φ one model at a time."""
    candidates, usable = setting.candidates, np.flatnonzero(pool.usable)
    sums = {side: np.zeros(len(candidates)) for side in (True, False)}
    numbers = {side: np.zeros(len(candidates), int) for side in (True, False)}
    pooled: dict[bool, list[np.ndarray]] = {True: [np.empty(0)], False: [np.empty(0)]}
    draw = np.random.default_rng([setting.config.seed, 7])
    a_model = max(1, _POOLED_SAMPLES // max(len(usable), 1))
    for k in usable:
        phi = np.asarray(pool.phi[k, candidates, 0], np.float64)
        for side in (True, False):
            rows = pool.member[k, candidates] == side
            sums[side][rows] += phi[rows]
            numbers[side] += rows
            values = phi[rows]
            pooled[side].append(
                values if len(values) <= a_model else draw.choice(values, a_model, replace=False)
            )
    with np.errstate(invalid="ignore"):
        means = {side: sums[side] / np.where(numbers[side] > 0, numbers[side], np.nan) for side in sums}
    return SweepReportData(
        results=results,
        config=to_dict(setting.config),
        curves=list(curves),
        member_phi=np.concatenate(pooled[True]),
        nonmember_phi=np.concatenate(pooled[False]),
        example_in_mean=means[True],
        example_out_mean=means[False],
        attacks=attacks,
    )
