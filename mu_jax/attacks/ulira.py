"""U-LiRA: what a model says of a forgotten input, against unlearned models and models that never saw it.

Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy", 2024. As in LiRA
(`mu_jax.attacks.lira`), φ of each input is taken as Gaussian: over models that were trained on it and unlearned it by
the same method with the same settings, and as another one over models that were never trained on it. Scores are log
N(φ; unlearned) − log N(φ; held out) in nats: higher means more likely that the input was forgotten than that it was
never there. An ideal method gives an AUC of ½.

φ is the margin of the true label, as published. Any other number of which a model says one for each input will do: of
a forgotten class, for instance, the margin of the class nearest to it.

A model under test is never among its references, and no Gaussian may rest on more models where it was unlearned than
where it was not: scores that know nothing would tell the two by counting (`mu_jax.attacks.leave_one_out`, `balance`).
So with it leaves one model of the other side: its neighbour (0 and 1, 2 and 3, …) where that one is on the other
side, else the next, in cyclic order, that is. Models need originals of their own: two that were unlearned from one
original resemble each other, and the one says what the other is.
"""

import dataclasses
import itertools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int
from scipy.stats import rankdata

from mu_jax.attacks.lira_statistics import require_finite
from mu_jax.attacks.signals import logit_margin
from mu_jax.attacks.ulira_references import (
    TAKEN_OUT,
    check_variance,
    chosen,
    gaussian_scores,
    held_out_models,
    neighbours_first,
    require_models,
    two_sides,
)
from mu_jax.config import InputError

NEVER, KEPT, FORGOTTEN = 0, 1, 2
"""What a model has to do with an input: never trained on it; trained on it; trained on it, then made to forget it."""


