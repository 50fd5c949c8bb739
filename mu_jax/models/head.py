"""A classifier's head: the dense layer that makes logits out of features, read and replaced in any of the networks."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mu_jax.config import InputError
from mu_jax.models.model import Model

PyTree = Any


def head_of(
    model: Model, params: PyTree
) -> tuple[tuple[str, ...], Float[Array | np.ndarray, "D C"], Float[Array | np.ndarray, "C"]]:
    """Where in `params` the head lies, its kernel [D,C] and its bias [C]: logits are features·kernel + bias.

    It is the last of the layers that the network calls, of any number of outputs.
    """
    path = _path(model)
    layer = params
    for name in path:
        layer = layer[name]
    if "bias" not in layer:
        raise InputError(
            f"The network's last layer, {'/'.join(path)}, has no bias, but expected a head of kernel and bias; make it "
            "with use_bias=True."
        )
    return path, layer["kernel"], layer["bias"]


def with_head(
    model: Model,
    variables: PyTree,
    kernel: Float[Array | np.ndarray, "D C"],
    bias: Float[Array | np.ndarray, "C"],
) -> PyTree:
    """The variables with another head, which may have another number of outputs; float32, all else is shared."""
    head = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    return {**variables, "params": _replaced(variables["params"], _path(model), head)}


def _path(model: Model) -> tuple[str, ...]:
    layers = model.layers()
    if not layers or layers[-1].kind != "dense":
        raise InputError(
            "The network does not end in a dense layer, so it has no head to read or to replace; give one that ends in "
            "nn.Dense(num_classes)."
        )
    return layers[-1].path


def _replaced(tree: PyTree, path: tuple[str, ...], new: PyTree) -> PyTree:
    if not path:
        return new
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], new)}
