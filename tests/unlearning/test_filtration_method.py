"""Linear filtration as a method: the edited network gives the filtered logits, whatever its head was."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mu_jax.config import InputError
from mu_jax.config.class_methods import LinearFiltrationConfig
from mu_jax.models.head import head_of, with_head
from mu_jax.unlearning.filtration_method import cure, linear_filtration_method
from mu_jax.unlearning.linear_filtration import (
    MAX_CONDITION,
    class_means_of,
    filter_logits,
    filtration_matrix,
)
from mu_jax.unlearning.plan import carry_out

MODES = ("naive", "normalization", "randomization", "zeroing")
KEPT = [0, 1, 3, 4]


def logits_of(task, variables):
    return dataclasses.replace(task, original=variables).original_logits("test")


def with_changed_head(task, change):
    _, kernel, bias = head_of(task.model, task.original["params"])
    kernel, bias = change(np.asarray(kernel), np.asarray(bias))
    return dataclasses.replace(task, original=with_head(task.model, task.original, kernel, bias))


def centred(task):
    """The same probabilities, from logits that sum to 0, as weight decay makes them in the long run."""
    return with_changed_head(
        task, lambda kernel, bias: (kernel - kernel.mean(1, keepdims=True), bias - bias.mean())
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_edited_network_gives_the_filtered_logits(mlp_task, mode):
    edit = linear_filtration_method(mlp_task, LinearFiltrationConfig(mode=mode, margin=20.0))
    logits = mlp_task.original_logits("test")
    rows = np.concatenate([mlp_task.retain, mlp_task.forget])
    means = class_means_of(logits[rows], mlp_task.labels[rows], 5)
    constant = cure(means)
    matrix = filtration_matrix(means + constant, 2, mode, seed=mlp_task.seed)
    wanted = filter_logits(logits + constant, matrix, deleted=2, margin=20.0)
    got = logits_of(mlp_task, carry_out(edit, mlp_task, chunk_steps=1).variables)
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    assert edit.name == "linear_filtration" and edit.read_samples == 360
    for name in ("hidden1", "hidden2"):
        np.testing.assert_array_equal(
            edit.variables["params"][name]["kernel"], mlp_task.original["params"][name]["kernel"]
        )


def test_the_class_is_never_said_and_the_others_as_if_it_were_masked(mlp_task, accuracies):
    before = accuracies(mlp_task, mlp_task.original)
    edit = linear_filtration_method(mlp_task, LinearFiltrationConfig())
    forget, retain, test = accuracies(mlp_task, edit.variables)
    assert before[0] > 0.8 and forget == 0
    assert retain >= before[1] and test >= before[2]
    posterior = softmax(logits_of(mlp_task, edit.variables).astype(np.float64), axis=1)
    assert posterior[:, 2].max() <= np.exp(-30) * (1 + 1e-4)
    wanted = softmax(mlp_task.original_logits("test")[:, KEPT].astype(np.float64), axis=1)
    np.testing.assert_allclose(posterior[:, KEPT], wanted, atol=1e-4)


def test_two_classes_at_once(mlp_task, accuracies):
    moved = np.isin(mlp_task.labels[mlp_task.retain], [4])
    task = dataclasses.replace(
        mlp_task,
        forget=np.concatenate([mlp_task.forget, mlp_task.retain[moved]]),
        retain=mlp_task.retain[~moved],
        forget_classes=(2, 4),
    )
    edit = linear_filtration_method(task, LinearFiltrationConfig(mode="zeroing"))
    assert accuracies(task, edit.variables)[0] == 0
    assert softmax(logits_of(task, edit.variables), axis=1)[:, [2, 4]].max() < 1e-9


@pytest.mark.parametrize("mode", ["naive", "normalization"])
def test_logits_that_sum_to_zero_are_cured_and_no_probability_knows(mlp_task, mode):
    task = centred(mlp_task)
    rows = np.concatenate([task.retain, task.forget])
    means = class_means_of(task.original_logits("test")[rows], task.labels[rows], 5)
    with pytest.raises(InputError, match="sum to about 0"):
        filtration_matrix(means, 2, mode)
    constant = cure(means)
    assert constant == pytest.approx(np.sqrt((means**2).mean()))
    assert np.linalg.cond(means + constant) < MAX_CONDITION
    ours, plain = (
        linear_filtration_method(each, LinearFiltrationConfig(mode=mode)).variables
        for each in (task, mlp_task)
    )
    kept = [log_softmax(logits_of(each, v)[:, KEPT], axis=1) for each, v in ((task, ours), (mlp_task, plain))]
    np.testing.assert_allclose(kept[0], kept[1], rtol=1e-3, atol=1e-3)


def test_the_cure_leaves_sound_means_alone():
    assert cure(np.diag([3.0, 2.0, 1.0])) == 0
    # 1 − 1/3 on the diagonal, −1/3 elsewhere: columns sum to 0; mean square (3·4/9 + 6·1/9)/9.
    assert cure(np.eye(3) - 1 / 3) == pytest.approx(np.sqrt(2 / 9))


def test_classes_that_the_network_does_not_tell_apart_are_refused(mlp_task):
    def same(kernel, bias):
        kernel, bias = kernel.copy(), bias.copy()
        kernel[:, 1], bias[1] = kernel[:, 0], bias[0]
        return kernel, bias

    with pytest.raises(InputError, match="condition number"):
        linear_filtration_method(with_changed_head(mlp_task, same), LinearFiltrationConfig())


def test_bad_input_is_refused(mlp_task):
    examples = dataclasses.replace(mlp_task, forget_classes=())
    with pytest.raises(
        InputError, match="'linear_filtration' forgets whole classes, but the forget set is of single"
    ):
        linear_filtration_method(examples, LinearFiltrationConfig())
    with pytest.raises(InputError, match="needs at least two classes that stay"):
        linear_filtration_method(dataclasses.replace(mlp_task, num_classes=2), LinearFiltrationConfig())
    with pytest.raises(InputError, match="reads the original model"):
        linear_filtration_method(dataclasses.replace(mlp_task, original=None), LinearFiltrationConfig())
    with pytest.raises(InputError, match="mode is 'zero', but expected one of naive"):
        LinearFiltrationConfig(mode="zero")
    with pytest.raises(InputError, match=r"margin is 0\.0, but expected a positive finite"):
        LinearFiltrationConfig(margin=0.0)
    assert jnp.isfinite(mlp_task.original["params"]["head"]["kernel"]).all()
