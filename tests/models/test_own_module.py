"""A user's own network: the same function as flax's own, and every fault named before anything is compiled."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError, ModelConfig
from mu_jax.models import build_model
from mu_jax.models.head import head_of, with_head
from mu_jax.models.own_code import load_own
from mu_jax.models.own_module import model_of

FILE = pathlib.Path(__file__).with_name("own_networks.py")
SHAPE, CLASSES = (8, 8, 1), 5
IMAGES = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


def build(name, *, convolution="xla", **settings):
    config = ModelConfig(name="own", module=f"{FILE}:{name}", **settings)
    return build_model(config, num_classes=CLASSES, image_shape=SHAPE, convolution=convolution)


@pytest.mark.parametrize("name", ["Plain", "Normed"])
def test_it_is_the_function_that_flax_makes_of_it(name):
    model, module = build(name, width=4), load_own(f"{FILE}:{name}")(CLASSES, 4)
    variables = model.init(jax.random.key(0))
    assert set(variables) == {"params", "batch_stats"}
    assert bool(variables["batch_stats"]) == (name == "Normed")
    given = {key: value for key, value in variables.items() if value}
    logits, batch_stats = model.apply(variables, IMAGES, train=False)
    np.testing.assert_allclose(logits, module.apply(given, IMAGES, train=False), rtol=1e-6)
    assert batch_stats == variables["batch_stats"]
    logits, batch_stats = model.apply(variables, IMAGES, train=True)
    wanted, updated = module.apply(given, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(logits, wanted, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, batch_stats, updated.get("batch_stats", {}))


def test_it_is_told_what_it_asks_for_and_nothing_else():
    assert build("made", convolution="patches").init(jax.random.key(0))["params"]["Dense_1"][
        "kernel"
    ].shape == (8, 5)
    # The config's width, because `Plain` has a field of that name.
    assert build("Plain", width=3).init(jax.random.key(0))["params"]["Dense_0"]["kernel"].shape == (64, 3)
    half = build("Normed", width=4, compute_dtype="bfloat16")
    variables = half.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact, _ = build("Normed", width=4).apply(variables, IMAGES, train=False)
    rounded, _ = half.apply(variables, IMAGES, train=False)
    assert 0 < np.abs(exact - rounded).max() < 0.05


@pytest.mark.parametrize("convolution", ["patches", "winograd"])
def test_its_convolutions_are_lowered_and_its_values_and_gradients_stay(convolution):
    plain, lowered = (build("Normed", width=4, convolution=how) for how in ("xla", convolution))
    variables = plain.init(jax.random.key(1))

    def loss(model):
        return jax.jit(
            jax.value_and_grad(
                lambda params: jnp.sum(
                    jnp.sin(model.apply({**variables, "params": params}, IMAGES, train=True)[0])
                )
            )
        )

    for mine, theirs in zip(
        *(jax.tree.leaves(loss(m)(variables["params"])) for m in (plain, lowered)), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    text = jax.jit(lambda v: lowered.apply(v, IMAGES, train=False)[0]).lower(variables).as_text()
    assert "stablehlo.convolution" not in text
    assert (
        "stablehlo.convolution"
        in jax.jit(lambda v: plain.apply(v, IMAGES, train=False)[0]).lower(variables).as_text()
    )
    # Outside nothing has changed.
    module = nn.Conv(2, (3, 3))
    text = jax.jit(lambda x: module.init_with_output(jax.random.key(0), x)[0]).lower(IMAGES).as_text()
    assert "stablehlo.convolution" in text


FORMS = {
    "same": {},
    "valid": {"padding": "VALID"},
    "even kernel": {"kernel_size": (2, 4)},
    "stride, uneven zeros": {"strides": (2, 2)},
    "pairs": {"padding": ((1, 0), (2, 2))},
    "circular": {"padding": "CIRCULAR"},
    "groups": {"feature_group_count": 2},
    "dilation": {"kernel_dilation": (2, 2)},
    "two strides": {"strides": (1, 2)},
    "precision": {"precision": "highest"},
}


QUICK = ("stride, uneven zeros", "groups")


@pytest.mark.parametrize(
    "form", [form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def test_every_form_of_convolution_keeps_its_values(form):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Conv(**{"features": 4, "kernel_size": (3, 3), **FORMS[form]})(x)
            return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))

    shape = (7, 8, 2)
    draw = np.random.default_rng(1)
    images = draw.normal(size=(3, *shape)).astype(np.float32)
    plain, lowered = (model_of(Net(), CLASSES, shape, how) for how in ("xla", "patches"))
    shapes = jax.eval_shape(plain.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)
    wanted, got = jax.jit(lambda v: [model.apply(v, images, train=False)[0] for model in (plain, lowered)])(
        variables
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)
    text = jax.jit(lambda v: lowered.apply(v, images, train=False)[0]).lower(variables).as_text()
    kept = form in ("groups", "dilation", "two strides", "precision")
    assert ("stablehlo.convolution" in text) == kept


def test_many_models_at_once_are_each_by_itself():
    model, draw = build("Normed", width=4, convolution="patches"), np.random.default_rng(2)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    stacked = jax.tree.map(lambda leaf: draw.random((3, *leaf.shape), np.float32), shapes)

    def logits(variables):
        return model.apply(variables, IMAGES, train=True)[0]

    together, apart = jax.jit(lambda v: (jax.vmap(logits)(v), jax.lax.map(logits, v)))(stacked)
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_its_head_is_found_replaced_and_widened():
    model = build("Normed", width=4)
    variables = model.init(jax.random.key(0))
    path, kernel, bias = head_of(model, variables["params"])
    assert path == ("Dense_0",) and kernel.shape == (4, CLASSES)
    logits, _, inputs = model.inputs(variables, IMAGES, train=False)
    np.testing.assert_allclose(inputs["Dense_0"] @ kernel + bias, logits, atol=1e-5)
    np.testing.assert_array_equal(inputs["Conv_0"], IMAGES)
    twice, _ = model.apply(with_head(model, variables, 2 * kernel, 2 * bias), IMAGES, train=False)
    np.testing.assert_allclose(twice, 2 * logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoClasses", r"takes \(.*\), but expected num_classes among it"),
        ("NoTrain", r"is called with \(images\), but expected \(images, \*, train\)"),
        ("Features", r"gives an output of shape \(2, 8, 8, 5\) .* expected logits of shape \(2, 5\)"),
        ("Pair", "gives tuple for a batch"),
        ("Halves", r"gives logits in bfloat16, but expected float32; end in .astype\(jnp.float32\)"),
        ("HalfWeights", r"keeps \['params'\]\['Dense_0'\]\['bias'\] in float16"),
        ("Dropping", "draws random numbers when it is called .*leave dropout"),
        ("Counting", "has variables of the kind 'counters'"),
        ("Weightless", "has no parameters"),
        ("Failing", r"fails on images of 8×8×1 \(KeyError: .*a fault of mine"),
        ("Needy", r"cannot be made of num_classes \(TypeError: .*depth"),
        ("Later", "other batch_stats after a step than before"),
        ("Functional", "is a flax.nnx module, .* write it as a flax.linen module"),
        ("no_module", "gives a .*, but expected a flax.linen module"),
        ("an_instance", "is a Plain, but expected a class"),
    ],
)
def test_every_fault_is_named_in_one_sentence(name, message):
    with pytest.raises(InputError, match=message) as refused:
        build(name)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("model.module")


def test_precision_needs_a_field_and_a_module_is_named_where_it_is_own():
    with pytest.raises(InputError, match="takes no dtype, so it computes as it likes"):
        build("Plain", compute_dtype="bfloat16")
    with pytest.raises(InputError, match="expected FILE.py:NAME where model.name is 'own'"):
        ModelConfig(name="own")
    with pytest.raises(InputError, match="nothing where model.name is 'cnn'"):
        ModelConfig(name="cnn", module="a.py:B")
