"""Reading and mapping PyTorch weights, and every refusal on the way."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.mlp import mlp_model
from mu_jax.models.pytorch_import import load_state_dict, resnet18_from_state_dict
from mu_jax.models.resnet import resnet18_model

LIKE = jax.eval_shape(resnet18_model(2, 5, (8, 8, 1)).init, jax.random.key(0))


def _kuangliu_state_dict(width=2, channels=1, classes=5):
    """A state_dict of distinct numbers, named and shaped as PyTorch's CIFAR ResNet-18."""
    shapes = {}

    def norm(name, features):
        shapes.update({f"{name}.{leaf}": (features,) for leaf in ("weight", "bias")})
        shapes.update({f"{name}.running_{leaf}": (features,) for leaf in ("mean", "var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (width, channels, 3, 3)
    norm("bn1", width)
    before = width
    for stage, features in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (features, before, 3, 3)
            norm(f"{name}.bn1", features)
            shapes[f"{name}.conv2.weight"] = (features, features, 3, 3)
            norm(f"{name}.bn2", features)
            if before != features:
                shapes[f"{name}.shortcut.0.weight"] = (features, before, 1, 1)
                norm(f"{name}.shortcut.1", features)
            before = features
    shapes["linear.weight"], shapes["linear.bias"] = (classes, before), (classes,)
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _to_torchvision(state_dict):
    return {
        name.replace("shortcut", "downsample").replace("linear", "fc"): value
        for name, value in state_dict.items()
    }


@pytest.mark.parametrize("rename", [dict, _to_torchvision])
def test_tensors_reach_their_place_and_layout(rename):
    state_dict = _kuangliu_state_dict()
    variables = resnet18_from_state_dict(rename(state_dict), LIKE)
    params, stats = variables["params"], variables["batch_stats"]
    assert jax.tree.structure(variables) == jax.tree.structure(LIKE)
    np.testing.assert_array_equal(params["head"]["kernel"], state_dict["linear.weight"].T)
    np.testing.assert_array_equal(params["stem_norm"]["bias"], state_dict["bn1.bias"])
    block = params["stage3_block0"]
    kernel, original = block["conv1"]["kernel"], state_dict["layer3.0.conv1.weight"]
    assert kernel.shape == (3, 3, 4, 8)
    assert kernel[2, 0, 1, 7] == original[7, 1, 2, 0]
    np.testing.assert_array_equal(
        block["shortcut"]["kernel"][0, 0], state_dict["layer3.0.shortcut.0.weight"][:, :, 0, 0].T
    )
    np.testing.assert_array_equal(block["shortcut_norm"]["scale"], state_dict["layer3.0.shortcut.1.weight"])
    np.testing.assert_array_equal(
        stats["stage4_block1"]["norm2"]["var"], state_dict["layer4.1.bn2.running_var"]
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_safetensors_round_trip(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    state_dict = _kuangliu_state_dict()
    wrapped = {f"module.{name}": value.astype(np.float64) for name, value in state_dict.items()}
    numpy_files.save_file(wrapped, tmp_path / "weights.safetensors")
    got = load_state_dict(tmp_path / "weights.safetensors")
    assert got.keys() == state_dict.keys()
    for name, value in got.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, state_dict[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.bn1.running_mean"), "no 'layer2.0.bn1.running_mean'"),
        (lambda s: s.pop("conv1.weight"), "no 'conv1.weight'"),
        (
            lambda s: s.update({"layer1.2.conv1.weight": np.zeros(1)}),
            "'layer1.2.conv1.weight', which ResNet-18",
        ),
        (lambda s: s.update({"fc.bias": np.zeros(5)}), "both 'linear.bias' and 'fc.bias'"),
        (lambda s: s.update({"linear.weight": np.zeros((9, 16))}), r"\(9, 16\), but .* expects \(5, 16\)"),
        (lambda s: s.update({"conv1.weight": np.zeros((2, 3, 3, 3))}), r"expects \(2, 1, 3, 3\)"),
        (lambda s: s.update({"conv1.weight": np.zeros((2, 1, 7, 7))}), "ImageNet's 7×7 stem is not"),
    ],
)
def test_state_dicts_of_other_networks_are_refused(change, message):
    state_dict = _kuangliu_state_dict()
    change(state_dict)
    with pytest.raises(InputError, match=message):
        resnet18_from_state_dict(state_dict, LIKE)


def test_variables_of_other_networks_are_refused():
    like = jax.eval_shape(mlp_model((3,), 5, (8, 8, 1)).init, jax.random.key(0))
    with pytest.raises(InputError, match="params/hidden1/bias, which ResNet-18 does not have"):
        resnet18_from_state_dict(_kuangliu_state_dict(), like)


def test_missing_file_and_unknown_ending_are_refused(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        load_state_dict(tmp_path / "absent.pth")
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(InputError, match="'.h5', but weights are read from .safetensors, .pth or .pt"):
        load_state_dict(tmp_path / "weights.h5")


@pytest.mark.parametrize(("package", "ending"), [("torch", ".pth"), ("safetensors", ".safetensors")])
def test_a_missing_package_names_the_extra(package, ending, tmp_path, monkeypatch):
    (tmp_path / f"weights{ending}").write_bytes(b"")
    for name in [package, *(name for name in sys.modules if name.startswith(package + "."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"needs {package}, .* 'mu-jax\[torch\]'"):
        load_state_dict(tmp_path / f"weights{ending}")


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "weights.safetensors").write_bytes(b"not a header at all")
    with pytest.raises(InputError, match="no readable safetensors file"):
        load_state_dict(tmp_path / "weights.safetensors")


@pytest.mark.torch
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("ending", [".pth", ".pt"])
def test_torch_files_are_unwrapped(wrapper, ending, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"module.a": torch.ones(2, dtype=torch.bfloat16), "module.b": torch.tensor(3)}
    content = tensors if wrapper is None else {wrapper: tensors, "epoch": 7}
    torch.save(content, tmp_path / f"weights{ending}")
    got = load_state_dict(tmp_path / f"weights{ending}")
    assert got.keys() == {"a", "b"}
    assert (got["a"].dtype, got["b"].dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(got["a"], [1, 1])


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.torch
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": _Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="unpickling anything else could run code"):
        load_state_dict(tmp_path / "weights.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.torch
def test_torch_files_without_named_tensors_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(InputError, match="save model.state_dict\\(\\) alone"):
        load_state_dict(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(InputError, match="holds a list, but expected a dict of tensors"):
        load_state_dict(path)
    torch.save({"weight": torch.ones(2), "accuracy": 0.5}, path)
    with pytest.raises(InputError, match="holds a float under 'accuracy'"):
        load_state_dict(path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="could not be read"):
        load_state_dict(path)
