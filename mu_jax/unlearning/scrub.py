"""SCRUB: a student that stays with its teacher, the original model, on what is kept and leaves it on what is deleted.

Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float
from scipy.special import softmax

from mu_jax.config.methods import ScrubConfig
from mu_jax.training.chunk import label_targets
from mu_jax.training.step import cross_entropy
from mu_jax.unlearning.plan import Pass, Plan, Task


def scrub(task: Task, settings: ScrubConfig, name: str = "scrub") -> Plan:
    """Passes over D_F that ascend on KL(p_o ‖ p_θ), between passes over D_R that descend on γ·CE + α·KL(p_o ‖ p_θ).

    The first `ascent_epochs` epochs have a pass over D_F and then one over D_R, the others only the latter; one
    optimizer serves all. KL is at temperature T and times T², as `scrub_loss` says. Sign, coefficients, labels and
    posteriors of each example are data. What differs from public code: the teacher has seen each image once, without
    crops and mirroring, also where the student's images have them.

    The divergence has gradient zero where student and teacher agree. So the first pass only leaves the original model
    because of batch-norm, which is in training mode for the student, of augmentation and of weight decay.
    """
    task.require(name, retain=True, original=True)
    examples = task.examples()
    labels = label_targets(task.labels, task.num_classes, settings.optimization.label_smoothing)
    teacher = softmax(task.original_logits(name).astype(np.float64) / settings.temperature, axis=-1)
    coefficients = np.zeros((len(labels), 3), np.float32)
    coefficients[task.retain] = settings.label_weight, settings.teacher_weight, settings.temperature
    coefficients[task.forget] = 0.0, 1.0, settings.temperature
    targets = np.concatenate([labels, teacher.astype(np.float32), coefficients], axis=1)
    ascent = Pass(task.forget, settings.forget_batch)
    descent = Pass(task.retain)
    epochs, first = math.ceil(settings.optimization.epochs), settings.ascent_epochs
    return Plan(
        name=name,
        start="original",
        examples=examples.replace(
            targets=jnp.asarray(targets), weights=examples.weights.at[task.forget].set(-1.0)
        ),
        index=np.concatenate([task.forget, task.retain]) if first else task.retain,
        optimization=settings.optimization,
        loss=scrub_loss,
        passes=((ascent, descent),) * first + ((descent,),) * (epochs - first),
    )


def scrub_loss(logits: Float[Array, "B C"], targets: Float[Array, "B columns"]) -> Float[Array, "B"]:
    """a·CE(y, softmax(z)) + b·T²·KL(p ‖ softmax(z/T)), with y, p, a, b and T of each example side by side in `targets`.

    The columns: C of y, C of p (taken at the same temperature T), then a, b and T; 2C + 3 in all. KL(p ‖ q) is
    Σ_c p_c·(log p_c − log q_c). The module's function, so that all settings share one program.
    """
    classes = logits.shape[-1]
    labels, teacher = targets[:, :classes], targets[:, classes : 2 * classes]
    label_weight, teacher_weight, temperature = targets[:, 2 * classes :].T
    student = jax.nn.log_softmax(logits / temperature[:, None])
    divergence = jnp.sum(xlogy(teacher, teacher) - teacher * student, axis=-1)
    return label_weight * cross_entropy(logits, labels) + teacher_weight * temperature**2 * divergence
