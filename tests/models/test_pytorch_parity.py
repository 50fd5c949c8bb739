"""Our ResNet-18 against the same network in PyTorch: logits, gradients, running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.models.pytorch_import import load_state_dict, resnet18_from_state_dict
from mu_jax.models.resnet import resnet18_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
nn = torch.nn

# What is compiled runs once, so halve the compilation instead.
QUICK = {"xla_backend_optimization_level": 0}


class TorchBlock(nn.Module):
    def __init__(self, before, features, stride, halve):
        super().__init__()
        self.conv1 = nn.Conv2d(before, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.projects = stride != 1 or before != features
        self.shortcut = nn.Sequential()
        if self.projects:
            projection = nn.Conv2d(before, features, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(features))
        self.halve = halve

    def forward(self, x):
        branch = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        total = branch + self.shortcut(x)
        return torch.relu(total / 2 if self.halve and self.projects else total)


class TorchResNet18(nn.Module):
    def __init__(self, width, classes, channels, halve):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for stage in range(4):
            features = width * 2**stage
            first = TorchBlock(before, features, 1 if stage == 0 else 2, halve)
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, TorchBlock(features, features, 1, halve)))
            before = features
        self.linear = nn.Linear(before, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean(dim=(2, 3)))


def _torch_network(width, channels, halve, classes=10):
    """A network whose affine parameters and running statistics are random, so that no two could be swapped."""
    torch.manual_seed(0)
    network = TorchResNet18(width, classes, channels, halve)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network


def _images(batch, shape, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def _to_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _numpy_state_dict(network):
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def _like(model):
    return jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize(
    ("width", "shape", "halve", "lowering", "ending"),
    [
        (16, (32, 32, 3), False, "xla", ".pth"),
        (16, (32, 32, 3), True, "patches", ".safetensors"),
        (8, (8, 8, 1), False, "patches", ".pt"),
        (8, (8, 8, 1), True, "xla", ".safetensors"),
        (8, (8, 8, 1), False, "winograd", ".pth"),
        (64, (32, 32, 3), False, "patches", ".safetensors"),
        (64, (32, 32, 3), False, "winograd", ".safetensors"),
    ],
)
def test_evaluation_logits_agree(width, shape, halve, lowering, ending, tmp_path):
    network = _torch_network(width, shape[-1], halve).eval()
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    images = _images(4, shape)
    with torch.no_grad():
        expected = network(_to_torch(images)).numpy()

    model = resnet18_model(width, 10, shape, halve, lowering)
    variables = resnet18_from_state_dict(load_state_dict(path), _like(model))
    got, _ = jax.jit(model.apply, static_argnames="train", compiler_options=QUICK)(
        variables, images, train=False
    )
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "shape", "halve", "lowering"),
    # Winograd on fewer pixels: of 32×32 images some pixel is so near zero that rounding takes it across a ReLU, whose
    # gradient is then another one (by 4e-3; without such a pixel all lowerings differ from PyTorch by 1e-5 or less).
    [
        (16, (32, 32, 3), False, "patches"),
        (8, (16, 16, 1), False, "winograd"),
        (8, (16, 16, 1), True, "xla"),
    ],
)
def test_training_gradients_and_statistics_agree(width, shape, halve, lowering):
    batch = 8
    network = _torch_network(width, shape[-1], halve).train()
    model = resnet18_model(width, 10, shape, halve, lowering)
    variables = resnet18_from_state_dict(_numpy_state_dict(network), _like(model))
    images, labels = _images(batch, shape), np.arange(batch)

    def loss(params):
        logits, batch_stats = model.apply({**variables, "params": params}, images, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[labels, labels]), batch_stats

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (value, batch_stats), gradients = step(variables["params"])

    expected = nn.functional.cross_entropy(network(_to_torch(images)), torch.from_numpy(labels))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-4)

    # The importer, tested by itself, carries PyTorch's gradients into our names and layouts.
    state_dict = _numpy_state_dict(network)
    named = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    after = resnet18_from_state_dict({**state_dict, **named}, _like(model))
    for (path, got), want in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(after["params"]), strict=True
    ):
        error = jnp.linalg.norm(got - want) / jnp.linalg.norm(want)
        assert error < 1e-3, f"{jax.tree_util.keystr(path)}: {error}"

    for path, mean_or_var in jax.tree_util.tree_leaves_with_path(batch_stats):
        *modules, leaf = (entry.key for entry in path)
        old, want = variables["batch_stats"], after["batch_stats"]
        for key in (*modules, leaf):
            old, want = old[key], want[key]
        if leaf == "var":
            # PyTorch's running variance takes the unbiased one, n/(n−1) times ours, n the pixels of a channel.
            stage = 1 if "stem" in modules[0] else int(modules[0][len("stage")])
            n = batch * (shape[0] // 2 ** (stage - 1)) * (shape[1] // 2 ** (stage - 1))
            want = 0.9 * old + (want - 0.9 * old) * (n - 1) / n
        np.testing.assert_allclose(mean_or_var, want, rtol=1e-4, atol=1e-5, err_msg=str(path))
