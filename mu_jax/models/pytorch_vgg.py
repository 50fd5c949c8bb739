"""Weights of PyTorch's CIFAR VGGs with batch-norm into ours, with their convolutions' biases folded away."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax.config import InputError
from mu_jax.models.model import Variables
from mu_jax.models.pytorch_fill import LEAVES, Source, canonical_names, fill, unknown_variable, usual_source
from mu_jax.models.vgg import CONVOLUTIONS

_RENAMED = ((r"^(?:fc|linear|classifier\.0)\.", "classifier."),)


def vgg_from_state_dict(state_dict: Mapping[str, np.ndarray], variables_like: Variables) -> dict[str, Any]:
    """Variables of our VGG-11, -16 or -19 filled from a state_dict under the public CIFAR variants' names.

    `features.N.weight` and so on count convolution, batch-norm, ReLU and max-pool one by one, as torchvision's VGGs
    with batch-norm do; the head, one dense layer, is `classifier` (or `fc`, or `linear`). A convolution's bias b, which
    those have, is folded into the batch-norm behind it, whose running mean becomes μ − b: the same function in eval
    mode, and in training, where the batch's mean takes any bias away. `variables_like` gives the names and shapes to
    fill (arrays, or `jax.eval_shape(model.init, key)`). InputError, naming the first, where a variable is missing from
    the file, the file holds one that the network lacks, or shapes differ.
    """
    places = _places(variables_like)
    network = f"VGG-{next(depth for depth, blocks in CONVOLUTIONS.items() if sum(blocks) == len(places))}"
    given = canonical_names(state_dict, _RENAMED)
    _refuse_other_vggs(given)
    tensors = dict(state_dict)
    for place in places.values():
        bias, mean = given.get(f"features.{place}.bias"), given.get(f"features.{place + 1}.running_mean")
        if bias is None or mean is None:
            continue
        if np.shape(tensors[bias]) != np.shape(tensors[mean]):
            raise InputError(
                f"{bias!r} has shape {np.shape(tensors[bias])}, but {mean!r} has {np.shape(tensors[mean])}; give a "
                f"{network}'s own state_dict."
            )
        tensors[mean] = np.asarray(tensors[mean]) - np.asarray(tensors[bias])
        del given[f"features.{place}.bias"]

    def source_of(path: tuple[str, ...], shape: tuple[int, ...]) -> Source:
        *_, module, leaf = path
        layer = re.fullmatch(r"(conv|norm)(\d+)", module)
        if leaf not in LEAVES or not (layer or module == "head"):
            raise unknown_variable(path, network)
        if not layer:
            return usual_source(f"classifier.{LEAVES[leaf]}", shape)
        place = places[int(layer[2])] + (layer[1] == "norm")
        return usual_source(f"features.{place}.{LEAVES[leaf]}", shape)

    return fill(variables_like, given, tensors, source_of, network)


def _places(variables_like: Variables) -> dict[int, int]:
    """Of each convolution, counted from 1, its place among PyTorch's features: 0, 4, 8, 11, ... for VGG-11."""
    number = sum(bool(re.fullmatch(r"conv\d+", name)) for name in variables_like["params"])
    for blocks in CONVOLUTIONS.values():
        if sum(blocks) == number:
            places: dict[int, int] = {}
            for pools, convolutions in enumerate(blocks):
                for _ in range(convolutions):
                    places[len(places) + 1] = 3 * len(places) + pools
            return places
    raise unknown_variable(("params", next(iter(variables_like["params"]))), "VGG")


def _refuse_other_vggs(given: Mapping[str, str]) -> None:
    for name, original in given.items():
        if re.match(r"classifier\.\d", name):
            raise InputError(
                f"The state_dict holds {original!r}, of a classifier of several dense layers, but this architecture "
                "has a head of one; give weights of a VGG for CIFAR-sized images."
            )
    if given and not any(name.endswith("running_mean") for name in given):
        raise InputError(
            "The state_dict has no running statistics, but expected those of a VGG with batch-norm; give the "
            "state_dict of one."
        )
