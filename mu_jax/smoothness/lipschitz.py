"""A bound of a whole network's Lipschitz constant, from the norms of its layers."""

import math
from collections.abc import Mapping, Sequence

from mu_jax.models.affine import AffineLayer


def lipschitz_bound(
    layers: Sequence[AffineLayer], norms: Mapping[str, float], *, halve_shortcut: bool = False
) -> float:
    """L with ‖f(x) − f(x')‖₂ ≤ L·‖x − x'‖₂ for the logits f of normalised images x, in eval mode.

    `norms` are the operator norms by name, of layers with the batch-norm behind them. ReLU and max-pool
    have constant one, the mean over n pixels 1/√n, and a ResNet's block that of its branch plus that of its shortcut,
    which is one where there is no projection; `halve_shortcut` halves blocks that have one. The product of all is a
    bound and no more: it is usually larger than the true constant by orders of magnitude.
    """
    blocks: dict[str, dict[str, float]] = {}
    bound, last = 1.0, None
    for layer in layers:
        *block, name = layer.path
        if block:
            blocks.setdefault("/".join(block), {})[name] = norms[layer.name]
        else:
            bound *= norms[layer.name]
        if layer.kind == "conv":
            last = layer
    for parts in blocks.values():
        branch = math.prod(norm for name, norm in parts.items() if name != "shortcut")
        projected = "shortcut" in parts
        bound *= (branch + parts.get("shortcut", 1.0)) / (2 if projected and halve_shortcut else 1)
    if blocks and last is not None:
        # ResNets end in the mean over pixels.
        bound /= math.sqrt(last.output_shape[0] * last.output_shape[1])
    return bound
