"""From what single models and ensembles answered to what results.json and the report say of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.attacks.posterior import largest_posterior
from mu_jax.config import to_dict
from mu_jax.data.random_streams import host_stream
from mu_jax.data.splits import Splits
from mu_jax.evaluation.comparison import Behaviour, gap_to_retrain
from mu_jax.evaluation.intervals import proportion_interval
from mu_jax.evaluation.report.sisa_data import SisaReportData
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import data_facts, model_facts, parameter_count, split_sizes
from mu_jax.experiments.sisa_answers import Answers
from mu_jax.experiments.sisa_attacks import Adversaries, Shadow, attack_posteriors, fit_adversaries
from mu_jax.experiments.sisa_setting import SisaSetting
from mu_jax.training.placement import Placement
from mu_jax.unlearning.sisa.cost import expected_cost, simulate_cost, speed_up_table
from mu_jax.unlearning.sisa.ensemble import AGGREGATIONS
from mu_jax.unlearning.sisa.shard_models import ShardModels
from mu_jax.unlearning.sisa.sharding import Sharding

QUESTION = (
    "If I train so that deletion is cheap, how much accuracy do I pay, how much retraining do I save, and does an "
    "attacker still see who was deleted?"
)

# In the table's order; what each one's gap is measured from.
_REFERENCE = {
    "base": "base_retrained",
    "base_retrained": "base_retrained",
    "sisa": "sisa_retrained",
    "sisa_unlearned": "sisa_retrained",
    "sisa_retrained": "sisa_retrained",
    "sisa_retrained_again": "sisa_retrained",
}
_DRAWS = 20
_LARGE = 10_000_000
_PLAN = {"shards": (20, 100, 1000), "slices": (1, 50)}
_REQUESTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclasses.dataclass(frozen=True)
class Found:
    """All that the work left behind."""

    setting: SisaSetting
    splits: Splits
    nonmembers: np.ndarray
    """rows that the forgotten and the retained are compared with"""
    shadow_rows: tuple[np.ndarray, np.ndarray]
    sharding: Sharding
    """of the ensemble, before the deletion"""
    models: ShardModels
    placement: Placement
    compile_seconds: float
    answers: Mapping[str, Answers]
    compared: Mapping[str, tuple[int, int]]
    """of ensembles that only count for their accuracy: shards and slices"""
    trained: Mapping[str, tuple[float, int]]
    """of each model: seconds, and examples shown, repeats counted"""
    certificate: Mapping[str, Any]
    shadows: Mapping[str, Shadow]

    @property
    def aggregation(self) -> str:
        """The one that the ensemble answers by."""
        return self.setting.config.sisa.aggregation


def results_of(found: Found) -> dict[str, Any]:
    """Everything that results.json says."""
    setting, splits = found.setting, found.splits
    config = setting.config
    parts = {"retain": splits.retain, "forget": splits.forget, "test": splits.test}
    adversaries = fit_adversaries(config, found.shadows)
    models = {name: _model(found, name, parts, adversaries) for name in _REFERENCE}
    for name, reference in _REFERENCE.items():
        gap = gap_to_retrain(_behaviour(models[name]), _behaviour(models[reference]))
        models[name] |= {"gap_to_retrain": gap.gap, "gap_parts": dict(gap.parts)}
    variables = next(v for v in found.models.variables(_left(found)) if v is not None)
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": data_facts(setting)
        | split_sizes(splits)
        | {
            "nonmembers": len(found.nonmembers),
            "shadow_members": len(found.shadow_rows[0]),
            "shadow_nonmembers": len(found.shadow_rows[1]),
        },
        "model": model_facts(setting, parameter_count(variables)),
        "sisa": setting.facts(found.placement, found.sharding) | {"compile_seconds": found.compile_seconds},
        "models": models,
        "tables": {
            "accuracy_by_shards": _by_shards(found),
            "constituents": _constituents(found),
            "deletion_cost": _deletion_cost(found, models["base_retrained"]["seconds"]),
            "expected_speed_up": _plan(found),
        },
        "certificate": {
            key: found.certificate[key]
            for key in ("request", "trained_samples", "examples_retrained", "seconds", "removed")
        },
        "environment": environment(),
    }


def accuracies(
    setting: SisaSetting, posteriors: np.ndarray, parts: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The accuracy on each part that has rows, and its interval."""
    right = posteriors.argmax(axis=1) == setting.dataset.labels
    level = setting.config.evaluation.interval_level
    hits = {part: (int(right[rows].sum()), len(rows)) for part, rows in parts.items() if len(rows)}
    return (
        {part: count / total for part, (count, total) in hits.items()},
        {part: list(proportion_interval(count, total, level=level)) for part, (count, total) in hits.items()},
    )


