"""Tilted ReWeighting: a forgotten class's inputs are learned as the classes that stay would share them out.

Ebrahimpour-Boroojeny, Wang and Sundaram, "On the Necessity of Output Distribution Reweighting for Effective Class
Unlearning", 2025, arXiv 2506.20893 (TRW; its first version, without the tilt, RWFT). What the paper leaves open is
settled here, and each choice is a setting.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from scipy.special import softmax

from mu_jax.config import InputError
from mu_jax.config.trw import TrwConfig, TrwHeadConfig
from mu_jax.models.head import head_of, with_head
from mu_jax.unlearning.class_similarity import ClassNumber, class_similarity, forgotten_classes
from mu_jax.unlearning.linear_filtration import fold_into_head
from mu_jax.unlearning.plan import Edit, Plan, Task


def tilted_target(
    logits: Float[Array | np.ndarray, "*batch C"],
    head_kernel: Float[Array | np.ndarray, "D C"],
    forget_class: ClassNumber,
    beta: float | int | Float[Array | np.ndarray, "*#batch"] = 10.0,
    *,
    temperature: float = 0.1,
    directions: int = 0,
    also_forgotten: Sequence[int] = (),
) -> Float32[Array, "*batch C"]:
    """q_k ∝ p_k·exp(β·s_k) for the classes k that stay, and 0 for f and all else that is forgotten; p = softmax(z).

    s is `class_similarity` of the head. Computed as a softmax of z + β·s over what stays: p itself, which may be all f
    in float32, is never needed. Sums to one within rounding, and is finite for finite logits and β. β is one number, or
    one for each example.

    >>> kernel = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    >>> np.asarray(tilted_target(np.array([9.0, 0.0, 0.0]), kernel, 0, 1.0, temperature=0.5)).round(3)
    array([0.   , 0.648, 0.352], dtype=float32)
    """
    if np.shape(logits)[-1] != head_kernel.shape[-1]:
        raise InputError(
            f"The logits have {np.shape(logits)[-1]} classes, but the head's kernel has {head_kernel.shape[-1]} "
            "columns; give the kernel [D, C] of the layer that made them."
        )
    similarity = class_similarity(
        head_kernel,
        forget_class,
        temperature=temperature,
        directions=directions,
        also_forgotten=also_forgotten,
    )
    gone = forgotten_classes(similarity.size, forget_class, also_forgotten)
    return tilt(logits, similarity, gone, beta)


def tilt(
    logits: Float[Array | np.ndarray, "*batch C"],
    similarity: Float[Array | np.ndarray, "C"],
    gone: Array | np.ndarray,
    beta: float | int | Float[Array | np.ndarray, "*#batch"],
) -> Float32[Array, "*batch C"]:
    """softmax(z + β·s) over the classes that are not `gone` (bool[C]), which get 0."""
    z = jnp.where(gone, -jnp.inf, jnp.asarray(logits, jnp.float32))
    # The largest is taken away first, so that a large logit does not swallow β·s.
    z = z - jnp.max(z, axis=-1, keepdims=True)
    return jax.nn.softmax(z + jnp.asarray(beta, jnp.float32)[..., None] * similarity)


def solve_beta(
    logits: Float[Array | np.ndarray, "N C"],
    similarity: Float[Array | np.ndarray, "C"],
    level: float,
    forgotten: Sequence[int],
    *,
    per_example: bool = False,
) -> Float[np.ndarray, "..."]:
    """The β for which the tilted distributions' expected similarity Σ_k q_k·s_k is `level`; float64 [] or [N].

    The tilt with it is the information projection: of all distributions on the classes that stay with this expected
    similarity, the one of the smallest KL(q ‖ p). With `per_example` each example has a β and the level of its own;
    else one β gives the mean over examples the level, and the sum of KL is the smallest.

    The expectation rises with β (its derivative is a variance) from the smallest similarity to the largest, so β is
    bracketed by doubling and then by halving, to 1e-15 of itself or of 1, whichever is larger; where |β| is below 1000
    the expectation is met within 1e-12. InputError for a level that is not strictly between the two similarities (by a
    1e-9 of their distance, for rounding's sake), which no β reaches.
    """
    stays = np.setdiff1d(np.arange(np.shape(logits)[-1]), forgotten)
    z, s = np.asarray(logits, np.float64)[:, stays], np.asarray(similarity, np.float64)[stays]
    rim = 1e-9 * (s.max() - s.min())
    if not s.min() + rim < level < s.max() - rim:
        raise InputError(
            f"level is {level:g}, but the similarities of the classes that stay run from {s.min():.3g} to "
            f"{s.max():.3g}, and an expected one lies strictly between; change level or temperature."
        )
    z = z - z.max(axis=-1, keepdims=True)

    def expected(beta: np.ndarray | np.float64) -> np.ndarray | np.float64:
        means = softmax(z + beta[..., None] * s, axis=-1) @ s
        return means if per_example else means.mean()

    low = np.full(len(z) if per_example else (), -1.0)
    high = -low
    while np.any(short := expected(high) < level):
        high = np.where(short, 2 * high, high)
    while np.any(over := expected(low) > level):
        low = np.where(over, 2 * low, low)
    while np.any(high - low > 1e-15 * np.maximum(1, np.abs(high))):
        middle = (low + high) / 2
        below = expected(middle) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)


def trw(task: Task, settings: TrwConfig, name: str = "trw") -> Plan:
    """CE(D_R, y) + w·CE(D_F, q), both shuffled together, from the original weights; q is `tilted_target` of each input.

    f is a deleted example's own label, and with several forgotten classes all get 0. The original is asked once, about
    images without crops and mirroring. Every example counts alike but for the weight w of the deleted ones, where the
    paper's formula may mean the two sets' means. Only targets and weights differ from fine-tuning on all images, so
    one program serves both. β = 0 is RWFT.
    """
    gone = task.require_classes(name)
    task.require(name, retain=True, original=True)
    logits = task.original_logits(name)[task.forget]
    labels = task.labels[task.forget]
    _, kernel, _ = head_of(task.model, task.original["params"])
    targets = np.zeros_like(logits)
    for label in map(int, np.unique(labels)):
        rows = labels == label
        how = {"temperature": settings.temperature, "directions": settings.directions, "also_forgotten": gone}
        beta = np.float64(settings.beta)
        if settings.level:
            similarity = class_similarity(kernel, label, **how)
            beta = solve_beta(
                logits[rows],
                similarity,
                settings.level,
                (label, *gone),
                per_example=settings.level_per_example,
            )
        targets[rows] = tilted_target(logits[rows], kernel, label, np.asarray(beta), **how)
    examples = task.examples(settings.optimization.label_smoothing)
    return Plan(
        name=name,
        start="original",
        examples=examples.replace(
            targets=examples.targets.at[task.forget].set(jnp.asarray(targets)),
            weights=examples.weights.at[task.forget].set(settings.forget_weight),
        ),
        index=np.concatenate([task.retain, task.forget]),
        optimization=settings.optimization,
    )


def trw_head(task: Task, settings: TrwHeadConfig, name: str = "trw_head") -> Edit:
    """The original with β·s in its head's bias: any input's posterior is its tilted target, forgotten classes aside.

    The cheapest baseline, without data and training: it cannot tell inputs of f from others, so retained inputs are
    tilted too and some are lost to the class most like f. With several forgotten classes s is the mean of theirs. Each
    forgotten class's logit becomes the mean of the others' less `margin`, as `with_deleted_outputs` has it: its
    probability is at most exp(−margin), and all C outputs stay.
    """
    gone = task.require_classes(name)
    task.require(name, original=True)
    _, kernel, bias = head_of(task.model, task.original["params"])
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    similarity = np.mean(
        [
            class_similarity(
                kernel,
                label,
                temperature=settings.temperature,
                directions=settings.directions,
                also_forgotten=gone,
            )
            for label in gone
        ],
        axis=0,
    )
    kept = np.delete(np.eye(task.num_classes), list(gone), axis=0)
    folded = fold_into_head(
        kernel, bias + np.float32(settings.beta) * similarity, kept, deleted=gone, margin=settings.margin
    )
    return Edit(name, with_head(task.model, task.original, *folded))
