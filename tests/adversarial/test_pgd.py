"""The search for the smallest ε: by hand on a linear model, against a slow NumPy twin, and whatever the companions."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mu_jax.adversarial import attack, compaction, sharing
from mu_jax.adversarial.attack import FLIPPED, WORKING, Settings, Slots, make_advance
from mu_jax.adversarial.pgd import fgsm, minimal_epsilon, pgd, pgd_l2, pgd_linf
from mu_jax.adversarial.pixels import PixelModel, predict, to_bytes
from mu_jax.config import InputError
from mu_jax.models.cnn import cnn_model
from mu_jax.models.mlp import mlp_model

SHAPE, CLASSES, N = (6, 6, 1), 3, 24
MEAN, STD = (0.4,), (0.25,)


@pytest.fixture(scope="module")
def linear():
    """Two classes; grey images near the boundary, so that nothing is clamped."""
    rng = np.random.default_rng(0)
    attacked = PixelModel(mlp_model((), 2, SHAPE), MEAN, STD)
    variables = attacked.model.init(jax.random.key(0))
    images = rng.uniform(0.4, 0.6, (N, *SHAPE)).astype(np.float32)
    head = jax.tree.map(np.asarray, variables["params"]["head"])
    kernel = next(leaf for leaf in jax.tree.leaves(head) if leaf.ndim == 2)
    w = (kernel[:, 1] - kernel[:, 0]) / STD[0]
    margin = np.asarray(attacked.logits(variables, jnp.asarray(images))) @ np.array([-1, 1])
    return attacked, variables, images, (margin > 0).astype(np.int32), np.abs(margin), w


@pytest.fixture(scope="module")
def victim():
    """A network whose logits are far apart, with images of bytes."""
    rng = np.random.default_rng(1)
    attacked = PixelModel(mlp_model((16,), CLASSES, SHAPE), MEAN, STD)
    variables = jax.tree.map(lambda leaf: 3 * leaf, attacked.model.init(jax.random.key(1)))
    images = rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    labels = predict(attacked, variables, images)
    labels[:3] = (labels[:3] + 1) % CLASSES
    return attacked, variables, images, labels


SEARCH = {"epsilon": 0.05, "max_epsilon": 6.4, "steps": 10, "batch_size": 8}


def same(one, other, rtol=1e-5):
    np.testing.assert_array_equal(one.status, other.status)
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_array_equal(one.epsilon, other.epsilon)
    np.testing.assert_array_equal(one.predicted, other.predicted)
    np.testing.assert_allclose(one.images, other.images, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_of_a_linear_model_the_search_brackets_the_distance_to_the_boundary(linear, norm):
    attacked, variables, images, labels, margin, w = linear
    # The dual norm: |w·x + b| / ‖w‖₂ in ℓ2, over ‖w‖₁ in ℓ∞.
    nearest = margin / np.linalg.norm(w, 2 if norm == "l2" else 1)
    epsilon = float(nearest.min()) / 3
    found = pgd(
        attacked,
        variables,
        images,
        labels,
        norm=norm,
        epsilon=epsilon,
        max_epsilon=2.0,
        steps=11,
        batch_size=8,
    )
    assert found.flipped.all()
    assert not found.already.any()
    assert np.all((nearest < found.epsilon) & (found.epsilon < 2 * nearest * 1.001))
    # A step is ε/10, and the first iterate beyond the boundary is kept.
    assert np.all((nearest < found.distance) & (found.distance <= nearest + 0.1001 * found.epsilon))
    delta = np.abs(found.images - images).reshape(N, -1)
    np.testing.assert_allclose(
        found.distance, np.linalg.norm(delta, axis=1) if norm == "l2" else delta.max(axis=1), rtol=1e-5
    )
    np.testing.assert_array_equal(predict(attacked, variables, found.images), 1 - labels)
    assert len(set(found.epsilon)) > 2


def twin(victim, row, epsilon, max_epsilon, steps):
    """The search for one example, in float64 NumPy with the cross-entropy's own gradient, label tested before steps."""
    _attacked, variables, images, labels = victim
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    (w1, b1), (w2, b2) = (
        (next(x for x in layer.values() if x.ndim == 2), next(x for x in layer.values() if x.ndim == 1))
        for layer in (weights["hidden1"], weights["head"])
    )
    origin = images[row].reshape(-1) / 255.0
    x, y = origin.copy(), labels[row]
    taken = 0
    while True:
        for step in range(steps + 1):
            hidden = np.maximum((x - MEAN[0]) / STD[0] @ w1 + b1, 0)
            z = hidden @ w2 + b2
            if z.argmax() != y:
                return x, (epsilon if taken else 0.0), taken, z.argmax()
            if step == steps:
                break
            p = np.exp(z - z.max())
            p /= p.sum()
            gradient = ((p - np.eye(CLASSES)[y]) @ w2.T * (hidden > 0)) @ w1.T / STD[0]
            delta = x + 0.1 * epsilon * gradient / np.linalg.norm(gradient) - origin
            x = np.clip(origin + delta * min(1, epsilon / np.linalg.norm(delta)), 0, 1)
            taken += 1
        if 2 * epsilon > max_epsilon:
            return x, epsilon, taken, y
        epsilon *= 2


