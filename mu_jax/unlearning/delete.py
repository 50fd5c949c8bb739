"""DELETE: a deleted example is learned with the original's own posterior, its class left out.

Zhou et al., "Decoupled Distillation to Erase: A General Unlearning Method for Any Class-centric Tasks", CVPR 2025.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.special import softmax

from mu_jax.config.trw import DeleteConfig
from mu_jax.unlearning.plan import Plan, Task


def delete_method(task: Task, settings: DeleteConfig, name: str = "delete") -> Plan:
    """KL(softmax(z without z_y) ‖ p_θ) on D_F, and with `retain` CE(D_R), from the original weights; z of the original.

    The loss is the cross-entropy to the same targets: the two differ by the targets' entropy, which no weight moves,
    and so it shares its program with fine-tuning. With `retain` it is TRW without the tilt (RWFT). What differs from
    the authors' code: where several classes are forgotten, a target has none of them (theirs only lacks the example's
    own); z_y is left out rather than set to −1e10, which is the same in float32; and the original is asked once, about
    images without crops and mirroring, rather than at each visit. Single examples are deleted as well.
    """
    gone = task.require_classes(name) if task.forget_classes else ()
    task.require(name, retain=settings.retain, original=True)
    left_out = np.eye(task.num_classes, dtype=bool)[task.labels[task.forget]]
    left_out[:, list(gone)] = True
    targets = posterior_without(task.original_logits(name)[task.forget], left_out)
    examples = task.examples(settings.optimization.label_smoothing)
    return Plan(
        name=name,
        start="original",
        examples=examples.replace(targets=examples.targets.at[task.forget].set(jnp.asarray(targets))),
        index=np.concatenate([task.retain, task.forget]) if settings.retain else task.forget,
        optimization=settings.optimization,
    )


def posterior_without(
    logits: Float[np.ndarray, "N C"], left_out: Bool[np.ndarray, "N C"]
) -> Float32[np.ndarray, "N C"]:
    """softmax over the classes of each row that are not left out, which get 0; at least one must stay in each."""
    return softmax(np.where(left_out, -np.inf, logits.astype(np.float64)), axis=-1).astype(np.float32)
