"""PGD, and the search for the smallest ε at which it succeeds: AMUN's way to adversarial neighbours.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018. The search is Algorithm 1 of
Ebrahimpour-Boroojeny, Sundaram and Chandrasekaran, "Not All Wrong is Bad: Using Adversarial Examples for Unlearning",
2025: rounds of PGD, ε doubled after each, until the label flips; as in its code a round goes on from the last iterate.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Int, Shaped

from mu_jax.adversarial.attack import NORMS, Settings, make_advance
from mu_jax.adversarial.compaction import Batch
from mu_jax.adversarial.examples import AdversarialExamples, NothingFlipsError
from mu_jax.adversarial.pixels import PixelModel, check_images, check_labels
from mu_jax.adversarial.sharing import on_all_devices, slots_for
from mu_jax.config import InputError

PyTree = Any


def pgd_l2(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, "..."],
    *,
    epsilon: float,
    **settings: Any,
) -> AdversarialExamples:
    """`pgd` in the ℓ2 norm; `max_epsilon` makes it the doubling search that starts at `epsilon`."""
    return pgd(attacked, variables, images, labels, norm="l2", epsilon=epsilon, **settings)


def pgd_linf(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, "..."],
    *,
    epsilon: float,
    **settings: Any,
) -> AdversarialExamples:
    """`pgd` in the ℓ∞ norm; `max_epsilon` makes it the doubling search that starts at `epsilon`."""
    return pgd(attacked, variables, images, labels, norm="linf", epsilon=epsilon, **settings)


def fgsm(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, "..."],
    *,
    epsilon: float,
    **settings: Any,
) -> AdversarialExamples:
    """x + ε·sign(∇CE), clamped: one ℓ∞ step (Goodfellow, Shlens and Szegedy, 2015), from the image at each ε."""
    fixed = {"norm": "linf", "steps": 1, "step_ratio": 1.0, "restart": True}
    return pgd(attacked, variables, images, labels, epsilon=epsilon, **fixed, **settings)


def pgd(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, "..."],
    *,
    norm: str,
    epsilon: float,
    max_epsilon: float | None = None,
    steps: int = 50,
    step_ratio: float = 0.1,
    targeted: bool = False,
    restart: bool = False,
    quantize: bool = False,
    batch_size: int = 128,
    chunk_steps: int = 50,
    on_progress: Callable[[int, int], None] = lambda finished, number: None,
) -> AdversarialExamples:
    """Attack N images, uint8 or floats in [0, 1], each until its first iterate that flips.

    A round is `steps` steps of length `step_ratio`·ε along the normalised gradient, in the ball of radius ε and in
    [0, 1]; there is no random start. ε begins at `epsilon` and doubles after a round without success while it stays
    within `max_epsilon` (None: one round only). `labels` are the true classes, which are to be left, or with `targeted`
    those to be reached. `restart` begins each round at the image itself. `quantize` lets the model see the nearest
    8-bit image, and returns that one, so that what flips still flips when it is stored as bytes; its distance may then
    exceed ε by the rounding.

    `batch_size` examples are under attack at once, shared out over all of this process's devices (on accelerators: so
    many on each). Those that finish leave the batch between chunks of at most `chunk_steps` steps and others take their
    places. On accelerators the last few go on in a batch of an eighth, and an example's result depends on its batch and
    companions by no more than the rounding of the model's sums; on CPUs it depends on neither (`sharing`).
    `on_progress(finished, number)` is called after each chunk. InputError for bad arrays or settings, and for a model
    whose logits are not finite.
    """
    max_epsilon = epsilon if max_epsilon is None else max_epsilon
    _check_settings(norm, epsilon, max_epsilon, steps, step_ratio, batch_size, chunk_steps)
    images = check_images(images)
    labels = check_labels(attacked, variables, images, labels)
    settings = Settings(
        step_ratio=np.float32(step_ratio),
        steps=np.int32(steps),
        max_epsilon=np.float32(max_epsilon),
        targeted=np.bool_(targeted),
        restart=np.bool_(restart),
        quantize=np.bool_(quantize),
    )
    advance = make_advance(attacked, norm)
    variables = on_all_devices(variables)
    batch = Batch(images, labels, np.float32(epsilon), slots_for(batch_size), norm, quantize)
    while batch.fill():
        batch.take(advance(variables, batch.slots, settings, batch.steps(chunk_steps), batch.least()))
        on_progress(batch.finished, len(images))
    return AdversarialExamples(
        norm=norm, max_epsilon=float(max_epsilon), targeted=targeted, labels=labels, **batch.found
    )


def minimal_epsilon(
    attacked: PixelModel,
    variables: PyTree,
    images: Shaped[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, "..."],
    *,
    norm: str = "l2",
    max_epsilon: float | None = None,
    smallest: float = 0.01,
    probe: int = 100,
    share: float = 0.05,
    seed: int = 0,
    **settings: Any,
) -> AdversarialExamples:
    """The doubling search, its first ε found by a probe of some examples; `settings` are those of `pgd`.

    The probe searches from `smallest` on, for `probe` examples drawn by the seed. The first ε is then the smallest of
    the ladder smallest·2^k by which `share` of them have flipped (those misclassified from the start do not count):
    with 0.05, fewer than one in twenty are given an ε that is not their smallest within a factor of two. A larger share
    saves rounds and makes coarser steps. `max_epsilon` None is the distance of the middle grey from a corner of the
    cube of images, ½√(H·W·D) in ℓ2 and ½ in ℓ∞. NothingFlipsError where the whole probe withstands `max_epsilon`.
    """
    images = check_images(images)
    labels = check_labels(attacked, variables, images, labels)
    if max_epsilon is None and norm in NORMS:
        max_epsilon = 0.5 * math.sqrt(images[0].size) if norm == "l2" else 0.5
    if probe < 1 or not 0 < share <= 1:
        raise InputError(
            f"probe is {probe} and share {share}, but expected at least 1 example and a share in (0, 1]; change them."
        )
    drawn = np.random.default_rng(seed).choice(len(images), min(probe, len(images)), replace=False)
    search = {"norm": norm, "max_epsilon": max_epsilon, **settings}
    quiet = {**search, "on_progress": lambda finished, number: None}
    tried = pgd(attacked, variables, images[drawn], labels[drawn], epsilon=smallest, **quiet)
    return pgd(attacked, variables, images, labels, epsilon=_first_epsilon(tried, smallest, share), **search)


def _first_epsilon(tried: AdversarialExamples, smallest: float, share: float) -> float:
    attacked = ~tried.already
    if not attacked.any():
        return smallest
    found = np.where(tried.flipped, tried.epsilon, np.inf)[attacked]
    if np.isinf(found).all():
        raise NothingFlipsError(
            f"None of the {len(found)} examples of the probe flips within max_epsilon = {tried.max_epsilon:g}; raise "
            "it."
        )
    reached = np.sort(found[np.isfinite(found)])
    return float(reached[min(math.ceil(share * len(found)), len(reached)) - 1])


def _check_settings(
    norm: str,
    epsilon: float,
    max_epsilon: float,
    steps: int,
    step_ratio: float,
    batch_size: int,
    chunk_steps: int,
) -> None:
    if norm not in NORMS:
        raise InputError(f"norm is {norm!r}, but expected one of {', '.join(NORMS)}; change it.")
    if not 0 < epsilon <= max_epsilon < math.inf:
        raise InputError(
            f"epsilon is {epsilon:g} and max_epsilon {max_epsilon:g}, but expected 0 < epsilon ≤ max_epsilon, both "
            "finite; change one of them."
        )
    for name, value in (("steps", steps), ("batch_size", batch_size), ("chunk_steps", chunk_steps)):
        if value < 1:
            raise InputError(f"{name} is {value}, but expected 1 or more; change it.")
    if not 0 < step_ratio < math.inf:
        raise InputError(f"step_ratio is {step_ratio:g}, but expected a positive share of ε; 0.1 is AMUN's.")
