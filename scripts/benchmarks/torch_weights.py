"""Our ResNet-18's variables under the names of `torch_resnet`, and back, so that both sides have the same weights."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MODULES = {"shortcut": "shortcut.0", "shortcut_norm": "shortcut.1"}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What `ResNet18.load_state_dict` takes, but for `num_batches_tracked`; kernels are OIHW, the head [C,D]."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {_torch_name(path): np.ascontiguousarray(_turned(np.asarray(leaf))) for path, leaf in leaves}


def from_state_dict(state_dict: Mapping[str, np.ndarray], variables_like: Any) -> Any:
    """Variables of the names and shapes of `variables_like`."""

    def leaf_of(path: tuple, like: Any) -> jax.Array:
        value = np.asarray(state_dict[_torch_name(path)])
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        if value.shape != like.shape:
            raise ValueError(f"{_torch_name(path)} has shape {value.shape}, but expected {like.shape}.")
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(leaf_of, variables_like)


def _turned(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def _torch_name(path: tuple) -> str:
    """`params/stage2_block0/norm1/scale` → `blocks.2.norm1.weight`."""
    _, *modules, leaf = (entry.key for entry in path)
    parts = []
    for module in modules:
        block = re.fullmatch(r"stage(\d)_block(\d)", module)
        parts.append(
            f"blocks.{2 * int(block[1]) - 2 + int(block[2])}" if block else _MODULES.get(module, module)
        )
    return ".".join([*parts, _LEAVES[leaf]])