@dataclasses.dataclass(frozen=True)
class UliraScores:
    """Scores of K models under test for N candidates."""

    scores: Float64[np.ndarray, "K N"]
    """0 where the model was trained on the candidate and kept it."""
    is_forgotten: Bool[np.ndarray, "K N"]
    """The truth: forgotten (members), or never trained on."""
    is_scored: Bool[np.ndarray, "K N"]
    """False where it was kept: such pairs belong to neither side."""
    held_out: str
    """Whether the models without the input had unlearned others (`unlearned`) or nothing (`retrained`)."""
    references: tuple[int, int]
    """Models behind each Gaussian: unlearned, held out."""

    def of(self, model: int) -> tuple[Float64[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """One model's scores of what it forgot or never saw, and which of the two it is."""
        scored = self.is_scored[model]
        return self.scores[model, scored], self.is_forgotten[model, scored]


def class_phi(logits: Float[Array | np.ndarray, "*batch C"], forget_class: int) -> Float[Array, "*batch"]:
    """φ = z_f − logsumexp over j ≠ f of z_j, the margin of the forgotten class; float32, in nats.

    Unlearned and retrained models give f hardly any probability, less than float32 can hold perhaps; φ is then far
    below zero and keeps its digits. InputError for a class that is no column of the logits.
    """
    shape = np.shape(logits)
    if not 0 <= forget_class < shape[-1]:
        raise InputError(
            f"forget_class is {forget_class}, but expected 0 to {shape[-1] - 1}, the columns of the logits; give the "
            "number of the class to forget."
        )
    return logit_margin(logits, jnp.full(shape[:-1], forget_class, jnp.int32))


def ulira_scores(
    target_phi: Float[Array | np.ndarray, "N"],
    unlearned_phi: Float[Array | np.ndarray, "K N"],
    held_out_phi: Float[Array | np.ndarray, "H N"],
    *,
    variance: Literal["per_example", "global"] = "per_example",
) -> Float64[np.ndarray, "N"]:
    """Scores of one model that is not among the references: K unlearned and H held-out ones, on the same N inputs.

    `variance` and the floor under σ are LiRA's (`lira_scores`): each input's own σ² with n − 1 in the denominator, or
    one σ a side, of which it finds the latter better below 64 models. InputError for fewer than two models a side, φ
    not finite in float32, shapes that do not fit, and a target that is one of its own references.
    """
    check_variance(variance)
    phi, unlearned = two_sides(unlearned_phi, held_out_phi)
    target = np.asarray(target_phi)
    if target.shape != phi.shape[1:]:
        raise InputError(
            f"target_phi has shape {target.shape}, but expected {phi.shape[1:]}, one value for each input of the "
            "references; ask all models about the same inputs."
        )
    require_finite("target_phi", target[None])
    require_models({"unlearned": int(unlearned.sum()), "held-out": int(np.sum(~unlearned))}, variance, "")
    alike = np.flatnonzero((phi == target).all(axis=1))
    if alike.size:
        raise InputError(
            f"target_phi equals that of {alike.size} references in every value, but expected no target among its own "
            "references; drop them, or use leave_one_out_ulira_class."
        )
    side = np.repeat(unlearned[:, None], target.size, axis=1)
    return gaussian_scores(target[None], phi, [(side, ~side)], variance)[0]


def leave_one_out_ulira_class(
    unlearned_phi: Float[Array | np.ndarray, "K N"],
    held_out_phi: Float[Array | np.ndarray, "H N"],
    *,
    variance: Literal["per_example", "global"] = "per_example",
) -> tuple[Float64[np.ndarray, "K N"], Float64[np.ndarray, "H N"]]:
    """Scores of each unlearned and each held-out model for the N inputs of a forgotten class: the class form.

    Both sides are asked about the same inputs; whether held-out models were retrained from scratch or unlearned of
    another class is the caller's to say. Each model in turn is the one under test, and unlearned model k leaves with
    held-out model k, so the Gaussians always rest on K − 1 and H − 1 models. InputError as for `ulira_scores`, with
    three models a side.

    Judge the scores by `paired_scores`. What a model says of one input of the class it says of all of them, and each
    model left another Gaussian: so the AUC of all scores together is below ½ where there is nothing to tell, 0.44 at
    K = H = 8 where all inputs of a model move together (½ where each moves by itself).
    """
    check_variance(variance)
    phi, unlearned = two_sides(unlearned_phi, held_out_phi)
    models, others = len(unlearned_phi), len(held_out_phi)
    require_models({"unlearned": models - 1, "held-out": others - 1}, variance, TAKEN_OUT)
    # Pairs become neighbours: unlearned 0, held out 0, unlearned 1, …
    order = np.argsort(np.concatenate([2 * np.arange(models), 2 * np.arange(others) + 1]))
    side = np.repeat(unlearned[order, None], phi.shape[1], axis=1)
    turns = [neighbours_first(place, order.size) for place in range(order.size)]
    sides = ((chosen(side, turn, models - 1), chosen(~side, turn, others - 1)) for turn in turns)
    phi, scores = phi[order], np.empty(phi.shape)
    scores[order] = gaussian_scores(phi, phi, sides, variance)
    return scores[:models], scores[models:]


def split_ulira_class(
    unlearned_phi: Float[Array | np.ndarray, "K N"],
    held_out_phi: Float[Array | np.ndarray, "H N"],
    *,
    references: int,
    variance: Literal["per_example", "global"] = "per_example",
) -> tuple[Float64[np.ndarray, "tested N"], Float64[np.ndarray, "others N"]]:
    """The class form with the first `references` models of either side as references, and the others under test.

    Fewer models stand behind each Gaussian, but those under test have nothing to do with each other, as an interval
    over them takes for granted (`paired_scores` has figures). InputError as for `ulira_scores`, and where none is left
    to test.
    """
    check_variance(variance)
    phi, unlearned = two_sides(unlearned_phi, held_out_phi)
    models, others = len(unlearned_phi), len(held_out_phi)
    if not 2 <= references < min(models, others):
        raise InputError(
            f"references is {references} of {models} unlearned and {others} held-out models, but expected 2 at least, "
            "and fewer than there are on either side, so that some are left to test; half of them is a good choice."
        )
    require_models({"unlearned": references, "held-out": references}, variance, "")
    place = np.concatenate([np.arange(models), np.arange(others)])
    kept = np.repeat((place < references)[:, None], phi.shape[1], axis=1)
    sides = kept & unlearned[:, None], kept & ~unlearned[:, None]
    tested = place >= references
    scores = gaussian_scores(phi[tested], phi, itertools.repeat(sides, int(tested.sum())), variance)
    return scores[: models - references], scores[models - references :]


def paired_scores(
    scores_unlearned: Float[Array | np.ndarray, "K N"], scores_held_out: Float[Array | np.ndarray, "K N"]
) -> tuple[Float64[np.ndarray, "K 2*N"], Bool[np.ndarray, "K 2*N"]]:
    """The class form as K targets with both sides in each, as `mu_jax.evaluation.many_targets` wants them.

    Row k holds unlearned model k's N scores (members) and then held-out model k's, as ranks among these 2N, from 0 to
    1, ties sharing theirs. So the attacker is shown a pair, one model unlearned and one not, and says which is which.
    The AUC of all rows together is then exactly the mean of the pairs' own AUCs, and ½ on average where the two
    models of a pair are alike, however much a model's answers depend on each other: the pair shares its references
    and neither model is among them. InputError for shapes that differ.

    How often `evaluate_targets`' 95% interval of the AUC holds ½ where there is nothing to tell, and in parentheses
    how often it lies above ½ where φ differs by 1.5 standard deviations; 50 inputs, 400 and 100 repetitions. "Alike"
    is the correlation of a model's answers to two inputs. Left out one at a time, pairs have references in common, and
    intervals are too short; the split form's references are half of the models. At 4 a side, alike, both fail.

        alike                             0             0.5           0.9           1
        8 a side, one left out at a time  90% (100%)    81% (89%)     84% (39%)     96% (27%)
        8 a side, split                   100% (100%)   93% (58%)     97% (34%)     85% (45%)
        16 a side, one left out           95% (100%)    84% (98%)     84% (94%)     93% (83%)
        16 a side, split                  99% (100%)    96% (86%)     98% (45%)     99% (28%)

    >>> paired_scores(np.array([[3.0, 5.0]]), np.array([[1.0, 4.0]]))[0]
    array([[0.375, 0.875, 0.125, 0.625]])
    """
    first, second = np.asarray(scores_unlearned, np.float64), np.asarray(scores_held_out, np.float64)
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise InputError(
            f"scores of unlearned models have shape {first.shape} and of held-out ones {second.shape}, but expected "
            "[models, inputs] and the same for both, since they make pairs; leave out models that have no partner."
        )
    scores = np.concatenate([first, second], axis=1)
    ranks = (rankdata(scores, axis=1) - 0.5) / scores.shape[1]
    return ranks, np.repeat(np.arange(scores.shape[1])[None] < first.shape[1], len(ranks), axis=0)


def leave_one_out_ulira(
    phi: Float[Array | np.ndarray, "K N"],
    state: Int[Array | np.ndarray, "K N"],
    *,
    held_out: Literal["unlearned", "retrained"] = "unlearned",
    held_out_phi: Float[Array | np.ndarray, "H N"] | None = None,
    held_out_trained: Bool[Array | np.ndarray, "H N"] | None = None,
    variance: Literal["per_example", "global"] = "per_example",
) -> UliraScores:
    """Scores of each of K unlearned models for what it forgot and what it never saw: the random-example form.

    `state[k, x]` says what model k has to do with candidate x: 0 (`NEVER`), 1 (`KEPT`) or 2 (`FORGOTTEN`). For each
    model in turn, a candidate that it forgot or never saw is judged by the other models that forgot it and by models
    that never saw it. So members and non-members come from one pool of candidates, out of which each
    model was dealt its own at random, as it should be (RULI: one third in each state).

    `held_out` says who the latter models are: `"unlearned"`, those of the K in which x has state 0, which unlearned
    other candidates (RULI); or `"retrained"`, models with φ of their own, `held_out_phi`, that were trained on
    candidates as `held_out_trained` says and unlearned nothing. Then what unlearning does to everything is in one
    Gaussian alone, and a high score may say no more than that a model was unlearned.

    Every candidate is judged by equally many models on a side, the least that any has once the model under test and
    one of the other side are gone; of more, those first in the order of the module's text leave too. The time grows
    with K²·N. InputError as for `ulira_scores`, where some candidate has fewer than two models left on a side; for
    states other than 0, 1 and 2; for `held_out_phi` without "retrained" or the reverse.
    """
    check_variance(variance)
    z, states = np.asarray(phi), np.asarray(state)
    if z.ndim != 2 or states.shape != z.shape or not z.size or not np.issubdtype(states.dtype, np.integer):
        raise InputError(
            f"phi has shape {z.shape} and state {states.shape} of {states.dtype}, but expected [models, candidates] "
            "and an integer for each value of φ; slice both alike."
        )
    unknown = np.setdiff1d(states, (NEVER, KEPT, FORGOTTEN))
    if unknown.size:
        raise InputError(
            f"state holds {unknown[0]}, but expected 0 (never trained on), 1 (kept) or 2 (forgotten); say which "
            "of them each model and candidate is."
        )
    other_z, never = held_out_models(held_out, held_out_phi, held_out_trained, z, states == NEVER)
    require_finite("phi", z)
    forgotten = states == FORGOTTEN
    inside = int(forgotten.sum(axis=0).min()) - 1
    outside = int(never.sum(axis=0).min()) - (held_out == "unlearned")
    require_models({"unlearned": inside, "held-out": outside}, variance, TAKEN_OUT)
    everyone = z if other_z is z else np.concatenate([z, other_z])

    def references(target: int) -> tuple[Bool[np.ndarray, "L N"], Bool[np.ndarray, "L N"]]:
        order = neighbours_first(target, len(z))
        unlearned = chosen(forgotten, order, inside)
        if other_z is z:
            return unlearned, chosen(never, order, outside)
        held = chosen(never, np.arange(len(other_z)), outside)
        nobody = np.zeros_like(unlearned)
        return np.concatenate([unlearned, np.zeros_like(held)]), np.concatenate([nobody, held])

    scores, is_scored = gaussian_scores(z, everyone, map(references, range(len(z))), variance), states != KEPT
    return UliraScores(np.where(is_scored, scores, 0.0), forgotten, is_scored, held_out, (inside, outside))
