"""What the weights alone decide is computed once: the same function, and less inside."""

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.adversarial.constant import with_constant
from mu_jax.models.cnn import cnn_model

SHAPE = (6, 6, 1)


def test_by_hand():
    def function(weights, x):
        return {"y": jnp.exp(weights["a"]) * x + jnp.sum(weights["b"]), "weights": weights["a"]}

    weights = {"a": jnp.log(jnp.array([2.0, 3.0])), "b": jnp.array([1.0, 4.0])}
    rest = with_constant(function, weights, jnp.zeros(2))
    result = rest(jnp.array([10.0, 100.0]))
    np.testing.assert_allclose(result["y"], [25.0, 305.0], rtol=1e-6)
    np.testing.assert_array_equal(result["weights"], weights["a"])
    inside = {str(equation.primitive) for equation in jax.make_jaxpr(rest)(jnp.zeros(2)).jaxpr.eqns}
    assert inside == {"mul", "add"}


def test_what_makes_an_array_much_larger_stays_inside():
    def function(weights, x):
        return jnp.broadcast_to(jnp.sin(weights)[:, None], (2, 100)) * x

    rest = with_constant(function, jnp.ones(2), jnp.zeros((2, 100)))
    inside = [str(equation.primitive) for equation in jax.make_jaxpr(rest)(jnp.zeros((2, 100))).jaxpr.eqns]
    assert "broadcast_in_dim" in inside
    assert "sin" not in inside


def test_a_networks_gradient_is_the_same_and_kernels_are_transformed_outside():
    model = cnn_model(4, 3, SHAPE, "winograd")
    variables = model.init(jax.random.key(0))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), variables)
    images = jax.random.normal(jax.random.key(1), (5, *SHAPE))

    def function(variables, images):
        return jax.grad(lambda x: jnp.sum(model.apply(variables, x, train=False)[0][:, 0]))(images)

    def split(variables, images):
        return with_constant(function, variables, images)(images)

    whole = jax.jit(function)(variables, images)
    together = jax.jit(jax.vmap(split, in_axes=(0, None)))(two, images)
    np.testing.assert_allclose(together[0], whole, rtol=1e-5, atol=1e-7)
    assert np.abs(together[1] - whole).max() > 1e-3

    def products(function, *arguments):
        return str(jax.make_jaxpr(function)(*arguments)).count("dot_general[")

    inside = products(with_constant(function, variables, images), images)
    assert 0 < inside < products(function, variables, images)
