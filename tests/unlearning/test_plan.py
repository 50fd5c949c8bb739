import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.models.mlp import mlp_model
from mu_jax.training.chunk import label_targets
from mu_jax.unlearning.plan import Edit, Plan, Task, carry_out

SHAPE, CLASSES, N = (4, 4, 1), 3, 30
OPTIMIZATION = OptimizationConfig(epochs=2.0, batch_size=6, learning_rate=0.05)


@pytest.fixture(scope="module", name="task")
def task_fixture():
    rng = np.random.default_rng(0)
    model = mlp_model((4,), CLASSES, SHAPE)
    return Task(
        model=model,
        images=jnp.asarray(rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8)),
        labels=(np.arange(N) % CLASSES).astype(np.int32),
        num_classes=CLASSES,
        retain=np.flatnonzero(np.arange(N) % CLASSES),
        forget=np.flatnonzero(np.arange(N) % CLASSES == 0),
        data=DataConfig(),
        seed=0,
        original=model.init(jax.random.key(0)),
        forget_classes=(0,),
    )


def same_bits(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_plan_may_train_a_network_of_its_own_and_finish_as_the_tasks(task):
    wider = mlp_model((4,), CLASSES + 1, SHAPE)
    start = wider.init(jax.random.key(1))
    targets = label_targets(np.where(task.labels == 0, CLASSES, task.labels), CLASSES + 1)

    def pruned(variables):
        head = {name: leaf[..., :CLASSES] for name, leaf in variables["params"]["head"].items()}
        return {**variables, "params": {**variables["params"], "head": head}}

    plan = Plan(
        name="wider",
        start="original",
        examples=task.examples().replace(targets=jnp.asarray(targets)),
        index=np.arange(N),
        optimization=OPTIMIZATION,
        model=wider,
        variables=start,
    )
    whole = carry_out(plan, task, chunk_steps=10)
    assert whole.variables["params"]["head"]["bias"].shape == (CLASSES + 1,)
    assert not same_bits(whole.variables, start)
    finished = carry_out(dataclasses.replace(plan, finish=pruned), task, chunk_steps=10)
    assert same_bits(finished.variables, pruned(whole.variables))
    assert finished.trained_samples == 2 * N
    still = dataclasses.replace(OPTIMIZATION, learning_rate=1e-30, weight_decay=0.0)
    resting = carry_out(dataclasses.replace(plan, optimization=still), task, chunk_steps=10)
    assert same_bits(resting.variables["params"], start["params"])


def test_an_edit_is_done_already(task):
    changed = jax.tree.map(lambda leaf: 2 * leaf, task.original)
    outcome = carry_out(Edit("double", changed, read_samples=7), task, chunk_steps=10)
    assert outcome.trained_samples == 0
    assert same_bits(outcome.variables, changed)


def test_classes_to_forget_are_asked_for_in_words(task):
    assert task.require_classes("trw") == (0,)
    with pytest.raises(
        InputError, match="'trw' forgets whole classes, but the forget set is of single examples"
    ):
        dataclasses.replace(task, forget_classes=()).require_classes("trw")
    with pytest.raises(
        InputError, match="at least two classes that stay, but 3 classes without 2 to forget leave 1"
    ):
        dataclasses.replace(task, forget_classes=(0, 1)).require_classes("trw")


def test_logits_of_the_original_are_asked_for_once(task):
    asked = task.original_logits("trw")
    assert asked.shape == (N, CLASSES)
    known = dataclasses.replace(task, known_logits=asked + 1)
    np.testing.assert_array_equal(known.original_logits("trw"), asked + 1)
    with pytest.raises(InputError, match="'trw' reads the original model, but the task holds none"):
        dataclasses.replace(known, original=None).original_logits("trw")
