"""How far what a model says of a forgotten class lies from what retrained models say of it.

All on the inputs of that class, from logits, in float64 on the host. A model that never saw the class spreads its
inputs over the classes that stay in its own way, and so do other such models: the distance among them is the floor,
which no method can be asked to go below.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Float64
from scipy.special import log_softmax, logsumexp

from mu_jax.config import InputError

_Distance = Callable[[Float64[np.ndarray, "N F"], Float64[np.ndarray, "N F"]], float]


@dataclasses.dataclass(frozen=True)
class ClassDistance:
    """A model's distance to R retrained models, means over the inputs, and theirs to each other."""

    to_mean: float
    """To the retrained models' mean posterior, the figure to report: the mean over leaving each of the R out of
    it."""
    to_each: float
    """To each retrained model, the mean over them."""
    retrained_to_mean: Float64[np.ndarray, "R"]
    """Each retrained model to the mean posterior of the others."""
    retrained_to_each: Float64[np.ndarray, "R"]
    """Each retrained model to each of the others, the mean over these."""

    @property
    def floor(self) -> float:
        """What `to_mean` is on average for one more retrained model: the mean of `retrained_to_mean`.

        No bias from counting: behind both stand mean posteriors of R − 1 models.
        """
        return float(np.mean(self.retrained_to_mean))


def total_variation(
    logits: Float[Array | np.ndarray, "N C"],
    retrained_logits: Float[Array | np.ndarray, "R N C"],
    *,
    drop: int | None = None,
) -> ClassDistance:
    """½ Σ_k |p_k − q_k|, in [0, 1]: the share of the probability that lies elsewhere.

    `logits` are a model's and `retrained_logits` those of R models, two at least, on the same N inputs. `to_mean`
    takes for q the mean posterior of retrained models, which is what retraining says of an input once its seed is
    averaged out; a method that returns this mean itself would come below the floor, and then only `to_each` shows by
    how little. `drop` leaves a class out of all posteriors, which are taken over the others; None keeps all C, so
    that what an unlearned model still gives the forgotten class counts. InputError for shapes that do not fit, fewer
    than two retrained models, logits that are not finite, and `drop` where it is no class or leaves fewer than two.

    >>> z = np.log([[0.75, 0.25]])
    >>> round(total_variation(z, np.log([[[0.5, 0.5]], [[0.25, 0.75]]])).to_mean, 3)
    0.375
    """
    return _distances(_variation, logits, retrained_logits, drop)


def kl_to_retrained(
    logits: Float[Array | np.ndarray, "N C"],
    retrained_logits: Float[Array | np.ndarray, "R N C"],
    *,
    drop: int | None = None,
) -> ClassDistance:
    """KL(p ‖ q) = Σ_k p_k log(p_k/q_k) in nats, p the model's posterior and q the retrained models'.

    Arguments and errors are those of `total_variation`. In this direction it is large where a model is sure of what
    retrained ones find impossible, as one that still knows the class; how little of anything it gives what they find
    possible costs less. Logarithms are never taken of rounded probabilities, so it is finite for any finite logits.
    Not symmetric, and convex in q: `to_mean` is never more than `to_each`.

    >>> z = np.log([[0.75, 0.25]])
    >>> round(kl_to_retrained(z, np.log([[[0.5, 0.5]], [[0.25, 0.75]]])).to_mean, 3)
    0.34
    """
    return _distances(_divergence, logits, retrained_logits, drop)


def confusion(
    logits: Float[Array | np.ndarray, "*M N C"], *, drop: int | None = None
) -> Float64[np.ndarray, "*M C"]:
    """The share of the inputs, those of the forgotten class, that a model predicts as each of C classes.

    The largest logit counts, the first one where they tie. Leading axes are models and stay. `drop` lets that class
    never be predicted: its share is 0. InputError as for `total_variation`.

    >>> confusion(np.array([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]]))
    array([0.5, 0.5, 0. ])
    """
    z = _checked("logits", logits, drop)
    if drop is not None:
        z = z.copy()
        z[..., drop] = -np.inf
    return np.mean(np.argmax(z, axis=-1)[..., None] == np.arange(z.shape[-1]), axis=-2)


def _distances(
    distance: _Distance, logits: Array | np.ndarray, retrained_logits: Array | np.ndarray, drop: int | None
) -> ClassDistance:
    z, retrained = _checked("logits", logits, drop), _checked("retrained_logits", retrained_logits, drop)
    if z.ndim != 2 or retrained.ndim != 3 or retrained.shape[1:] != z.shape:
        raise InputError(
            f"logits have shape {z.shape} and retrained_logits {retrained.shape}, but expected [N, C] and [R, N, C] on "
            "the same inputs and classes; select the forgotten class's inputs from both."
        )
    if len(retrained) < 2:
        raise InputError(
            f"there is {len(retrained)} retrained model, but expected 2 at least, or there is no floor; retrain more "
            "models without the class, with other seeds."
        )
    if drop is not None:
        z, retrained = np.delete(z, drop, axis=-1), np.delete(retrained, drop, axis=-1)
    p, each = log_softmax(z, axis=-1), log_softmax(retrained, axis=-1)
    to_mean, own_to_mean, own_to_each = [], [], []
    for r, own in enumerate(each):
        others = np.delete(each, r, axis=0)
        mean = logsumexp(others, axis=0) - np.log(len(others))
        to_mean.append(distance(p, mean))
        own_to_mean.append(distance(own, mean))
        own_to_each.append(np.mean([distance(own, other) for other in others]))
    return ClassDistance(
        to_mean=float(np.mean(to_mean)),
        to_each=float(np.mean([distance(p, other) for other in each])),
        retrained_to_mean=np.array(own_to_mean),
        retrained_to_each=np.array(own_to_each),
    )


def _variation(log_p: Float64[np.ndarray, "N F"], log_q: Float64[np.ndarray, "N F"]) -> float:
    return float(np.abs(np.exp(log_p) - np.exp(log_q)).sum(axis=-1).mean()) / 2


def _divergence(log_p: Float64[np.ndarray, "N F"], log_q: Float64[np.ndarray, "N F"]) -> float:
    # Rounding may leave a hair below zero.
    return max(0.0, float(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1).mean()))


def _checked(name: str, logits: Array | np.ndarray, drop: int | None) -> Float64[np.ndarray, "*M N C"]:
    z = np.asarray(logits, np.float64)
    if z.ndim < 2 or not z.size or z.shape[-1] < 2:
        raise InputError(
            f"{name} have shape {z.shape}, but expected [..., N, C], none of them 0 and two classes at least; give one "
            "row of logits for each input."
        )
    bad = int(np.sum(~np.isfinite(z).all(axis=-1)))
    if bad:
        raise InputError(
            f"{bad} rows of {name} are not finite, but expected all to be; leave out the model that diverged."
        )
    if drop is not None and not (0 <= drop < z.shape[-1] and z.shape[-1] > 2):
        raise InputError(
            f"drop is {drop} of {z.shape[-1]} classes, but expected a class from 0 to {z.shape[-1] - 1} that leaves "
            "two others at least; give None to keep all."
        )
    return z
