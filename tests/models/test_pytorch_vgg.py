"""VGG against the same network in PyTorch: reading its weights, and logits, gradients, running statistics."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.mlp import mlp_model
from mu_jax.models.pytorch_import import FROM_STATE_DICT, load_state_dict
from mu_jax.models.pytorch_vgg import vgg_from_state_dict
from mu_jax.models.vgg import CONVOLUTIONS, MULTIPLES, vgg_model

# What is compiled runs once, so halve the compilation instead.
QUICK = {"xla_backend_optimization_level": 0}
CONVOLUTIONS_OF_11 = (0, 4, 8, 11, 15, 18, 22, 25)
"""torchvision's `vgg11_bn().features`: where its convolutions stand, by hand."""


def like_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


LIKE = like_of(vgg_model(11, 2, 5, (8, 8, 1)))


def public_state_dict(biases=True):
    """A state_dict of distinct numbers, named and shaped as a CIFAR VGG-11 of width 2 with batch-norm in PyTorch."""
    shapes, before = {}, 1
    for place, features in zip(CONVOLUTIONS_OF_11, (2, 4, 8, 8, 16, 16, 16, 16), strict=True):
        shapes[f"features.{place}.weight"] = (features, before, 3, 3)
        if biases:
            shapes[f"features.{place}.bias"] = (features,)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{place + 1}.{leaf}"] = (features,)
        shapes[f"features.{place + 1}.num_batches_tracked"] = ()
        before = features
    shapes["classifier.weight"], shapes["classifier.bias"] = (5, 16), (5,)
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("head", ["classifier", "fc", "linear", "classifier.0"])
@pytest.mark.parametrize("biases", [True, False])
def test_tensors_reach_their_place_and_layout(head, biases):
    given = {name.replace("classifier", head): value for name, value in public_state_dict(biases).items()}
    variables = vgg_from_state_dict(given, LIKE)
    params, stats = variables["params"], variables["batch_stats"]
    assert jax.tree.structure(variables) == jax.tree.structure(LIKE)
    np.testing.assert_array_equal(params["head"]["kernel"], given[f"{head}.weight"].T)
    for number, place in enumerate(CONVOLUTIONS_OF_11, start=1):
        kernel, original = params[f"conv{number}"]["kernel"], given[f"features.{place}.weight"]
        assert kernel[2, 0, -1, 1] == original[1, -1, 2, 0]
        norm = params[f"norm{number}"]
        np.testing.assert_array_equal(norm["scale"], given[f"features.{place + 1}.weight"])
        np.testing.assert_array_equal(norm["bias"], given[f"features.{place + 1}.bias"])
        np.testing.assert_array_equal(
            stats[f"norm{number}"]["var"], given[f"features.{place + 1}.running_var"]
        )
        mean = given[f"features.{place + 1}.running_mean"]
        if biases:
            mean = mean - given[f"features.{place}.bias"]
        np.testing.assert_array_equal(stats[f"norm{number}"]["mean"], mean)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("features.5.running_mean"),
            "no 'features.5.running_mean', but expected every weight of VGG-11",
        ),
        (lambda s: s.pop("features.0.weight"), "no 'features.0.weight'"),
        (
            lambda s: s.update({"features.28.weight": np.zeros(1)}),
            "'features.28.weight', which VGG-11 does not have",
        ),
        (lambda s: s.update({"fc.bias": np.zeros(5)}), "both 'classifier.bias' and 'fc.bias'"),
        (
            lambda s: s.update({"classifier.weight": np.zeros((9, 16))}),
            r"\(9, 16\), but .* expects \(5, 16\)",
        ),
        (lambda s: s.update({"features.0.weight": np.zeros((2, 3, 3, 3))}), r"expects \(2, 1, 3, 3\)"),
        (
            lambda s: s.update({"features.4.bias": np.zeros(1)}),
            r"'features.4.bias' has shape \(1,\), but 'features.5",
        ),
        (
            lambda s: s.update({"classifier.3.weight": np.zeros((9, 9))}),
            "a classifier of several dense layers",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if "running" in name],
            "no running statistics, but expected those of a VGG with batch-norm",
        ),
    ],
)
def test_state_dicts_of_other_networks_are_refused(change, message):
    state_dict = public_state_dict()
    change(state_dict)
    with pytest.raises(InputError, match=message):
        vgg_from_state_dict(state_dict, LIKE)


def test_other_depths_and_variables_of_other_networks_are_refused():
    with pytest.raises(InputError, match="but expected every weight of VGG-16"):
        vgg_from_state_dict(public_state_dict(), like_of(vgg_model(16, 2, 5, (8, 8, 1))))
    with pytest.raises(InputError, match="params/head, which VGG does not have"):
        vgg_from_state_dict(public_state_dict(), like_of(mlp_model((3,), 5, (8, 8, 1))))


