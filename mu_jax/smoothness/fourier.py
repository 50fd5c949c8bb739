"""Exact singular values of a convolution over a ring of pixels, and what they say of one over zeros.

Sedghi, Gupta and Long, "The Singular Values of Convolutional Layers", ICLR 2019: where the image is continued
periodically, the Fourier transform makes of the convolution one matrix [E,D] a frequency, and the singular values of
all of them are those of the convolution. Of a layer with a stride and padding by zeros,

- on the layer's own H×W pixels they are an approximation: neither a bound from above nor one from below;
- a ring of H+p by W+p pixels gives a bound from above, because the image with p zeros behind it holds all that a patch
  sees, and the layer's responses are some of the ring's: a sub-block of its matrix;
- leaving out responses, as a stride does, makes no norm larger, so that the ring's norm without the stride is a bound
  too, and the one with the stride a closer one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from mu_jax.config import InputError
from mu_jax.models.affine import AffineLayer


def circular_singular_values(
    kernel: Float[Array | np.ndarray, "h w D E"], image_size: tuple[int, int], *, stride: int = 1
) -> Float[Array, "m n k"]:
    """All singular values of the convolution of a periodic image of `image_size` = (H, W), with a `stride`.

    [H/stride, W/stride, min(E, stride²·D)]: the frequencies of the response, then the values in falling order. Where
    the kernel is larger than the image, its taps meet the same pixel several times. InputError unless the stride
    divides both sides.
    """
    with jax.default_matmul_precision("highest"):
        return jnp.linalg.svd(_matrices(kernel, image_size, stride), compute_uv=False)


def circular_norm(
    kernel: Float[Array | np.ndarray, "h w D E"], image_size: tuple[int, int], *, stride: int = 1
) -> Float[Array, ""]:
    """The largest of `circular_singular_values`."""
    with jax.default_matmul_precision("highest"):
        matrices = _matrices(kernel, image_size, stride, half=True)
        if matrices.shape[-2] > matrices.shape[-1]:
            matrices = jnp.swapaxes(matrices, -1, -2)
        # Of a Gram matrix the largest value is as exact, and found two to four times as fast as by an SVD.
        gram = matrices @ jnp.conj(jnp.swapaxes(matrices, -1, -2))
        return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram).max(), 0.0))


def fourier_bound(
    kernel: Float[Array | np.ndarray, "h w D E"], layer: AffineLayer, *, strided: bool = True
) -> Float[Array, ""]:
    """An upper bound of the norm of a layer with zero padding: that of the smallest ring that holds it.

    Its sides are H+p and W+p, p the padding (at most the kernel's side less one), rounded up to multiples of the
    stride, which can make it a little looser; `strided=False` is the bound that forgets the stride.
    """
    stride = layer.stride if strided else 1
    sides = [
        -(-(size + min(layer.padding, taps - 1)) // stride) * stride
        for size, taps in zip(layer.input_shape[:2], layer.kernel_shape[:2], strict=True)
    ]
    return circular_norm(kernel, (sides[0], sides[1]), stride=stride)


def _matrices(
    kernel: Float[Array | np.ndarray, "h w D E"], image_size: tuple[int, int], stride: int, half: bool = False
) -> Complex[Array, "m n E d"]:
    """One at each frequency of the response, or at half of them: a real kernel has conjugate ones at opposite ones."""
    height, width = image_size
    if stride < 1 or height % stride or width % stride:
        raise InputError(
            f"The image is {height}×{width} pixels and the stride {stride}, but a stride around a ring must divide "
            "both sides; pad the image to multiples of it."
        )
    rows, columns = height // stride, width // stride
    columns = columns // 2 + 1 if half else columns
    # Frequencies that a stride cannot tell apart: f, f + H/stride, and so on.
    down = np.arange(rows) + rows * np.arange(stride)[:, None]
    across = np.arange(columns) + width // stride * np.arange(stride)[:, None]
    transfer = jnp.einsum(
        "smu,tnv,uvde->mnestd",
        _waves(down, height, kernel.shape[0]),
        _waves(across, width, kernel.shape[1]),
        jnp.asarray(kernel, jnp.float32),
    )
    return transfer.reshape(rows, columns, kernel.shape[3], -1) / stride


def _waves(frequencies: np.ndarray, size: int, taps: int) -> Complex[Array, "stride m taps"]:
    """exp(2πi·f·u/size) for taps u; the transform of a kernel that may be larger than the ring, which `fft2` cuts."""
    # Whole turns are taken off first: what is left is exact.
    turns = frequencies[..., None] * np.arange(taps) % size
    return jnp.asarray(np.exp(2j * np.pi * turns / size), jnp.complex64)
