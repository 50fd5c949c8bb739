"""Weights of PyTorch's CIFAR ResNet-18 into ours: same network, same logits, other names and layouts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.config import InputError
from mu_jax.models.model import Variables

_WRAPPERS = ("state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_MODULES = {
    "stem": "conv1",
    "stem_norm": "bn1",
    "conv1": "conv1",
    "norm1": "bn1",
    "conv2": "conv2",
    "norm2": "bn2",
    "shortcut": "shortcut.0",
    "shortcut_norm": "shortcut.1",
    "head": "linear",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The named tensors of a `.safetensors`, `.pth` or `.pt` file; floating-point ones become float32.

    A dict nested under `state_dict`, `model` or `net` is unwrapped, and the `module.` that DataParallel puts
    before every name is cut off. PyTorch files are read with `weights_only=True`: a file that needs
    unpickling of anything but plain tensors is refused, because unpickling runs code. Every failure is an
    InputError.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}, but expected saved weights; check the path.")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        tensors = _read_torch(path)
    else:
        raise InputError(
            f"{path} ends in {path.suffix!r}, but weights are read from .safetensors, .pth or .pt; save them "
            "as one."
        )
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: _as_float32(value) for name, value in tensors.items()}


def resnet18_from_state_dict(
    state_dict: Mapping[str, np.ndarray], variables_like: Variables
) -> dict[str, Any]:
    """Variables of our ResNet-18 filled from a state_dict under kuangliu's or torchvision's names.

    Both name the stem `conv1, bn1` and the blocks `layer1.0.conv1` and so on; a projection is `shortcut.0,
    .1` or `downsample.0, .1`, the head `linear` or `fc`. `variables_like` gives the names and shapes to fill
    (arrays, or `jax.eval_shape(model.init, key)`). Kernels turn from OIHW to HWIO, the head from [C,D] to
    [D,C]. `num_batches_tracked` is left out. InputError, naming the first, where a variable is missing from
    the file, the file holds one that the network lacks, or shapes differ.
    """
    given = _canonical_names(state_dict)
    _refuse_imagenet_stem(given, state_dict)
    like, structure = jax.tree_util.tree_flatten_with_path(variables_like)
    wanted = {_torch_name(tuple(entry.key for entry in path)): leaf for path, leaf in like}
    for name in wanted:
        if name not in given:
            raise InputError(
                f"The state_dict has no {name!r}, but expected every weight of ResNet-18; give a ResNet-18's "
                "own, whole state_dict."
            )
    for name, original in given.items():
        if name not in wanted:
            raise InputError(
                f"The state_dict holds {original!r}, which ResNet-18 does not have; give a ResNet-18's own "
                "state_dict."
            )
    leaves = []
    for name, leaf in wanted.items():
        value = np.asarray(state_dict[given[name]])
        expected = _torch_shape(leaf.shape)
        if value.shape != expected:
            raise InputError(
                f"{given[name]!r} has shape {value.shape}, but this model expects {expected}; build "
                "the model with the width, channels and classes of the saved one."
            )
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        leaves.append(jnp.asarray(value, jnp.float32))
    return jax.tree.unflatten(structure, leaves)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise _missing_package("safetensors", path) from None
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type, TypeError or OSError by what is wrong
        raise InputError(
            f"{path} is no readable safetensors file ({_first_line(error)}); save the weights again."
        ) from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise _missing_package("torch", path) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, KeyError, EOFError or RuntimeError by what is wrong
        raise InputError(
            f"{path} could not be read ({_first_line(error)}): expected plain tensors, since unpickling "
            "anything else could run code; save model.state_dict() alone, or a .safetensors file."
        ) from None
    if isinstance(content, dict):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, but expected a dict of tensors; save "
            "model.state_dict()."
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path} holds a {type(value).__name__} under {name!r}, but expected a dict of named "
                "tensors; save model.state_dict() alone."
            )
    # NumPy has no bfloat16 of its own, so floating-point tensors become float32 while still PyTorch's.
    return {
        name: (value.float() if value.is_floating_point() else value).detach().numpy()
        for name, value in content.items()
    }


def _missing_package(package: str, path: Path) -> InputError:
    return InputError(f"Reading {path} needs {package}, which is not installed; pip install 'mu-jax[torch]'.")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def _as_float32(value: np.ndarray) -> np.ndarray:
    # jnp's test, because NumPy does not count bfloat16 among the floats.
    return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _canonical_names(state_dict: Mapping[str, np.ndarray]) -> dict[str, str]:
    """From kuangliu's name of each tensor to the name it has in the file."""
    given: dict[str, str] = {}
    for original in state_dict:
        if original.endswith("num_batches_tracked"):
            continue
        name = re.sub(r"^fc\.", "linear.", original.replace(".downsample.", ".shortcut."))
        if name in given:
            raise InputError(
                f"The state_dict holds both {given[name]!r} and {original!r}, but expected one name for one "
                "weight; remove the one that is not the model's."
            )
        given[name] = original
    return given


def _refuse_imagenet_stem(given: Mapping[str, str], state_dict: Mapping[str, np.ndarray]) -> None:
    if "conv1.weight" not in given:
        return
    shape = tuple(state_dict[given["conv1.weight"]].shape)
    if shape[2:] == (7, 7):
        raise InputError(
            f"'conv1.weight' has shape {shape}: ImageNet's 7×7 stem is not this architecture, whose stem is "
            "3×3 without max-pool; give weights of a ResNet-18 for CIFAR-sized images."
        )


def _torch_name(path: tuple[str, ...]) -> str:
    """`("params", "stage2_block0", "norm1", "scale")` → `layer2.0.bn1.weight`."""
    _, *modules, leaf = path
    parts = []
    for module in modules:
        block = re.fullmatch(r"stage(\d)_block(\d)", module)
        parts.append(f"layer{block[1]}.{block[2]}" if block else _MODULES.get(module))
    if None in parts or leaf not in _LEAVES:
        raise InputError(
            f"variables_like holds {'/'.join(path)}, which ResNet-18 does not have; give a ResNet-18's "
            "variables."
        )
    return ".".join([*parts, _LEAVES[leaf]])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """HWIO → OIHW for kernels, [D,C] → [C,D] for the head, as it is for vectors."""
    if len(shape) == 4:
        height, width, depth, features = shape
        return features, depth, height, width
    return shape[::-1]
