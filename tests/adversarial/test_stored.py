"""A stored set has the labels it claims, and serves the model it was made on."""

import dataclasses

import jax
import numpy as np
import pytest

from mu_jax.adversarial.examples import NothingFlipsError
from mu_jax.adversarial.pgd import minimal_epsilon, pgd_l2
from mu_jax.adversarial.pixels import PixelModel, predict
from mu_jax.adversarial.stored import load, make_stored, save, variables_sha256
from mu_jax.config import InputError
from mu_jax.models.mlp import mlp_model

SHAPE, N = (6, 6, 1), 24
SEARCH = {"epsilon": 0.01, "max_epsilon": 0.64, "steps": 10, "batch_size": 8}


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    attacked = PixelModel(mlp_model((16,), 3, SHAPE), (0.4,), (0.25,))
    variables = attacked.model.init(jax.random.key(1))
    images = rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    labels = predict(attacked, variables, images)
    labels[5] = (labels[5] + 1) % 3
    index = rng.permutation(100)[:N]
    return attacked, variables, images, labels, index, pgd_l2(attacked, variables, images, labels, **SEARCH)


def stored_of(made, **settings):
    attacked, variables, images, _, index, found = made
    return make_stored(found, images, index, attacked, variables, **settings)


def test_every_stored_example_has_the_label_it_claims(made):
    attacked, variables, images, labels, index, found = made
    assert 0 < len(found.left_out) < N
    for dtype in ("float32", "uint8"):
        stored = stored_of(made, dtype=dtype)
        assert stored.images.dtype == dtype
        np.testing.assert_array_equal(predict(attacked, variables, stored.images), stored.adversarial_labels)
        assert np.all(stored.adversarial_labels != stored.labels)
        rows = [list(index).index(i) for i in stored.index]
        np.testing.assert_array_equal(stored.labels, labels[rows])
        np.testing.assert_array_equal(stored.not_flipped, index[found.left_out])
        assert sorted([*stored.index, *stored.not_flipped, *stored.flipped_back]) == sorted(index)
        pixels = stored.images / np.float32(255) if dtype == "uint8" else stored.images
        delta = (pixels - images[rows] / np.float32(255)).reshape(len(rows), -1)
        np.testing.assert_allclose(stored.distance, np.linalg.norm(delta, axis=1), rtol=1e-5, atol=1e-7)
        wrong = list(stored.index).index(index[5])
        assert stored.distance[wrong] == stored.epsilon[wrong] == 0


def test_rounding_undoes_near_examples_unless_the_attack_knows(made):
    attacked, variables, images, labels, index, _ = made
    # A first ε below half a grey level of one pixel: δ rounds to nothing.
    fine = pgd_l2(attacked, variables, images, labels, **SEARCH | {"epsilon": 0.0025})
    lost = make_stored(fine, images, index, attacked, variables, dtype="uint8").flipped_back
    assert len(lost) > 0
    aware = pgd_l2(attacked, variables, images, labels, **SEARCH | {"epsilon": 0.0025}, quantize=True)
    stored = make_stored(aware, images, index, attacked, variables, dtype="uint8")
    assert len(stored.flipped_back) == 0
    assert set(lost) <= set(stored.index)


def test_saved_and_loaded_for_its_own_model_only(made, tmp_path):
    attacked, variables, _images, *_ = made
    stored, path = stored_of(made), tmp_path / "set.npz"
    save(path, stored)
    loaded = load(path, attacked, variables)
    for field in dataclasses.fields(stored):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(stored, field.name))
        assert np.asarray(getattr(loaded, field.name)).dtype == np.asarray(getattr(stored, field.name)).dtype
    other = jax.tree.map(lambda leaf: leaf.at[0].add(1e-6), variables)
    assert variables_sha256(other) != variables_sha256(variables) == stored.model_sha256
    with pytest.raises(
        InputError, match="was made on a model with SHA-256 .* ask for the transferred variant"
    ):
        load(path, attacked, other)
    moved = load(path, attacked, other, transferred=True)
    np.testing.assert_array_equal(moved.adversarial_labels, stored.adversarial_labels)
    with pytest.raises(InputError, match="claims labels that the model does not give"):
        load(path, dataclasses.replace(attacked, mean=(0.0,), std=(1.0,)), variables)


def test_a_label_that_differs_here_is_left_out_and_named(made, tmp_path, monkeypatch):
    attacked, variables, *_ = made
    stored, path = stored_of(made), tmp_path / "set.npz"
    claims = stored.adversarial_labels.copy()
    claims[2] = stored.labels[2]
    save(path, dataclasses.replace(stored, adversarial_labels=claims))
    monkeypatch.setattr("mu_jax.adversarial.stored.TOLERATED", 0.1)
    loaded = load(path, attacked, variables)
    assert len(loaded.images) == len(stored.images) - 1
    np.testing.assert_array_equal(loaded.flipped_back, stored.index[2])
    assert stored.index[2] not in loaded.index


def test_bad_input_is_one_sentence(made, tmp_path):
    attacked, variables, images, labels, index, found = made
    with pytest.raises(InputError, match="dtype is 'float16', but expected float32 or uint8"):
        stored_of(made, dtype="float16")
    with pytest.raises(InputError, match="24 adversarial examples .* but 23 images"):
        make_stored(found, images[1:], index, attacked, variables)
    with pytest.raises(InputError, match="The examples are of a targeted attack"):
        make_stored(dataclasses.replace(found, targeted=True), images, index, attacked, variables)
    rows = found.left_out[:2]
    none = pgd_l2(attacked, variables, images[rows], labels[rows], **SEARCH)
    # Of a kind of its own, so that other work can go on without the set.
    with pytest.raises(
        NothingFlipsError, match="None of the 2 examples is adversarial .* did not flip within ε = 0.64"
    ):
        make_stored(none, images[rows], index[rows], attacked, variables)
    with pytest.raises(NothingFlipsError, match="None of the 2 examples of the probe flips within .* 0.64"):
        minimal_epsilon(attacked, variables, images[rows], labels[rows], max_epsilon=0.64, steps=10)
    path = tmp_path / "set.npz"
    with pytest.raises(InputError, match="is not a whole adversarial set"):
        load(path, attacked, variables)
    save(path, stored_of(made))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not a whole adversarial set"):
        load(path, attacked, variables)
    np.savez(path, format=np.int64(1), norm="l2", model_sha256="0")
    with pytest.raises(InputError, match="is not a whole adversarial set"):
        load(path, attacked, variables, transferred=True)
    np.savez(path, format=np.int64(2), norm="l2", model_sha256="0")
    with pytest.raises(InputError, match="format 2, where 1 is known"):
        load(path, attacked, variables)
