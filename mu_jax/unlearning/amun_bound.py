"""AMUN's bound on how far unlearning by adversarial neighbours ends from retraining, and the terms it is made of.

Ebrahimpour-Boroojeny et al., "Not All Wrong is Bad: Using Adversarial Examples for Unlearning", ICML 2025, Theorem 4.1.
θ_o are the original's parameters, θ_u those of a model retrained on D_R, θ' those of the unlearned one. With the losses
ℓ of N forgotten examples (x, y) and their neighbours (x', y') at distance δ,

    ‖θ' − θ_u‖² ≤ ‖θ_o − θ_u‖² + (2/β) Σ_i (L·δ_i − C_i),
    C_i = ℓ(f_o(x'), y) + ℓ(f_θ'(x'), y') − ℓ(f_u(x), y) − ℓ(f_u(x'), y').

The paper states it for N = 1, an L-Lipschitz f, a convex and β-smooth unnormalised risk, training losses near 0 and one
step of gradient descent of size 1/β. What holds, and what the proof needs:

1. The step is on R_S(θ), the sum of ℓ over a set S: D_A (each (x', y') once), with D_F or without, and with D_R, a part
   Q of it, or without. So it holds for all four sets of AMUN, and for any N with sums over i.
2. R_S is convex and β-smooth, and the step is θ' = θ_o − ∇R_S(θ_o)/β with that same β. Then for any θ_u whatever
       ‖θ' − θ_u‖² ≤ ‖θ_o − θ_u‖² + (2/β) (R_S(θ_u) − R_S(θ')),
   by the descent lemma R_S(θ') ≤ R_S(θ_o) − ‖∇R_S(θ_o)‖²/(2β) and R_S(θ_o) ≤ R_S(θ_u) + ⟨∇R_S(θ_o), θ_o − θ_u⟩.
3. L bounds the growth of the *loss*: ℓ(f_o(x'), y) ≤ ℓ(f_o(x), y) + L·δ. For each pair this is all of L that is used.
4. Losses are not negative. Dropping −R_Q(θ') and, with D_F in S, −ℓ(f_θ'(x), y), and adding 3 for each i, gives the
   inequality with T = R_Q(θ_u) + Σ_i ℓ(f_o(x_i), y_i) added to the sum; T = 0 is the paper's "near-0 training loss".

Two traps, each with a test where the inequality fails. With f read as the logits, in ℓ2, it does not hold as written:
their L is too small, because cross-entropy is √2-Lipschitz in them; 3 needs up to √2 times as much (for logits Wx + b:
max_jk ‖w_j − w_k‖ ≤ √2‖W‖). And an example that the original gets wrong, for which AMUN takes x' = x and δ = 0, has a
training loss that is not near 0: there T is needed.

What it says of δ is little: L·δ − ℓ(f_o(x'), y) + ℓ(f_o(x), y) is never negative by 3, so the inequality holds, and is
tighter, with L, δ and both of f_o's losses left out. What remains are the losses of θ_u and θ' on the pairs.
It is also loose: on trained logistic regressions (the test's 20, four sets each) the step came nearer to θ_u every
time, while the right-hand side never fell below ‖θ_o − θ_u‖².

A mean over n = |S| examples in place of the sum divides β, and the sum in the bound, by n. Weight decay, momentum and
further steps are not covered. For a deep model nothing is proved: its terms are to be looked at.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Array, Float, Int, Num

from mu_jax.config import InputError


@dataclasses.dataclass(frozen=True)
class BoundTerms:
    """What N forgotten examples and their neighbours add to the bound; float64, losses in nats."""

    original_loss: Float[np.ndarray, "N"]
    """ℓ(f_o(x), y): the training loss that the theorem takes to be near 0"""
    original_adversarial_loss: Float[np.ndarray, "N"]
    """ℓ(f_o(x'), y), of the *true* class"""
    unlearned_adversarial_loss: Float[np.ndarray, "N"]
    """ℓ(f_θ'(x'), y')"""
    retrained_loss: Float[np.ndarray, "N"]
    """ℓ(f_u(x), y)"""
    retrained_adversarial_loss: Float[np.ndarray, "N"]
    """ℓ(f_u(x'), y')"""
    c: Float[np.ndarray, "N"]
    """C_i: the second and third less the fourth and fifth; large is good"""
    delta: Float[np.ndarray, "N"]
    """‖x' − x‖, in the norm and units that L is for"""
    transfer: float
    """share of neighbours that the retrained model gives y'"""

    @property
    def mean_delta(self) -> float:
        """The mean distance to the neighbours."""
        return float(self.delta.mean())

    @property
    def least_lipschitz(self) -> float:
        """The smallest L that these pairs allow, max_i (ℓ(f_o(x'), y) − ℓ(f_o(x), y)) / δ_i, and at least 0.

        The proof asks no more of L, so this one serves where a model's constant is not known. Pairs with δ = 0 are the
        same image twice and say nothing.
        """
        apart = self.delta > 0
        growth = self.original_adversarial_loss[apart] - self.original_loss[apart]
        return float(np.max(growth / self.delta[apart], initial=0.0))

    def summary(self) -> dict[str, float]:
        """The number of examples, the means of all terms, the transfer rate and the least L, for `results.json`."""
        losses = {
            name: float(getattr(self, name).mean())
            for name in (
                "original_loss",
                "original_adversarial_loss",
                "unlearned_adversarial_loss",
                "retrained_loss",
                "retrained_adversarial_loss",
            )
        }
        return {
            "examples": float(self.c.size),
            "delta": self.mean_delta,
            "c": float(self.c.mean()),
            "transfer": self.transfer,
            "least_lipschitz": self.least_lipschitz,
            **losses,
        }


def bound_terms(
    *,
    original_logits: Num[Array | np.ndarray, "N C"],
    original_adversarial_logits: Num[Array | np.ndarray, "N C"],
    unlearned_adversarial_logits: Num[Array | np.ndarray, "N C"],
    retrained_logits: Num[Array | np.ndarray, "N C"],
    retrained_adversarial_logits: Num[Array | np.ndarray, "N C"],
    labels: Int[Array | np.ndarray, "N"],
    adversarial_labels: Int[Array | np.ndarray, "N"],
    delta: Num[Array | np.ndarray, "N"],
) -> BoundTerms:
    """The terms of Theorem 4.1, from three models' logits on the forgotten images x and their neighbours x'.

    `labels` are the true classes y, `adversarial_labels` the classes y' that the neighbours are trained on, `delta` the
    distances ‖x' − x‖ (the stored set's `distance`). Cross-entropy −log p_y = log(1 + e^−φ), φ the margin of y, keeps
    its digits where p_y rounds to 0 or 1. InputError for shapes that do not fit, no example, labels out of range,
    logits that are not finite, or distances that are negative or not finite.
    """
    logits = {
        "original_logits": original_logits,
        "original_adversarial_logits": original_adversarial_logits,
        "unlearned_adversarial_logits": unlearned_adversarial_logits,
        "retrained_logits": retrained_logits,
        "retrained_adversarial_logits": retrained_adversarial_logits,
    }
    shape = np.shape(original_logits)
    for name, values in logits.items():
        _check_logits(name, np.asarray(values), shape)
    y = _checked_labels("labels", labels, shape)
    y_adversarial = _checked_labels("adversarial_labels", adversarial_labels, shape)
    distance = _checked_delta(delta, shape[0])
    original = _cross_entropy(original_adversarial_logits, y)
    unlearned = _cross_entropy(unlearned_adversarial_logits, y_adversarial)
    retrained = _cross_entropy(retrained_logits, y)
    retrained_adversarial = _cross_entropy(retrained_adversarial_logits, y_adversarial)
    says = np.argmax(np.asarray(retrained_adversarial_logits), axis=1)
    return BoundTerms(
        original_loss=_cross_entropy(original_logits, y),
        original_adversarial_loss=original,
        unlearned_adversarial_loss=unlearned,
        retrained_loss=retrained,
        retrained_adversarial_loss=retrained_adversarial,
        c=original + unlearned - retrained - retrained_adversarial,
        delta=distance,
        transfer=float(np.mean(says == y_adversarial)),
    )


def bound(
    terms: BoundTerms,
    *,
    squared_distance: float,
    beta: float,
    lipschitz: float,
    training_loss: float = 0.0,
) -> float:
    """The right-hand side ‖θ_o − θ_u‖² + (2/β)(Σ_i (L·δ_i − C_i) + T), which may be negative where no such step exists.

    `squared_distance` is ‖θ_o − θ_u‖², `beta` the smoothness of the *summed* risk of the set that the step is on,
    `lipschitz` that of the original's *loss* in x (`terms.least_lipschitz` is the smallest that serves), and
    `training_loss` T: the retrained model's summed loss on the retained examples in the set, plus
    `terms.original_loss.sum()`. With it the inequality is exact; 0 is the paper's. The module's docstring has the
    assumptions and the proof. InputError unless `beta` is positive, the others not negative, and all finite.
    """
    if not 0 < beta < math.inf:
        raise InputError(
            f"beta is {beta}, but expected a positive finite number; give the largest curvature of the summed risk."
        )
    others = {
        "squared_distance": squared_distance,
        "lipschitz": lipschitz,
        "training_loss": training_loss,
    }
    for name, value in others.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} is {value}, but expected a finite number of at least 0; correct it.")
    total = float(np.sum(lipschitz * terms.delta - terms.c)) + training_loss
    return squared_distance + 2 / beta * total


# `attacks.signals.cross_entropy` was not taken: that package comes after this one, and it is in float32.
def _cross_entropy(
    logits: Num[Array | np.ndarray, "N C"], labels: Int[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    z = np.asarray(logits, np.float64)
    true = np.arange(z.shape[1]) == labels[:, None]
    others = np.logaddexp.reduce(np.where(true, -np.inf, z), axis=1)
    return np.logaddexp(0.0, others - z[true])


def _check_logits(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2 or values.shape != shape:
        raise InputError(
            f"{name} has shape {values.shape} and original_logits {shape}, but expected [N, C] for both, of one "
            "example and two classes at least; give all models' logits for the same images."
        )
    if not np.all(np.isfinite(values)):
        raise InputError(
            f"{name} has entries that are not finite, but expected logits; find the model that diverged."
        )


def _checked_labels(
    name: str, labels: Int[Array | np.ndarray, "N"], shape: tuple[int, ...]
) -> Int[np.ndarray, "N"]:
    values = np.asarray(labels)
    if values.shape != shape[:1] or values.dtype.kind not in "iu":
        raise InputError(
            f"{name} has shape {values.shape} and type {values.dtype}, but expected {shape[0]} whole numbers; give one "
            "for each row of logits."
        )
    if values.min() < 0 or values.max() >= shape[1]:
        raise InputError(
            f"{name} runs from {values.min()} to {values.max()}, but expected 0 to {shape[1] - 1}; give classes that "
            "the logits have a column for."
        )
    return values


def _checked_delta(delta: Num[Array | np.ndarray, "N"], number: int) -> Float[np.ndarray, "N"]:
    values = np.array(delta, np.float64)
    if values.shape != (number,):
        raise InputError(
            f"delta has shape {values.shape}, but expected {number} distances; give one for each row of logits."
        )
    if not np.all((values >= 0) & np.isfinite(values)):
        raise InputError(
            "delta has entries that are negative or not finite, but expected distances; give ‖x_adv − x‖."
        )
    return values
