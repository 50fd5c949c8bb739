"""The ViT against one of `torch.nn.TransformerEncoderLayer`: reading its weights, and logits and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.mlp import mlp_model
from mu_jax.models.pytorch_import import FROM_STATE_DICT, load_state_dict
from mu_jax.models.pytorch_vit import vit_from_state_dict
from mu_jax.models.vit import EPSILON, vit_model


def like_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


LIKE = like_of(vit_model(4, 5, (4, 6, 3), patch_size=2, depth=2, heads=2))
"""Six patches of 2×2×3."""
FAMILIES = {
    "torch": {
        "class_token": "class_token",
        "position": "pos_embedding",
        "patches": "conv_proj.",
        "norm": "encoder.norm.",
        "head": "head.",
        "block": "encoder.layers.{}.",
        "norm1": "norm1.",
        "qkv": "self_attn.in_proj_",
        "projection": "self_attn.out_proj.",
        "norm2": "norm2.",
        "mlp1": "linear1.",
        "mlp2": "linear2.",
    },
    "torchvision": {
        "class_token": "class_token",
        "position": "encoder.pos_embedding",
        "patches": "conv_proj.",
        "norm": "encoder.ln.",
        "head": "heads.head.",
        "block": "encoder.layers.encoder_layer_{}.",
        "norm1": "ln_1.",
        "qkv": "self_attention.in_proj_",
        "projection": "self_attention.out_proj.",
        "norm2": "ln_2.",
        "mlp1": "mlp.0.",
        "mlp2": "mlp.3.",
    },
    "timm": {
        "class_token": "cls_token",
        "position": "pos_embed",
        "patches": "patch_embed.proj.",
        "norm": "norm.",
        "head": "head.",
        "block": "blocks.{}.",
        "norm1": "norm1.",
        "qkv": "attn.qkv.",
        "projection": "attn.proj.",
        "norm2": "norm2.",
        "mlp1": "mlp.fc1.",
        "mlp2": "mlp.fc2.",
    },
}


def public_state_dict(family="torch"):
    """A state_dict of distinct numbers, named and shaped as `LIKE`'s network in PyTorch."""
    names = FAMILIES[family]
    shapes = {names["class_token"]: (1, 1, 4), names["position"]: (1, 7, 4)}

    def layer(prefix, weight):
        shapes.update({f"{prefix}weight": weight, f"{prefix}bias": weight[:1]})

    layer(names["patches"], (4, 3, 2, 2))
    for block in range(2):
        prefix = names["block"].format(block)
        for part, weight in {
            "norm1": (4,), "qkv": (12, 4), "projection": (4, 4), "norm2": (4,), "mlp1": (16, 4), "mlp2": (4, 16)
        }.items():  # fmt: skip
            layer(prefix + names[part], weight)
    layer(names["norm"], (4,))
    layer(names["head"], (5, 4))
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_reach_their_place_and_layout(family):
    state_dict, names = public_state_dict(family), FAMILIES[family]
    variables = vit_from_state_dict(state_dict, LIKE)
    params = variables["params"]
    assert jax.tree.structure(variables) == jax.tree.structure(LIKE)
    np.testing.assert_array_equal(params["class_token"], state_dict[names["class_token"]][0, 0])
    np.testing.assert_array_equal(params["position"], state_dict[names["position"]][0])
    embedding = state_dict[names["patches"] + "weight"]
    # Row 1, column 0, channel 2 of a patch.
    np.testing.assert_array_equal(params["patches"]["kernel"][(1 * 2 + 0) * 3 + 2], embedding[:, 2, 1, 0])
    np.testing.assert_array_equal(params["head"]["kernel"], state_dict[names["head"] + "weight"].T)
    np.testing.assert_array_equal(params["norm"]["scale"], state_dict[names["norm"] + "weight"])
    second = names["block"].format(1)
    for part in ("qkv", "projection", "mlp1", "mlp2"):
        np.testing.assert_array_equal(
            params["block2"][part]["kernel"], state_dict[second + names[part] + "weight"].T
        )
        np.testing.assert_array_equal(
            params["block2"][part]["bias"], state_dict[second + names[part] + "bias"]
        )
    np.testing.assert_array_equal(
        params["block2"]["norm2"]["bias"], state_dict[second + names["norm2"] + "bias"]
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("encoder.layers.1.self_attn.in_proj_weight"),
            "no 'encoder.layers.1.self_attn.in_proj_weight', but expected every weight of ViT",
        ),
        (lambda s: s.pop("conv_proj.weight"), "no 'conv_proj.weight'"),
        (lambda s: s.pop("class_token"), "no 'class_token'"),
        (
            lambda s: s.update({"blocks.2.norm1.weight": np.zeros(4)}),
            "'blocks.2.norm1.weight', which ViT does not",
        ),
        (lambda s: s.update({"pos_embed": np.zeros((1, 7, 4))}), "both 'pos_embedding' and 'pos_embed'"),
        (
            lambda s: s.update({"pos_embedding": np.zeros((1, 5, 4))}),
            r"\(1, 5, 4\), but .* expects \(1, 7, 4\)",
        ),
        (lambda s: s.update({"head.weight": np.zeros((9, 4))}), r"\(9, 4\), but this model expects \(5, 4\)"),
        (lambda s: s.update({"conv_proj.weight": np.zeros((4, 3, 4, 4))}), r"expects \(4, 3, 2, 2\)"),
        (
            lambda s: s.update({"conv_proj.weight": np.zeros((4, 12))}),
            r"\(4, 12\), but .* expects \(4, 12, 1, 1\)",
        ),
    ],
)
def test_state_dicts_of_other_networks_are_refused(change, message):
    state_dict = public_state_dict()
    change(state_dict)
    with pytest.raises(InputError, match=message):
        vit_from_state_dict(state_dict, LIKE)