def report_data(found: Found, results: Mapping[str, Any]) -> SisaReportData:
    """What the page shows beyond results.json: how sure the models are."""
    splits = found.splits
    parts = {"forget": splits.forget, "retain": splits.retain, "test": splits.test}
    return SisaReportData(
        results=results,
        config=to_dict(found.setting.config),
        largest_posterior={
            name: {
                part: largest_posterior(found.answers[name].posteriors[found.aggregation][rows])
                for part, rows in parts.items()
            }
            for name in _REFERENCE
        },
    )


def _model(
    found: Found, name: str, parts: Mapping[str, np.ndarray], adversaries: Adversaries
) -> dict[str, Any]:
    setting, config = found.setting, found.setting.config
    posteriors = found.answers[name].posteriors[found.aggregation]
    accuracy, interval = accuracies(setting, posteriors, parts)
    labels = setting.dataset.labels
    attacks = {}
    for suffix, members in (("", parts["forget"]), ("_retain", parts["retain"])):
        blocks = attack_posteriors(config, adversaries, posteriors, labels, members, found.nonmembers)
        attacks |= {f"{attack}{suffix}": block for attack, block in blocks.items()}
    seconds, samples = found.trained[name]
    return {
        "accuracy": accuracy,
        "accuracy_interval": interval,
        "attacks": attacks,
        "seconds": seconds,
        # One program trains all of them.
        "compile_seconds": 0.0,
        "trained_samples": samples,
    }


def _behaviour(model: Mapping[str, Any]) -> Behaviour:
    return Behaviour(
        unlearn_accuracy=model["accuracy"]["forget"],
        retain_accuracy=model["accuracy"]["retain"],
        test_accuracy=model["accuracy"]["test"],
        forget_vs_test_auc=model["attacks"]["loss_threshold"]["auc"],
    )


def _by_shards(found: Found) -> list[dict[str, Any]]:
    """Accuracy of ensembles of so many shards, by every aggregation, and of their shards by themselves."""
    setting, splits = found.setting, found.splits
    train = np.union1d(splits.retain, splits.forget)
    shape = {"base": (1, 1), "sisa": (len(found.sharding.slices), len(found.sharding.slices[0]))}
    rows = []
    for name, (shards, slices) in sorted({**shape, **found.compared}.items(), key=lambda item: item[1]):
        answers = found.answers[name]
        alone = answers.right[answers.votes]
        on_test = alone[:, splits.test].mean(axis=1)
        own = _own_training(found, name, shards, slices)
        for aggregation in AGGREGATIONS:
            parts = {"test": splits.test, "train": train}
            accuracy, interval = accuracies(setting, answers.posteriors[aggregation], parts)
            rows.append(
                {
                    "shards": shards,
                    "slices": slices,
                    "aggregation": aggregation,
                    "test_accuracy": accuracy["test"],
                    "test_interval": interval["test"],
                    "train_accuracy": accuracy["train"],
                    "constituent_test": float(on_test.mean()),
                    "constituent_test_sd": float(on_test.std(ddof=1)) if len(on_test) > 1 else 0.0,
                    "constituent_train": float(np.mean(own)),
                }
            )
    return rows


def _own_training(found: Found, name: str, shards: int, slices: int) -> list[float]:
    """Each shard's accuracy on its own training images."""
    sharding = found.sharding
    if name != "sisa":
        rows = np.union1d(found.splits.retain, found.splits.forget)
        sharding = found.setting.sharding(rows, shards=shards, slices=slices)
    right = found.answers[name].right
    held = [sharding.prefix(shard, len(parts) - 1) for shard, parts in enumerate(sharding.slices)]
    return [float(right[shard, rows].mean()) for shard, rows in enumerate(held) if len(rows)]


