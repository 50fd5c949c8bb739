"""ML-Leaks' three adversaries, and the loss attack, on the posteriors of single models and ensembles."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int64

from mu_jax.attacks.posterior import ShadowClassifier, fit_posterior_attack, largest_posterior
from mu_jax.config import DataConfig, InputError, SisaPosterior
from mu_jax.data.random_streams import host_stream
from mu_jax.evaluation.decisions import evaluate_decisions
from mu_jax.evaluation.membership import evaluate_scores
from mu_jax.evaluation.thresholds import best_threshold
from mu_jax.experiments.setting import build_models, read_data
from mu_jax.ops import choose_lowering
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import TrainingRun
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.query import make_query
from mu_jax.training.step import Recipe

Posteriors = Float32[np.ndarray, "N C"]


@dataclasses.dataclass(frozen=True)
class Shadow:
    """Posteriors of the adversary's own model on images that trained it and on images that did not."""

    member: np.ndarray
    nonmember: np.ndarray


@dataclasses.dataclass(frozen=True)
class Adversaries:
    """Fitted on shadows, once for all targets."""

    classifiers: Mapping[str, ShadowClassifier]
    """`posterior_1` (a single model as shadow), `posterior_1_ensemble`, `posterior_2` (of another data set)"""
    threshold: float
    """adversary 3's, on the largest posterior: the best one for the single shadow model"""


def fit_adversaries(config: SisaPosterior, shadows: Mapping[str, Shadow]) -> Adversaries:
    """One classifier a shadow; `posterior_1`'s shadow also says where adversary 3 draws the line."""
    adversary = config.adversary
    fitted = {
        name: fit_posterior_attack(
            shadow.member,
            shadow.nonmember,
            classifier=adversary.classifier,
            top=adversary.top or None,
            seed=config.seed,
        )
        for name, shadow in shadows.items()
    }
    known = shadows["posterior_1"]
    sides = [largest_posterior(side) for side in (known.member, known.nonmember)]
    is_member = np.arange(sum(map(len, sides))) < len(sides[0])
    return Adversaries(fitted, best_threshold(np.concatenate(sides), is_member))


def attack_posteriors(
    config: SisaPosterior,
    adversaries: Adversaries,
    posteriors: Posteriors,
    labels: np.ndarray,
    members: Int64[np.ndarray, "M"],
    nonmembers: Int64[np.ndarray, "n"],
) -> dict[str, dict[str, Any]]:
    """Every attack's block of `results.json`: these rows as members against those as non-members."""
    rows = np.concatenate([members, nonmembers])
    is_member = np.arange(len(rows)) < len(members)
    target = posteriors[rows]
    settings = config.evaluation
    how = {
        "fpr": settings.fpr,
        "level": settings.interval_level,
        "samples": settings.bootstrap_samples,
        "seed": config.seed,
    }
    blocks = {}
    for name, classifier in adversaries.classifiers.items():
        found = classifier.attack(target)
        blocks[name] = evaluate_decisions(found.scores, found.predicted, is_member, **how)
    surest = largest_posterior(target)
    blocks["posterior_3"] = evaluate_decisions(surest, surest > adversaries.threshold, is_member, **how)
    # The true class's posterior orders examples as the negated cross-entropy does, and is finite for a vote too.
    true_class = target[np.arange(len(rows)), labels[rows]].astype(np.float64)
    blocks["loss_threshold"] = evaluate_scores(true_class, is_member, **how)
    return blocks


def other_shadow(config: SisaPosterior) -> Shadow | None:
    """Adversary 2's: a model of another data set, trained on half of its training images; None where there is none."""
    source = config.adversary.other_source
    if not source:
        return None
    # Constants of normalisation are the task's own; one value fits any number of channels.
    data = DataConfig(source=source, image_size=config.data.image_size)
    dataset = read_data(data, config.seed)
    if len(dataset.y_train) < 4:
        raise InputError(
            f"adversary.other_source {source!r} has {len(dataset.y_train)} training images, but expected at least 4, "
            "half of which train the shadow model; name another data set."
        )
    order = host_stream(config.seed, "adversary 2's shadow").permutation(len(dataset.y_train))
    inside, outside = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    lowering = choose_lowering(
        config.model.convolution,
        jax.default_backend(),
        width=config.model.width,
        image_size=max(dataset.image_shape[:2]),
        dtype=config.model.compute_dtype,
    )
    model, query_model = build_models(config.model, dataset, lowering)
    recipe = Recipe.of(model, data, config.train)
    targets = label_targets(dataset.y_train, dataset.num_classes, config.train.label_smoothing)
    trainer = ParallelTrainer(
        recipe,
        Examples(dataset.x_train, targets, np.ones(len(targets), np.float32)),
        Placement("one", 1, 1),
        batch_size=config.train.batch_size,
        chunk_steps=config.loop.chunk_steps,
    )
    run = TrainingRun("shadow_of_another_data_set", config.seed, inside, config.train, recipe)
    trained = trainer.train([run])
    if trained.diverged_step[0] >= 0:
        raise InputError(
            f"The shadow model on {source!r} diverged at step {trained.diverged_step[0]}, but expected one that "
            "trains by the same settings; name another data set, or lower train.learning_rate."
        )
    query = make_query(query_model, data.mean, data.std, config.evaluation.query_batch)
    logits = query(trained.of(0), dataset.x_train)
    posteriors = np.asarray(jax.nn.softmax(logits, axis=-1))
    return Shadow(posteriors[inside], posteriors[outside])
