"""How models stand up to attacks: robust accuracy, and how far adversarial examples carry over."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int, Shaped

from mu_jax.adversarial.examples import AdversarialExamples
from mu_jax.adversarial.pgd import pgd
from mu_jax.adversarial.pixels import PixelModel, check_images, predict
from mu_jax.config import InputError

PyTree = Any


def robust_accuracy(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, "..."],
    *,
    norm: str,
    epsilon: float,
    **settings: Any,
) -> float:
    """The share of all images that are classified rightly and stay so under PGD at `epsilon`.

    `settings` are those of `pgd` (steps 50, step ε/10, no random start). Every iterate counts, not the last alone.
    """
    found = pgd(attacked, variables, images, labels, norm=norm, epsilon=epsilon, **settings)
    return float(np.mean(~found.flipped))


class Transfer(NamedTuple):
    """What another model says of adversarial examples, over those that both models had right to begin with."""

    examples: int
    """that are right on both models and flip the one they were made on"""
    misclassified: float
    """share of them that the other model gives another label than the true one (LOTOS's rate)"""
    same_label: float
    """share of them that it gives the very label they were made with (the transfer that AMUN's bound wants)"""


def transfer_rate(
    found: AdversarialExamples,
    images: Shaped[Array | np.ndarray, "..."],
    other: PixelModel,
    other_variables: PyTree,
    *,
    batch_size: int = 128,
) -> Transfer:
    """How an untargeted attack's examples, found from `images` on one model, fare on the other.

    InputError for a targeted attack, for other images than those attacked (by number and size), and where no example
    is right on both models and flips.
    """
    images = check_images(images)
    if found.targeted:
        raise InputError(
            "The examples are of a targeted attack, but the rate needs their true labels; attack without targets."
        )
    if images.shape != found.images.shape:
        raise InputError(
            f"The images have shape {images.shape} and the adversarial ones {found.images.shape}, but expected the "
            "images that were attacked; pass those."
        )
    right = predict(other, other_variables, images, batch_size=batch_size) == found.labels
    rows = np.flatnonzero(right & found.flipped & ~found.already)
    if len(rows) == 0:
        raise InputError(
            f"None of the {len(images)} examples is right on both models and flips the first, so there is no rate; "
            "attack more examples, or at a larger ε."
        )
    says = predict(other, other_variables, found.images[rows], batch_size=batch_size)
    return Transfer(
        examples=len(rows),
        misclassified=float(np.mean(says != found.labels[rows])),
        same_label=float(np.mean(says == found.predicted[rows])),
    )
