"""Two-dimensional convolution behind one function, with two lowerings.

`xla` is XLA's own convolution. `patches` cuts the image into the windows the kernel sees and multiplies them
with the kernel as one matrix. On CPU the second is the one that survives a compiled loop (inside `fori_loop`,
ResNet-18 of width 16 on 32×32 trains at 8 images/s with `xla` and at 170 with `patches`; 2 cores, JAX 0.10.2,
batch 64) and `vmap` over models (XLA turns K kernels into one grouped convolution, where a matrix
product only becomes a batched one).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mu_jax.config import InputError

LOWERINGS = ("xla", "patches")


def choose_lowering(setting: str, backend: str) -> str:
    """The lowering for a backend (`cpu`, `gpu`, `tpu`): the setting itself, unless it is `auto`."""
    if setting == "auto":
        return "patches" if backend == "cpu" else "xla"
    if setting not in LOWERINGS:
        raise InputError(
            f"The convolution lowering is {setting!r}, but expected auto, {' or '.join(LOWERINGS)}."
        )
    return setting


def conv(
    x: Float[Array, "B H W D"],
    kernel: Float[Array, "h w D E"],
    *,
    stride: int = 1,
    padding: int = 0,
    lowering: str,
) -> Float[Array, "B Ho Wo E"]:
    """Cross-correlation, as every deep-learning library calls convolution, with symmetric zero padding.

    y[b,i,j,e] = Σ_{u,v,d} x[b, s·i+u−p, s·j+v−p, d] · kernel[u,v,d,e], with Ho = ⌊(H + 2p − h)/s⌋ + 1.

    Equal to `lax.conv_general_dilated` in value and gradient, to rounding, for either lowering. `x` and `kernel`
    share a dtype, which is also the result's.
    """
    height, width = kernel.shape[:2]
    if min(x.shape[1] + 2 * padding - height, x.shape[2] + 2 * padding - width) < 0:
        raise InputError(
            f"An image of {x.shape[1]}×{x.shape[2]} with padding {padding} is smaller than the {height}×{width} "
            "kernel; use larger images or a smaller model."
        )
    if lowering == "xla":
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=((padding, padding), (padding, padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    if lowering == "patches":
        return _conv_by_patches(x, kernel, stride, padding)
    raise InputError(f"The convolution lowering is {lowering!r}, but expected {' or '.join(LOWERINGS)}.")


def _conv_by_patches(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    height, width, depth, features = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1

    def window(u: int, v: int) -> jax.Array:
        stop = (x.shape[0], u + stride * (rows - 1) + 1, v + stride * (columns - 1) + 1, depth)
        return lax.slice(x, (0, u, v, 0), stop, (1, stride, stride, 1))

    # Plain slices and one product: their derivatives of every order and under every transform are JAX's own.
    patches = jnp.concatenate([window(u, v) for u in range(height) for v in range(width)], axis=-1)
    return patches @ kernel.reshape(height * width * depth, features)