def _constituents(found: Found) -> list[dict[str, Any]]:
    answers, sharding = found.answers["sisa"], found.sharding
    rows = []
    for shard, parts in enumerate(sharding.slices):
        held = sharding.prefix(shard, len(parts) - 1)
        if len(held):
            rows.append(
                {
                    "model": "sisa",
                    "shard": shard,
                    "examples": len(held),
                    "train_accuracy": float(answers.right[shard, held].mean()),
                    "test_accuracy": float(answers.right[shard, found.splits.test].mean()),
                }
            )
    return rows


def _deletion_cost(found: Found, seconds_full: float) -> list[dict[str, Any]]:
    """Retraining counted on this ensemble's shards and steps, beside what the closed form expects."""
    config, sharding = found.setting.config, found.sharding
    positions = sharding.examples
    rows = []
    for number in sorted(n for n in config.cost_requests if n < len(positions)):
        rng = host_stream(config.seed, f"the cost of {number} deletions")
        draws = [rng.choice(positions, number, replace=False) for _ in range(_DRAWS)]
        counted = [found.models.retrained_samples(sharding, draw) for draw in draws]
        rows.append(_cost_row(found, number, np.array(counted), {"trained": False, "seconds": None}))
        if config.sisa.sharding == "uniform":
            simulated = simulate_cost(len(positions), len(sharding.slices), len(sharding.slices[0]), number)
            rows[-1] |= {
                "simulated_examples": simulated["examples_retrained"],
                "simulated_error": simulated["examples_retrained_error"],
            }
    carried_out = {
        "trained": True,
        "seconds": found.certificate["seconds"],
        "seconds_full": seconds_full,
    }
    counted = np.array([found.certificate["trained_samples"]])
    return [*rows, _cost_row(found, len(found.splits.forget), counted, carried_out)]


def _cost_row(found: Found, requests: int, samples: np.ndarray, more: Mapping[str, Any]) -> dict[str, Any]:
    """`samples` are shown in e₀ passes: the unit of cost is an example trained on for all of them."""
    shards, slices = len(found.sharding.slices), len(found.sharding.slices[0])
    total = len(found.sharding.examples)
    retrained = samples / found.setting.config.train.epochs
    row = {
        "requests": requests,
        "shards": shards,
        "slices": slices,
        "draws": len(samples),
        "examples_retrained": float(retrained.mean()),
        "examples_retrained_sd": float(retrained.std(ddof=1)) if len(samples) > 1 else 0.0,
        "expected_examples": None,
        "speed_up": float((total - requests) / retrained.mean()) if retrained.any() else None,
        "expected_speed_up": None,
    }
    # The closed form is of even shards and slices.
    if found.setting.config.sisa.sharding == "uniform":
        expected = expected_cost(total, shards, slices, requests)
        row |= {
            "expected_examples": expected["examples_retrained"],
            "expected_speed_up": _finite(expected["speed_up"]),
        }
    return row | dict(more)


def _plan(found: Found) -> list[dict[str, Any]]:
    """Expected speed-ups: of this data, in shards and slices about the ensemble's, and of ten million examples.

    They are of even shards: under another sharding only the plan for ten million examples stands.
    """
    total = len(found.sharding.examples)
    shards, slices = len(found.sharding.slices), len(found.sharding.slices[0])
    here = {"shards": sorted({1, shards, 2 * shards}), "slices": sorted({1, slices})}
    rows = []
    uniform = found.setting.config.sisa.sharding == "uniform"
    for examples, shape in (*([(total, here)] if uniform else []), (_LARGE, _PLAN)):
        requests = [number for number in _REQUESTS if number < examples]
        fitting = [number for number in shape["shards"] if number * max(shape["slices"]) <= examples]
        rows += speed_up_table(examples, fitting, shape["slices"], requests)
    return [row | {"speed_up": _finite(row["speed_up"])} for row in rows]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _left(found: Found) -> Sharding:
    return found.sharding.without(found.splits.forget)
