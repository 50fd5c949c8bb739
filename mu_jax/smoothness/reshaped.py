"""What normalisations of weights claim a layer's norm to be, from its reshaped kernel or by a few power iterations.

Miyato, Kataoka, Koyama and Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018, take the
norm of the kernel as a matrix W[E, h·w·D], which is that of one patch's response and not of the convolution. Gouk,
Frank, Pfahringer and Cree, "Regularisation of neural networks by enforcing Lipschitz continuity", Machine Learning 110
(2021), iterate on the convolution itself, and take a batch-norm's norm by itself.

How far W is from the convolution M: the images of its patches are the response, so ‖Mx‖² = Σ ‖W·patch‖² ≤ ‖W‖² Σ
‖patch‖² ≤ n ‖W‖² ‖x‖² where no pixel lies in more than n patches; and an image that is one patch and zero elsewhere
shows that ‖M‖ ≥ ‖W‖, if a whole patch lies within the image (of 1×1 images under 3×3 kernels none does).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.fastclip import check_clip, power_step
from mu_jax.smoothness.singular_values import LinearFn, leading_singular_values


def reshaped(kernel: Float[Array | np.ndarray, "..."]) -> Float[Array, "E n"]:
    """The kernel [h,w,D,E] or [D,E] as the matrix W[E, h·w·D] that maps a patch to the response at one pixel."""
    return jnp.asarray(kernel, jnp.float32).reshape(-1, kernel.shape[-1]).T


def reshaped_norm(
    kernel: Float[Array | np.ndarray, "..."], *, tolerance: float | Float[Array, ""] = 1e-6
) -> Float[Array, ""]:
    """‖W‖₂ of the reshaped kernel to a relative `tolerance`: what Miyato's iteration, carried along, settles at.

    Of a dense layer it is the norm. Of a convolution it is at most that wherever a patch fits into the image, and no
    bound from above; `reshaped_bound` is.
    """
    matrix = reshaped(kernel)
    found = leading_singular_values(lambda x: matrix @ x, matrix.shape[1:], tolerance=tolerance)
    return found.values[0]


def reshaped_power_step(
    kernel: Float[Array | np.ndarray, "..."], u: Float[Array, "E"]
) -> tuple[Float[Array, "E"], Float[Array, ""]]:
    """Miyato's iteration, one a training step: v = Wᵀu/‖Wᵀu‖, then (the next u, Wv/‖Wv‖; σ = ‖Wv‖ ≤ ‖W‖).

    Where Wᵀu is zero, σ is zero and u stays.
    """
    matrix = reshaped(kernel)
    with jax.default_matmul_precision("highest"):
        image = matrix @ _unit(u @ matrix)
    sigma = jnp.linalg.norm(image)
    return jnp.where(sigma > 0, _unit(image), u), sigma


def reshaped_power_norm(
    kernel: Float[Array | np.ndarray, "..."], *, iterations: int, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Miyato's σ after some `iterations` (≥ 1) from a random vector; it grows with them towards `reshaped_norm`."""
    u = jax.random.normal(key, kernel.shape[-1:])

    def one(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return reshaped_power_step(kernel, carry[0])

    return lax.fori_loop(0, iterations, one, (u, jnp.float32(0)))[1]


def patches_per_pixel(layer: AffineLayer) -> int:
    """The most patches that any one pixel of the layer's image lies in: ⌈h/stride⌉·⌈w/stride⌉ where there is room."""
    if layer.kind == "dense":
        return 1
    sides = zip(layer.input_shape[:2], layer.output_shape[:2], layer.kernel_shape[:2], strict=True)
    return math.prod(_most_over_a_pixel(*side, layer.stride, layer.padding) for side in sides)


def _most_over_a_pixel(size: int, outputs: int, kernel: int, stride: int, padding: int) -> int:
    starts = stride * np.arange(outputs) - padding
    pixels = np.arange(size)[:, None]
    return int(((starts <= pixels) & (pixels < starts + kernel)).sum(1).max())


def reshaped_bound(norm: Float[Array, ""], layer: AffineLayer) -> Float[Array, ""]:
    """√n·‖W‖ ≥ ‖M‖, with n `patches_per_pixel`: √(h·w)·‖W‖ at stride 1 (Tsuzuku, Sato and Sugiyama, NeurIPS 2018)."""
    return norm * math.sqrt(patches_per_pixel(layer))


def power_norm(
    linear_fn: LinearFn, input_shape: tuple[int, ...], *, iterations: int, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Gouk's σ ≤ ‖M‖: ‖Mv‖/‖v‖ after some `iterations` (≥ 0) of v ← MᵀMv from a random vector.

    `linear_fn` maps an array of `input_shape` to an array; its offset, if it has any, is left out.
    """
    # Drawn flat, because XLA takes four times as long to compile random bits of a four-dimensional shape.
    start = jax.random.normal(key, (math.prod(input_shape),)).reshape(input_shape)
    last = lax.fori_loop(0, iterations, lambda _, v: power_step(linear_fn, v)[0], start)
    return power_step(linear_fn, last)[1]


def composed_bound(norm: Float[Array, ""], scale: Float[Array, "E"]) -> Float[Array, ""]:
    """‖M‖·max|γ|/√(σ² + ε): what Gouk has for a layer and the batch-norm behind it, each by itself.

    `scale` is `layers.norm_scale`. A bound of the norm of both as one map: diag(scale)·M.
    """
    return norm * jnp.max(jnp.abs(scale))


def divided(kernel: Float[Array | np.ndarray, "..."], norm: Float[Array, ""]) -> Float[Array, "..."]:
    """Miyato's normalisation, W/σ; a kernel of norm zero stays as it is."""
    return jnp.asarray(kernel) / jnp.where(norm > 0, norm, 1.0)


def divided_down_to(
    kernel: Float[Array | np.ndarray, "..."], norm: Float[Array, ""], c: Float[Array, ""] | float
) -> Float[Array, "..."]:
    """Gouk's projection, W/max(1, σ/c): a kernel whose norm is within c stays as it is. InputError for c ≤ 0."""
    check_clip(c)
    return jnp.asarray(kernel) / jnp.maximum(1.0, norm / c)


def _unit(vector: Float[Array, "n"]) -> Float[Array, "n"]:
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1.0)
