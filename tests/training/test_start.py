"""States to start from, made by one program: the same bits as made step by step, and copies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import ModelConfig
from mu_jax.models import build_model
from mu_jax.training.start import fresh_start, start_from
from mu_jax.training.state import initial_state, state_from_variables, variables_of
from mu_jax.training.step import Recipe


@functools.cache
def recipe(optimizer):
    model = build_model(
        ModelConfig(name="cnn", width=8), num_classes=3, image_shape=(8, 8, 1), convolution="patches"
    )
    return Recipe(model=model, mean=(0.5,), std=(0.5,), optimizer=optimizer)


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_they_are_what_is_made_step_by_step(optimizer):
    one, key = recipe(optimizer), jax.random.key(7)
    expected = initial_state(one.model, one.make_optimizer(), key)
    assert_equal(fresh_start(one, key), expected)
    assert_equal(
        start_from(one, variables_of(expected)),
        state_from_variables(variables_of(expected), one.make_optimizer()),
    )


def test_given_weights_can_be_read_when_training_has_used_up_the_state():
    variables = variables_of(fresh_start(recipe("sgd"), jax.random.key(0)))
    before = jax.tree.map(lambda leaf: np.array(leaf, copy=True), variables)
    state = start_from(recipe("sgd"), variables)
    used_up = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    jax.block_until_ready(used_up(state))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert_equal(variables, before)


def test_host_arrays_are_as_good():
    variables = variables_of(fresh_start(recipe("sgd"), jax.random.key(0)))
    on_host = jax.tree.map(np.asarray, variables)
    assert_equal(start_from(recipe("sgd"), on_host), start_from(recipe("sgd"), variables))


def test_another_loss_compiles_nothing_anew():
    variables = variables_of(fresh_start(recipe("sgd"), jax.random.key(0)))
    start_from(recipe("sgd"), variables)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: compiled.append(event))
    try:
        other = dataclasses.replace(
            recipe("sgd"), loss=lambda logits, targets: -jnp.sum(logits * targets, -1)
        )
        start_from(other, variables)
        fresh_start(other, jax.random.key(0))
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [event for event in compiled if "backend_compile" in event]