def test_variables_of_other_networks_are_refused():
    like = like_of(mlp_model((3,), 5, (8, 8, 1)))
    with pytest.raises(InputError, match="params/hidden1/bias, which ViT does not have"):
        vit_from_state_dict(public_state_dict(), like)


def torch_network(side, channels, patch, width, depth, heads):
    """Of `torch.nn.TransformerEncoderLayer`, with random parameters: those of its layers are copies at first."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class TorchViT(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_proj = nn.Conv2d(channels, width, patch, patch)
            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embedding = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
            layer = nn.TransformerEncoderLayer(
                width,
                heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=EPSILON,
                batch_first=True,
                norm_first=True,
            )
            norm = nn.LayerNorm(width, eps=EPSILON)
            self.encoder = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
            self.head = nn.Linear(width, 10)

        def forward(self, images):
            x = self.conv_proj(images).flatten(2).transpose(1, 2)
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embedding
            return self.head(self.encoder(x)[:, 0])

    torch.manual_seed(0)
    network = TorchViT()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 10
                parameter.normal_(0, fan_in**-0.5)
    return torch, network


def random_images(batch, side, channels):
    return np.random.default_rng(0).normal(size=(batch, side, side, channels)).astype(np.float32)


def to_torch(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


QUICK = {"xla_backend_optimization_level": 0}
"""What is compiled runs once, so halve the compilation instead."""
CASES = [(32, 3, 4, 16, 2, 4), (8, 1, 4, 8, 2, 2), (8, 1, 2, 8, 3, 1)]
"""side, channels, patch, width, depth, heads"""


@pytest.mark.torch
@pytest.mark.parametrize("case", [*CASES, pytest.param((32, 3, 4, 192, 12, 3), marks=pytest.mark.slow)])
@pytest.mark.parametrize("ending", [".pth", pytest.param(".safetensors", marks=pytest.mark.slow)])
def test_evaluation_logits_agree(case, ending, tmp_path):
    side, channels, patch, width, depth, heads = case
    torch, network = torch_network(*case)
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    images = random_images(4, side, channels)
    with torch.no_grad():
        expected = network.eval()(to_torch(torch, images)).numpy()

    model = vit_model(width, 10, (side, side, channels), patch, depth, heads)
    variables = FROM_STATE_DICT["vit"](load_state_dict(path), like_of(model))
    apply = jax.jit(model.apply, static_argnames="train", compiler_options=QUICK)
    got, _ = apply(variables, images, train=False)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    # Other heads are another function: the test would see it.
    other = vit_model(width, 10, (side, side, channels), patch, depth, heads=width // 2)
    assert not np.allclose(
        jax.jit(lambda v: other.apply(v, images, train=False)[0])(variables), expected, atol=1e-3
    )


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_training_loss_and_gradients_agree(case):
    side, channels, patch, width, depth, heads = case
    torch, network = torch_network(*case)
    network.train()
    model = vit_model(width, 10, (side, side, channels), patch, depth, heads)
    state_dict = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
    variables = vit_from_state_dict(state_dict, like_of(model))
    images, labels = random_images(8, side, channels), np.arange(8)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[labels, labels])

    value, gradients = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(variables["params"])
    expected = torch.nn.functional.cross_entropy(network(to_torch(torch, images)), torch.from_numpy(labels))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-4)

    # The importer, tested above, carries PyTorch's gradients into our names and layouts.
    named = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    wanted = vit_from_state_dict(named, like_of(model))["params"]
    for (path, got), want in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(wanted), strict=True
    ):
        error = jnp.linalg.norm(got - want) / jnp.linalg.norm(want)
        assert error < 1e-3, f"{jax.tree_util.keystr(path)}: {error}"