def test_equals_a_slow_twin_and_misclassified_examples_stay_as_they_are(victim):
    _, _, images, _labels = victim
    found = pgd_l2(*victim, **SEARCH)
    for row in range(N):
        x, epsilon, taken, label = twin(victim, row, 0.05, 6.4, 10)
        assert found.steps[row] == taken
        assert found.predicted[row] == label
        assert found.epsilon[row] == np.float32(epsilon)
        np.testing.assert_allclose(found.images[row].reshape(-1), x, atol=2e-5)
    np.testing.assert_array_equal(np.flatnonzero(found.already), [0, 1, 2])
    np.testing.assert_array_equal(found.images[:3], images[:3].astype(np.float32) / np.float32(255))
    assert np.all(found.distance[:3] == 0)
    assert len(set(found.epsilon[3:])) > 2
    assert found.images.min() == 0  # clamped, and some pixels really were
    assert found.images.max() == 1
    assert np.all(found.distance <= found.epsilon * 1.0001)


def test_companions_and_compaction_change_nothing(victim):
    attacked, variables, images, labels = victim
    together = pgd_l2(*victim, **{**SEARCH, "batch_size": N, "chunk_steps": 10_000})
    progress = []
    refilled = pgd_l2(*victim, **SEARCH, chunk_steps=3, on_progress=lambda *now: progress.append(now))
    same(together, refilled)
    assert len(progress) > 10
    assert progress[-1] == (N, N)
    order = np.random.default_rng(2).permutation(N)[:9]
    few = pgd_l2(attacked, variables, images[order], labels[order], **SEARCH)
    np.testing.assert_array_equal(few.steps, together.steps[order])
    np.testing.assert_allclose(few.images, together.images[order], rtol=1e-5, atol=1e-6)


