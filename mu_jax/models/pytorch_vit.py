"""Weights of PyTorch's vision transformers into ours: from `nn.TransformerEncoder`'s names, torchvision's or timm's."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.models.model import Variables
from mu_jax.models.pytorch_fill import LEAVES, Source, canonical_names, fill, unknown_variable, usual_source

_RENAMED = (
    (r"^cls_token$", "class_token"),
    (r"^(?:encoder\.)?pos_embed(?:ding)?$", "pos_embedding"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^(?:blocks|layers|encoder\.layers)\.(?:encoder_layer_)?(\d+)\.", r"encoder.layers.\1."),
    (r"\.(?:attn|self_attention)\.", ".self_attn."),
    (r"\.self_attn\.qkv\.(weight|bias)$", r".self_attn.in_proj_\1"),
    (r"\.self_attn\.proj\.", ".self_attn.out_proj."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.mlp\.(?:fc1|0|linear_1)\.", ".linear1."),
    (r"\.mlp\.(?:fc2|3|linear_2)\.", ".linear2."),
    (r"^(?:norm|encoder\.ln)\.", "encoder.norm."),
    (r"^(?:heads\.head|heads|fc|linear|classifier)\.", "head."),
)
_BLOCK = {
    "norm1": "norm1.",
    "qkv": "self_attn.in_proj_",
    "projection": "self_attn.out_proj.",
    "norm2": "norm2.",
    "mlp1": "linear1.",
    "mlp2": "linear2.",
}
_OUTSIDE = {"patches": "conv_proj.", "norm": "encoder.norm.", "head": "head."}


def vit_from_state_dict(state_dict: Mapping[str, np.ndarray], variables_like: Variables) -> dict[str, Any]:
    """Variables of our ViT filled from a state_dict of a pre-norm ViT with a class token.

    Its canonical names are `class_token` [1,1,E], `pos_embedding` [1,T+1,E], `conv_proj` (the patches' embedding as a
    convolution [E,D,p,p]), `encoder.layers.I` with the parts of `torch.nn.TransformerEncoderLayer`, `encoder.norm` and
    `head`; torchvision's and timm's names are understood as well. The number of heads is in no tensor, and neither is
    ε of layer-norm (1e-6 here): both must be the saved model's for the same logits. `variables_like` gives the names
    and shapes to fill (arrays, or `jax.eval_shape(model.init, key)`). InputError, naming the first, where a variable is
    missing from the file, the file holds one that the network lacks, or shapes differ.
    """
    given = canonical_names(state_dict, _RENAMED)

    def source_of(path: tuple[str, ...], shape: tuple[int, ...]) -> Source:
        if path == ("params", "class_token"):
            return Source("class_token", (1, 1, *shape), lambda value: value[0, 0])
        if path == ("params", "position"):
            return Source("pos_embedding", (1, *shape), lambda value: value[0])
        _, *modules, leaf = path
        prefix = _OUTSIDE.get(modules[0]) if len(modules) == 1 else None
        if len(modules) == 2 and modules[0].startswith("block") and modules[1] in _BLOCK:
            prefix = f"encoder.layers.{int(modules[0].removeprefix('block')) - 1}.{_BLOCK[modules[1]]}"
        if prefix is None or leaf not in LEAVES:
            raise unknown_variable(path, "ViT")
        name = prefix + LEAVES[leaf]
        if name == "conv_proj.weight":
            return _embedding(shape, np.shape(state_dict[given[name]]) if name in given else ())
        return usual_source(name, shape)

    return fill(variables_like, given, state_dict, source_of, "ViT")


def _embedding(shape: tuple[int, ...], given: tuple[int, ...]) -> Source:
    """Our kernel [p·p·D,E] does not tell p from D: the tensor's D is believed, as far as p² is then a square."""
    size, features = shape
    channels = given[1] if len(given) == 4 and given[1] > 0 and size % given[1] == 0 else 1
    side = math.isqrt(size // channels)
    if channels * side**2 != size:
        channels, side = size, 1
    return Source(
        "conv_proj.weight",
        (features, channels, side, side),
        lambda value: value.transpose(2, 3, 1, 0).reshape(size, features),
    )
