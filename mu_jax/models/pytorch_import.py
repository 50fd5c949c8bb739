"""Weights of PyTorch's CIFAR-sized networks into ours: same network, same logits, other names and layouts."""

import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mu_jax.config import InputError
from mu_jax.models.model import Variables
from mu_jax.models.pytorch_fill import LEAVES, Source, canonical_names, fill, unknown_variable, usual_source
from mu_jax.models.pytorch_vgg import vgg_from_state_dict
from mu_jax.models.pytorch_vit import vit_from_state_dict

_HEAD = re.compile(r"(?:fc|linear|classifier(?:\.\d+)?|head|heads(?:\.head)?)\.weight")
_WRAPPERS = ("state_dict", "model", "net")
# Of DataParallel, of torch.compile and of Lightning modules.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
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
_RENAMED = ((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear."))


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The named tensors of a `.safetensors`, `.pth` or `.pt` file; floating-point ones become float32.

    A dict nested under `state_dict`, `model` or `net` is unwrapped, and what DataParallel (`module.`), torch.compile
    (`_orig_mod.`) or a Lightning module (`model.`, `net.`) puts before every name is cut off. PyTorch files are read
    with `weights_only=True`: a file that needs unpickling of anything but plain tensors is refused, because unpickling
    runs code. Every failure is an InputError.
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
    # Wrappers may lie inside one another, in any order.
    while tensors and (
        prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), "")
    ):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    for name, value in tensors.items():
        if not jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.kind not in "biu":
            raise InputError(
                f"{path} holds {name!r} with dtype {value.dtype}, but expected real numbers; save a model of real "
                "weights."
            )
    return {name: _as_float32(value) for name, value in tensors.items()}


def classes_of(state_dict: Mapping[str, np.ndarray]) -> int:
    """How many outputs the head of a state_dict has, under any of the names that are read; InputError without one."""
    heads = [name for name in state_dict if _HEAD.fullmatch(name) and np.ndim(state_dict[name]) == 2]
    if len(heads) != 1:
        found = ", ".join(map(repr, heads)) or "none"
        raise InputError(
            f"The state_dict has {found} of two axes for a head, but expected one of fc, linear, classifier, head or "
            "heads; give a classifier's own, whole state_dict."
        )
    return int(state_dict[heads[0]].shape[0])


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
    given = canonical_names(state_dict, _RENAMED)
    _refuse_imagenet_stem(given, state_dict)
    return fill(variables_like, given, state_dict, _resnet18_source, "ResNet-18")


FROM_STATE_DICT: Mapping[str, Callable[[Mapping[str, np.ndarray], Variables], dict[str, Any]]] = (
    types.MappingProxyType(
        {
            "resnet18": resnet18_from_state_dict,
            "vgg11": vgg_from_state_dict,
            "vgg16": vgg_from_state_dict,
            "vgg19": vgg_from_state_dict,
            "vit": vit_from_state_dict,
        }
    )
)
"""By `model.name`: `(state_dict, variables_like) -> variables`, for networks whose PyTorch weights can be read."""


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
    tensors = {}
    for name, value in content.items():
        try:
            tensors[name] = (value.float() if value.is_floating_point() else value).detach().numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantized, without storage
            raise InputError(
                f"{path} holds {name!r}, which is no plain tensor ({_first_line(error)}), but expected numbers alone; "
                "save a model of dense, unquantized weights."
            ) from None
    return tensors


def _missing_package(package: str, path: Path) -> InputError:
    return InputError(f"Reading {path} needs {package}, which is not installed; pip install 'mu-jax[torch]'.")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def _as_float32(value: np.ndarray) -> np.ndarray:
    # jnp's test, because NumPy does not count bfloat16 among the floats.
    return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _refuse_imagenet_stem(given: Mapping[str, str], state_dict: Mapping[str, np.ndarray]) -> None:
    if "conv1.weight" not in given:
        return
    shape = tuple(state_dict[given["conv1.weight"]].shape)
    if shape[2:] == (7, 7):
        raise InputError(
            f"'conv1.weight' has shape {shape}: ImageNet's 7×7 stem is not this architecture, whose stem is "
            "3×3 without max-pool; give weights of a ResNet-18 for CIFAR-sized images."
        )


def _resnet18_source(path: tuple[str, ...], shape: tuple[int, ...]) -> Source:
    return usual_source(_torch_name(path), shape)


def _torch_name(path: tuple[str, ...]) -> str:
    """`("params", "stage2_block0", "norm1", "scale")` → `layer2.0.bn1.weight`."""
    _, *modules, leaf = path
    parts = []
    for module in modules:
        block = re.fullmatch(r"stage(\d)_block(\d)", module)
        parts.append(f"layer{block[1]}.{block[2]}" if block else _MODULES.get(module))
    if None in parts or leaf not in LEAVES:
        raise unknown_variable(path, "ResNet-18")
    return ".".join([*parts, LEAVES[leaf]])