def torch_network(depth, width, channels, side, biases):
    """The common CIFAR layout, whose affine parameters and running statistics are random: no two could be swapped."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    features, before = [], channels
    for number, multiple in zip(CONVOLUTIONS[depth], MULTIPLES, strict=True):
        for _ in range(number):
            convolution = nn.Conv2d(before, multiple * width, 3, padding=1, bias=biases)
            features += [convolution, nn.BatchNorm2d(multiple * width), nn.ReLU()]
            before = multiple * width
        # A pool that would leave nothing keeps its place among the features.
        features.append(nn.MaxPool2d(2) if side > 1 else nn.Identity())
        side = max(side // 2, 1)
    for module in features:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            # PyTorch's own start lets the signal fade over so many layers.
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    parts = {
        "features": nn.Sequential(*features),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": nn.Linear(before, 10),
    }
    return torch, nn.Sequential(collections.OrderedDict(parts))


def random_images(batch, shape):
    return np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)


def to_torch(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def numpy_state_dict(network):
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


slow = pytest.mark.slow


@pytest.mark.torch
@pytest.mark.parametrize(
    ("depth", "width", "side", "channels", "biases", "lowering"),
    [
        (11, 8, 32, 3, True, "patches"),
        (11, 8, 8, 1, False, "xla"),
        pytest.param(11, 8, 64, 3, True, "winograd", marks=slow),
        pytest.param(16, 8, 32, 3, True, "xla", marks=slow),
        pytest.param(19, 8, 8, 1, False, "winograd", marks=slow),
        pytest.param(19, 8, 32, 3, True, "patches", marks=slow),
        pytest.param(16, 64, 32, 3, True, "winograd", marks=slow),
    ],
)
def test_evaluation_logits_agree(depth, width, side, channels, biases, lowering, tmp_path):
    torch, network = torch_network(depth, width, channels, side, biases)
    torch.save(network.eval().state_dict(), tmp_path / "weights.pth")
    images = random_images(4, (side, side, channels))
    with torch.no_grad():
        expected = network(to_torch(torch, images)).numpy()

    model = vgg_model(depth, width, 10, (side, side, channels), lowering)
    variables = FROM_STATE_DICT[f"vgg{depth}"](load_state_dict(tmp_path / "weights.pth"), like_of(model))
    apply = jax.jit(model.apply, static_argnames="train", compiler_options=QUICK)
    got, _ = apply(variables, images, train=False)
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("depth", "side", "channels", "biases", "lowering"),
    [
        (11, 16, 3, True, "patches"),
        pytest.param(11, 32, 1, False, "xla", marks=slow),
        pytest.param(16, 16, 3, True, "winograd", marks=slow),
        pytest.param(19, 16, 1, True, "patches", marks=slow),
    ],
)
def test_training_gradients_and_statistics_agree(depth, side, channels, biases, lowering):
    batch, width = 16, 8
    torch, network = torch_network(depth, width, channels, side, biases)
    network.train()
    model = vgg_model(depth, width, 10, (side, side, channels), lowering)
    variables = vgg_from_state_dict(numpy_state_dict(network), like_of(model))
    images, labels = random_images(batch, (side, side, channels)), np.arange(batch) % 10

    def loss(params):
        logits, batch_stats = model.apply({**variables, "params": params}, images, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(batch), labels]), batch_stats

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (value, batch_stats), gradients = step(variables["params"])

    expected = torch.nn.functional.cross_entropy(network(to_torch(torch, images)), torch.from_numpy(labels))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-4)

    # The importer, tested above, carries PyTorch's gradients into our names and layouts; those of convolutions' biases,
    # which batch-norm takes away, are zero, and the biases themselves fold into the running means.
    convolutions = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    named = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    if biases:
        for name in convolutions:
            assert np.abs(named.pop(f"{name}.bias")).max() < 1e-5 * np.abs(named[f"{name}.weight"]).max()
    after = vgg_from_state_dict({**numpy_state_dict(network), **named}, like_of(model))
    for (path, got), want in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(after["params"]), strict=True
    ):
        error = jnp.linalg.norm(got - want) / jnp.linalg.norm(want)
        assert error < 1e-3, f"{jax.tree_util.keystr(path)}: {error}"

    sides = [layer.output_shape[0] for layer in model.layers()[:-1]]
    for number, here in enumerate(sides, start=1):
        old, got, want = (
            stats[f"norm{number}"] for stats in (variables["batch_stats"], batch_stats, after["batch_stats"])
        )
        np.testing.assert_allclose(got["mean"], want["mean"], rtol=1e-4, atol=1e-5)
        # PyTorch's running variance takes the unbiased one, n/(n−1) times ours, n the pixels of a channel.
        n = batch * here**2
        var = 0.9 * old["var"] + (want["var"] - 0.9 * old["var"]) * (n - 1) / n
        np.testing.assert_allclose(got["var"], var, rtol=1e-4, atol=1e-5)
