"""AMUN: the examples to forget are drowned out by their adversarial neighbours, labelled as the original sees them.

Ebrahimpour-Boroojeny, Sundaram and Chandrasekaran, "Not All Wrong is Bad: Using Adversarial Examples for Unlearning",
ICML 2025. The model believes the neighbours' wrong labels already, so fine-tuning on them hardly moves it elsewhere,
and lowers its confidence just around the examples to forget.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, UInt8

from mu_jax.adversarial.pixels import to_bytes, to_pixels
from mu_jax.adversarial.stored import StoredAdversarialSet, variables_sha256
from mu_jax.config import InputError
from mu_jax.config.methods import AmunConfig
from mu_jax.data.random_streams import host_stream
from mu_jax.training.chunk import label_targets
from mu_jax.unlearning.l1_sparse import l1_penalty, l1_strength
from mu_jax.unlearning.plan import Plan, Task
from mu_jax.unlearning.salun import with_saliency_mask


def amun(
    task: Task,
    settings: AmunConfig,
    neighbours: StoredAdversarialSet,
    name: str = "amun",
    *,
    transferred: bool = False,
) -> Plan:
    """CE on D_R ∪ D_F (true labels) ∪ D_A (the original's labels), shuffled together, from the original weights.

    `neighbours` are those of (some of) the task's examples to forget; one that has none is visited as itself alone. A
    set made on other weights than the original's is refused unless `transferred`. D_A is neither cropped nor mirrored,
    whatever the others are, unless `augment_neighbours`. What differs from public code: neighbours are 8-bit images;
    the mask of `saliency_share` holds the whole update back, not the gradient alone; random labels and directions are
    drawn once, by the seed and the name. Label smoothing is of the data's own labels alone. The images lie twice
    on the device, once with the neighbours behind them.
    """
    task.require(name, retain=settings.retain, original=True)
    _check(task, neighbours, name, transferred)
    examples = task.examples(settings.optimization.label_smoothing)
    images, labels = besides(task, settings.neighbours, neighbours, name)
    number, more = len(task.labels), len(labels)
    targets = jnp.asarray(label_targets(labels, task.num_classes))
    examples = examples.replace(
        images=jnp.concatenate([examples.images, jnp.asarray(images)]),
        targets=jnp.concatenate([examples.targets, targets]),
        weights=jnp.concatenate([examples.weights, jnp.ones(more, jnp.float32)]),
        augmented=jnp.arange(number + more) < (number + more if settings.augment_neighbours else number),
    )
    parts = [task.retain] * settings.retain + [task.forget] * settings.forget
    plan = Plan(
        name=name,
        start="original",
        examples=examples,
        index=np.concatenate([*parts, number + np.arange(more)]),
        optimization=settings.optimization,
        penalty=l1_penalty if settings.l1 else None,
        penalty_strength=functools.partial(l1_strength, alpha=settings.l1, decay=False)
        if settings.l1
        else None,
    )
    if settings.saliency_share == 1:
        return plan
    return with_saliency_mask(plan, task, settings.saliency_share)


def besides(
    task: Task, kind: str, neighbours: StoredAdversarialSet, name: str
) -> tuple[UInt8[np.ndarray, "M H W D"], Int[np.ndarray, "M"]]:
    """What is visited besides the data, and its labels: D_A, or what an ablation of the paper has in its place."""
    rows = neighbours.index
    itself = np.asarray(task.images[jnp.asarray(rows)])
    labels = {
        "adversarial": neighbours.adversarial_labels,
        "random_shift": neighbours.adversarial_labels,
        "original_adversarial": neighbours.adversarial_labels,
        "original": task.labels[rows],
    }
    if kind in labels:
        chosen = labels[kind]
    else:
        stream = host_stream(task.seed, f"third labels of {name}")
        chosen = draw_third_labels(task.labels[rows], neighbours.adversarial_labels, task.num_classes, stream)
    if kind in ("adversarial", "random_label"):
        return neighbours.images, chosen
    if kind == "random_shift":
        stream = host_stream(task.seed, f"directions of {name}")
        return to_bytes(
            shift_at_random(to_pixels(itself), neighbours.distance, neighbours.norm, stream)
        ), chosen
    return itself, chosen


def shift_at_random(
    pixels: Float32[np.ndarray, "M H W D"],
    distance: Float32[np.ndarray, "M"],
    norm: str,
    generator: np.random.Generator,
) -> Float32[np.ndarray, "M H W D"]:
    """x + δ·u, clipped to [0, 1], u uniform on the unit sphere of ℓ2, or of corners ±1 in ℓ∞, for each x anew.

    As 8-bit images such points lose much of a δ that is far below half a grey level a pixel (at 32×32×3: 0.04 keeps
    44% of itself, 0.08 and more keep all).
    """
    direction = generator.normal(size=pixels.shape)
    if norm == "linf":
        direction = np.sign(direction)
    else:
        length = np.sqrt(np.square(direction).sum(axis=(1, 2, 3), keepdims=True))
        direction /= np.maximum(length, np.finfo(np.float64).tiny)
    return np.clip(pixels + distance[:, None, None, None] * direction, 0, 1).astype(np.float32)


def draw_third_labels(
    labels: Int[np.ndarray, "M"],
    adversarial: Int[np.ndarray, "M"],
    num_classes: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, "M"]:
    """For each a class drawn evenly from those that are neither its label nor its neighbour's."""
    if num_classes < 3:
        raise InputError(
            f"There are {num_classes} classes, but a label besides the true and the adversarial one needs at least 3; "
            "choose other neighbours."
        )
    # The d-th class of those left: one is skipped at the smaller of the two, and another at the larger.
    low, high = np.minimum(labels, adversarial), np.maximum(labels, adversarial)
    drawn = generator.integers(0, num_classes - 1 - (low != high), labels.shape)
    drawn = drawn + (drawn >= low)
    return drawn + ((low != high) & (drawn >= high))


def _check(task: Task, neighbours: StoredAdversarialSet, name: str, transferred: bool) -> None:
    strangers = np.setdiff1d(neighbours.index, task.forget)
    if len(strangers):
        raise InputError(
            f"The neighbours of {name!r} hold {len(strangers)} examples that are not to be forgotten, the first of "
            f"them {strangers[0]}; make them of this forget set."
        )
    if neighbours.images.dtype != np.uint8 or neighbours.images.shape[1:] != task.images.shape[1:]:
        raise InputError(
            f"The neighbours of {name!r} are {neighbours.images.dtype} of shape {neighbours.images.shape[1:]}, but "
            f"expected uint8 of shape {task.images.shape[1:]}; make them of these images, with dtype uint8."
        )
    if not np.array_equal(neighbours.labels, task.labels[neighbours.index]):
        raise InputError(
            f"The neighbours of {name!r} were made with other labels than the task has; make them of this data."
        )
    if not transferred and neighbours.model_sha256 != variables_sha256(task.original):
        raise InputError(
            f"The neighbours of {name!r} were made on a model with SHA-256 {neighbours.model_sha256[:12]}…, not on "
            "this one; make them anew, or ask for the transferred variant."
        )
