"""Two-dimensional convolution behind one function, with three lowerings.

| lowering | how | layout |
|---|---|---|
| `xla` | XLA's own convolution | `CHANNELS_LAST` |
| `patches` | the kernel as a matrix times every window that it sees | `BATCH_LAST` |
| `winograd` | 3×3 of stride 1 by Winograd's transforms, all else as `patches` | `BATCH_LAST` |

The last two are matrix products and copies alone, so they keep their speed inside a compiled loop and become
batched products under `vmap` over models, where XLA's own convolution on CPU loses most of its speed in the first and
becomes a grouped convolution in the second. `docs/performance.md` has the measurements.
"""

from jax import lax
from jaxtyping import Array, Float

from mu_jax.config import InputError
from mu_jax.ops.layout import BATCH_LAST, CHANNELS_LAST, Layout
from mu_jax.ops.patches import conv_by_patches
from mu_jax.ops.windows import touching_taps
from mu_jax.ops.winograd import TAPS, conv_by_winograd

LOWERINGS = ("xla", "patches", "winograd")


def layout_of(lowering: str) -> Layout:
    """The order of axes in which `conv` takes and gives images under this lowering."""
    _check_lowering(lowering)
    return CHANNELS_LAST if lowering == "xla" else BATCH_LAST


def conv(
    x: Float[Array, "_ H W _"],
    kernel: Float[Array, "h w D E"],
    *,
    stride: int = 1,
    padding: int = 0,
    lowering: str,
) -> Float[Array, "_ Ho Wo _"]:
    """Cross-correlation, as every deep-learning library calls convolution, with symmetric zero padding.

    y[b,i,j,e] = Σ_{u,v,d} x[b, s·i+u−p, s·j+v−p, d] · kernel[u,v,d,e], with Ho = ⌊(H + 2p − h)/s⌋ + 1, written here
    for [B,H,W,D]; `x` and the result are in `layout_of(lowering)`, the kernel is the same for all.

    Equal to `lax.conv_general_dilated` in value and derivatives of every order, to rounding, for every lowering.
    `x` and `kernel` share a dtype, which is also the result's.
    """
    layout = layout_of(lowering)
    height, width, depth, _ = kernel.shape
    if stride < 1 or padding < 0:
        raise InputError(f"stride is {stride} and padding {padding}, but expected at least 1 and at least 0.")
    if x.dtype != kernel.dtype:
        raise InputError(
            f"The images are {x.dtype}, the kernel {kernel.dtype}, but expected one dtype; cast one."
        )
    if x.shape[layout.channels] != depth:
        raise InputError(
            f"The images have {x.shape[layout.channels]} channels, but the kernel expects {depth}; the lowering "
            f"{lowering!r} has them on axis {layout.channels} (layout_of(lowering).arrange puts them there)."
        )
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
    rows = touching_taps(x.shape[1], height, stride, padding)
    columns = touching_taps(x.shape[2], width, stride, padding)
    # A 3×3 kernel of which some taps never meet the image is a smaller one, and cheaper as such.
    if lowering == "winograd" and stride == 1 and height == width == rows.taps == columns.taps == TAPS:
        return conv_by_winograd(x, kernel, padding)
    return conv_by_patches(x, kernel, rows, columns, stride)


def _check_lowering(lowering: str) -> None:
    if lowering not in LOWERINGS:
        raise InputError(f"The convolution lowering is {lowering!r}, but expected {', '.join(LOWERINGS)}.")
