"""A network's variables filled from PyTorch's named tensors: each leaf from its own tensor, and none left over."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.config import InputError
from mu_jax.models.model import Variables

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Our name of a layer's array, and PyTorch's."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensor that one of our leaves comes from."""

    name: str
    """its canonical name"""
    shape: tuple[int, ...]
    """that it must have"""
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray
    """into our layout"""


def usual_source(name: str, shape: tuple[int, ...]) -> Source:
    """OIHW for a convolution's kernel HWIO, [E,D] for a dense one [D,E], and vectors as they are."""
    if len(shape) == 4:
        height, width, depth, features = shape
        return Source(name, (features, depth, height, width), lambda value: value.transpose(2, 3, 1, 0))
    return Source(name, shape[::-1], np.transpose)


def canonical_names(
    state_dict: Mapping[str, np.ndarray], renamed: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """From the canonical name of each tensor to the name it has in the file.

    `renamed` are (pattern, replacement) pairs, applied one after another. `num_batches_tracked` is left out.
    InputError where two tensors claim one name.
    """
    given: dict[str, str] = {}
    for original in state_dict:
        if original.endswith("num_batches_tracked"):
            continue
        name = original
        for pattern, replacement in renamed:
            name = re.sub(pattern, replacement, name)
        if name in given:
            raise InputError(
                f"The state_dict holds both {given[name]!r} and {original!r}, but expected one name for one "
                "weight; remove the one that is not the model's."
            )
        given[name] = original
    return given


def fill(
    variables_like: Variables,
    given: Mapping[str, str],
    tensors: Mapping[str, np.ndarray],
    source_of: Callable[[tuple[str, ...], tuple[int, ...]], Source],
    network: str,
) -> dict[str, Any]:
    """Variables of the structure and shapes of `variables_like`, in float32.

    `given` goes from canonical names to those in the file, `tensors` holds each by the latter, and `source_of(path,
    shape)` says where a leaf comes from. InputError, naming the first, where a leaf's tensor is missing, a tensor is no
    leaf's, or shapes differ.
    """
    like, structure = jax.tree_util.tree_flatten_with_path(variables_like)
    sources = [source_of(tuple(entry.key for entry in path), tuple(leaf.shape)) for path, leaf in like]
    for source in sources:
        if source.name not in given:
            raise InputError(
                f"The state_dict has no {source.name!r}, but expected every weight of {network}; give a {network}'s "
                "own, whole state_dict."
            )
    wanted = {source.name for source in sources}
    for name, original in given.items():
        if name not in wanted:
            raise InputError(
                f"The state_dict holds {original!r}, which {network} does not have; give a {network}'s own "
                "state_dict."
            )
    leaves = []
    for source in sources:
        value = np.asarray(tensors[given[source.name]])
        if value.shape != source.shape:
            raise InputError(
                f"{given[source.name]!r} has shape {value.shape}, but this model expects {source.shape}; build "
                "the model with the settings, channels and classes of the saved one."
            )
        leaves.append(jnp.asarray(source.convert(value), jnp.float32))
    return jax.tree.unflatten(structure, leaves)


def unknown_variable(path: tuple[str, ...], network: str) -> InputError:
    """The refusal of variables that are another network's."""
    return InputError(
        f"variables_like holds {'/'.join(path)}, which {network} does not have; give a {network}'s variables."
    )