def test_a_chunk_ends_where_fewer_than_the_least_are_at_work(victim, monkeypatch):
    """Finished examples must not cost a full batch's steps: slots times steps stay near the examples' own sum."""
    one_device = jax.make_mesh((1,), (sharing.AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    for module in (attack, compaction, sharing):
        monkeypatch.setattr(module, "all_devices", lambda: one_device)
    for module in (compaction, sharing):
        monkeypatch.setattr(module, "in_small_blocks", lambda: False)
    attack_victim, *rest = victim
    # Its programs are its own: those of the others are compiled for small blocks.
    victim = (PixelModel(mlp_model((16,), CLASSES, SHAPE), MEAN, STD), *rest)
    real, cost = attack.make_advance, []

    def counting(attacked, norm):
        def advance(variables, slots, settings, count, least):
            after = real(attacked, norm)(variables, slots, settings, count, least)
            tested = np.asarray(after.total) - np.asarray(slots.total)
            cost.append(len(slots.labels) * (tested.max() + 1))
            return after

        return advance

    monkeypatch.setattr("mu_jax.adversarial.pgd.make_advance", counting)
    found = pgd_l2(*victim, **SEARCH)
    needed = np.sum(found.steps + 1)
    assert needed <= sum(cost) < 1.6 * needed
    in_order = sum(8 * (found.steps[i : i + 8].max() + 1) for i in range(0, N, 8))
    assert sum(cost) < in_order
    monkeypatch.undo()
    same(found, pgd_l2(attack_victim, *rest, **SEARCH))


def test_in_small_blocks_the_finished_cost_nothing(victim, monkeypatch):
    _, variables, images, labels = victim
    images, labels = (np.concatenate([array] * 5) for array in (images, labels))
    real, cost = attack.step_by, []

    def counting(ask, norm, slots, settings):
        jax.debug.callback(lambda: cost.append(len(slots.labels)))
        return real(ask, norm, slots, settings)

    monkeypatch.setattr(attack, "step_by", counting)
    fresh = PixelModel(mlp_model((16,), CLASSES, SHAPE), MEAN, STD)
    found = pgd_l2(fresh, variables, images, labels, **SEARCH | {"batch_size": len(images)})
    jax.effects_barrier()
    block = sharing.share_out(len(images)).block
    assert set(cost) == {block}
    needed = np.sum(found.steps + 1)
    assert needed <= sum(cost) < 1.4 * needed
    # No more blocks a step than the examples at work fill, on each of the devices.
    at_work = [np.sum(found.steps >= step) for step in range(found.steps.max() + 1)]
    devices = jax.local_device_count()
    assert sum(cost) <= block * sum(now / block + devices for now in at_work)


def test_neither_companions_nor_batch_move_a_bit(victim):
    """On a CPU, with the lowering whose tiles depend on the batch."""
    _, _, images, labels = victim
    attacked = PixelModel(cnn_model(4, CLASSES, SHAPE, "winograd"), MEAN, STD)
    variables = attacked.model.init(jax.random.key(2))
    labels = predict(attacked, variables, images)
    together = pgd_l2(attacked, variables, images, labels, **SEARCH)
    order = np.random.default_rng(3).permutation(N)[:13]
    others = {**SEARCH, "batch_size": 50, "chunk_steps": 7}
    few = pgd_l2(attacked, variables, images[order], labels[order], **others)
    assert len(set(few.steps)) > 5
    for name in ("images", "steps", "epsilon", "predicted", "status"):
        np.testing.assert_array_equal(getattr(few, name), getattr(together, name)[order])


@pytest.mark.parametrize(("threads", "images"), [(2, 8), (4, 64), (64, 128)])
def test_a_devices_threads_decide_the_size_of_a_block(threads, images, monkeypatch):
    monkeypatch.setattr(sharing, "pool_threads", lambda: threads * jax.local_device_count() // 2)
    assert sharing.share_out(1).block == sharing.share_out(1000).block == images


@pytest.mark.parametrize("small_blocks", [True, False])
def test_every_example_has_a_slot_and_devices_have_as_many(small_blocks, monkeypatch):
    monkeypatch.setattr(sharing, "in_small_blocks", lambda: small_blocks)
    devices = jax.local_device_count()
    for examples in (1, 7, 16, 17, 130):
        shares = sharing.share_out(examples)
        assert shares.slots >= examples
        assert shares.slots - examples < devices * shares.block
        assert (shares.block == sharing.share_out(1).block) or not small_blocks
        order = sharing.dealt(shares.slots)
        np.testing.assert_array_equal(np.sort(order), np.arange(shares.slots))
        for number in range(1, shares.slots):
            held = np.bincount(sharing.device_of(order[:number], shares.slots), minlength=devices)
            assert np.ptp(held) <= 1


def test_a_targeted_attack_reaches_its_target(victim):
    attacked, variables, images, _labels = victim
    says = predict(attacked, variables, images)
    targets = ((says + 1) % CLASSES).astype(np.int64)
    found = pgd_l2(attacked, variables, images, targets, **SEARCH, targeted=True)
    assert found.flipped.sum() >= N - 2
    np.testing.assert_array_equal(found.predicted[found.flipped], targets[found.flipped])
    np.testing.assert_array_equal(
        predict(attacked, variables, found.images)[found.flipped], targets[found.flipped]
    )
    untargeted = pgd_l2(attacked, variables, images, says, **SEARCH)
    assert found.epsilon[found.flipped].mean() >= untargeted.epsilon[found.flipped].mean()
    assert pgd_l2(attacked, variables, images, says, **SEARCH, targeted=True).already.all()


def test_fgsm_is_one_step_along_the_sign(victim):
    attacked, variables, images, labels = victim
    found = fgsm(attacked, variables, images, labels, epsilon=0.02, max_epsilon=0.32, batch_size=8)
    pixels = images.astype(np.float32) / np.float32(255)

    def loss(x):
        return -jnp.sum(jax.nn.log_softmax(attacked.logits(variables, x))[jnp.arange(N), labels])

    sign = np.sign(jax.grad(loss)(jnp.asarray(pixels)))
    expected = np.clip(pixels + found.epsilon[:, None, None, None] * sign, 0, 1)
    np.testing.assert_allclose(found.images[3:], expected[3:], atol=1e-6)
    assert len(set(found.epsilon[3:])) > 2
    tried = np.round(np.log2(found.epsilon[3:] / 0.02)).astype(int) + 1
    np.testing.assert_array_equal(found.steps[3:], tried)


def test_quantized_attacks_flip_as_bytes(victim):
    attacked, variables, _images, labels = victim
    found = pgd_l2(*victim, **SEARCH, quantize=True)
    stored = to_bytes(found.images)
    np.testing.assert_array_equal(stored.astype(np.float32) / np.float32(255), found.images)
    np.testing.assert_array_equal(predict(attacked, variables, stored), found.predicted)
    assert np.all(found.flipped)
    assert np.all(found.predicted != labels)


def test_those_that_withstand_are_counted_and_named(victim):
    found = pgd_linf(*victim, epsilon=0.004, steps=5, batch_size=8)
    rows = found.left_out
    assert 0 < len(rows) < N
    np.testing.assert_array_equal(found.predicted[rows], victim[3][rows])
    sentence = found.describe_left_out()
    assert sentence.startswith(f"{len(rows)} of {N} examples did not flip within ε = 0.004 (linf)")
    assert all(str(row) in sentence for row in rows[:10])
    assert sentence.count(",") == min(len(rows), 10) - (len(rows) <= 10)
    assert pgd_l2(*victim, **SEARCH).describe_left_out() == ""


def test_the_probe_finds_where_to_begin(victim):
    _attacked, _variables, _images, _labels = victim
    found = minimal_epsilon(*victim, smallest=0.01, steps=10, batch_size=8)
    probe = pgd_l2(*victim, epsilon=0.01, max_epsilon=5.12, steps=10, batch_size=8)
    # All 24 are probed; of the 21 that are right, 5% are 1.05, so the second smallest ε of the ladder.
    first = np.sort(probe.epsilon[3:])[1]
    assert first > 0.01
    same(found, pgd_l2(*victim, epsilon=float(first), max_epsilon=3.0, steps=10, batch_size=8))
    coarse = minimal_epsilon(*victim, smallest=0.01, share=0.95, steps=10, batch_size=8)
    assert coarse.steps.sum() < found.steps.sum()
    assert coarse.distance.mean() > found.distance.mean()
    with pytest.raises(
        InputError, match="None of the 21 examples of the probe flips within max_epsilon = 0.001"
    ):
        minimal_epsilon(*victim, smallest=0.0005, max_epsilon=0.001, steps=2, batch_size=8)


def test_a_sure_model_still_has_a_gradient(victim):
    attacked, variables, images, _ = victim
    sure = jax.tree.map(lambda leaf: 30 * leaf, variables)
    labels = predict(attacked, sure, images)
    logits = np.sort(attacked.logits(sure, jnp.asarray(images / np.float32(255))))
    assert np.median(logits[:, -1] - logits[:, -2]) > 110  # e^-110 is zero in float32
    assert pgd_l2(attacked, sure, images, labels, **SEARCH).flipped.all()


def slots_of(images, labels, epsilon=0.1):
    pixels = images.astype(np.float32) / np.float32(255)
    zero = np.zeros(len(labels), np.int32)
    epsilon = np.full(len(labels), epsilon, np.float32)
    return Slots(pixels, pixels, labels, epsilon, zero, zero, np.full_like(zero, WORKING), zero)


def settings_of(steps=10):
    no = np.bool_(False)
    return Settings(np.float32(0.1), np.int32(steps), np.float32(1), no, no, no)


def test_jit_equals_eager_and_vmap_over_models_equals_a_loop(victim):
    attacked, variables, images, labels = victim
    slots = slots_of(images[:4], labels[:4])
    advance = make_advance(attacked, "l2")
    compiled = advance(variables, slots, settings_of(), np.int32(2), np.int32(1))
    eager = slots
    for _ in range(2):
        eager = attack.attack_step(attacked, "l2", variables, eager, settings_of())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), compiled, eager)
    assert list(np.asarray(compiled.status)[:3]) == [FLIPPED] * 3
    other = jax.tree.map(lambda leaf: 0.9 * leaf, variables)
    two = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, other)
    over_models = jax.vmap(advance, in_axes=(0, None, None, None, None))
    together = over_models(two, slots, settings_of(), np.int32(2), np.int32(1))
    alone = compiled, advance(other, slots, settings_of(), np.int32(2), np.int32(1))
    assert not np.array_equal(alone[0].images, alone[1].images)
    for k in range(2):
        np.testing.assert_allclose(together.images[k], alone[k].images, rtol=1e-5, atol=1e-6)


def test_no_setting_compiles_anew(victim):
    attacked, variables, images, labels = victim
    pgd_l2(*victim, **SEARCH)
    advance = make_advance(attacked, "l2")
    before = advance._cache_size()
    pgd_l2(*victim, epsilon=0.3, steps=4, step_ratio=0.3, batch_size=8, chunk_steps=7)
    pgd_l2(*victim, **SEARCH, targeted=True, quantize=True, restart=True)
    again = PixelModel(attacked.model, MEAN, STD)
    pgd_l2(again, variables, images[:5], labels[:5], **SEARCH)
    assert make_advance(again, "l2")._cache_size() == before


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_exports_for_accelerators(norm):
    attacked = PixelModel(cnn_model(4, CLASSES, SHAPE, "patches"), MEAN, STD)
    variables = jax.eval_shape(attacked.model.init, jax.random.key(0))
    slots = slots_of(np.zeros((4, *SHAPE), np.uint8), np.zeros(4, np.int32))
    arguments = variables, slots, settings_of(), np.int32(3), np.int32(1)
    exported = jax.export.export(make_advance(attacked, norm), platforms=["cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cuda", "tpu")


def test_bad_input_is_one_sentence(victim):
    attacked, variables, images, labels = victim
    normalized = images / np.float32(255) - np.float32(0.5)
    bad = [
        (
            {"images": normalized},
            r"The images lie in \[-0.5, 0.5\], but an attack works on pixels in \[0, 1\]",
        ),
        ({"images": images.astype(np.int32)}, "The images are int32, but expected uint8, or floats"),
        ({"images": images[0]}, r"The images have shape \(6, 6, 1\)"),
        ({"images": images[:0]}, r"The images have shape \(0, 6, 6, 1\)"),
        ({"images": images[:, :5]}, r"The images have shape \(1, 5, 6, 1\), but this model was built for"),
        ({"labels": labels[:4]}, r"The labels have shape \(4,\), but there are 24 images"),
        ({"labels": labels + 1}, "The labels go from 1 to 3, but the model has the classes 0 to 2"),
        ({"norm": "l1"}, "norm is 'l1', but expected one of l2, linf"),
        ({"epsilon": 0.0}, "epsilon is 0 and max_epsilon 0, but expected 0 < epsilon"),
        ({"epsilon": 0.2, "max_epsilon": 0.1}, "epsilon is 0.2 and max_epsilon 0.1"),
        ({"max_epsilon": float("nan")}, "max_epsilon nan"),
        ({"steps": 0}, "steps is 0, but expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0, but expected 1 or more"),
        ({"step_ratio": -1.0}, "step_ratio is -1, but expected a positive share"),
    ]
    for change, sentence in bad:
        arguments = {"images": images, "labels": labels, "norm": "l2", "epsilon": 0.1} | change
        with pytest.raises(InputError, match=sentence) as raised:
            pgd(attacked, variables, **arguments)
        assert str(raised.value).count(". ") == 0
    broken = jax.tree.map(lambda leaf: leaf * np.float32("nan"), variables)
    with pytest.raises(InputError, match="logits for image 0 are not finite"):
        pgd_l2(attacked, broken, images, labels, **SEARCH)
    with pytest.raises(InputError, match="probe is 0"):
        minimal_epsilon(*victim, probe=0)
