"""Class folders of image files, made on the spot."""

import numpy as np
import pytest
from PIL import Image

from mu_jax.config import DataConfig, InputError
from mu_jax.data import load_dataset


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def make(root, shape=(4, 6, 3), test="test"):
    """Two classes, three training images (stored out of order) and one test image; the arrays, in order."""
    x = [pixels(i, *shape) for i in range(4)]
    save(root / "train" / "dog" / "a.png", x[2])
    save(root / "train" / "cat" / "b.PNG", x[1])
    save(root / "train" / "cat" / "a.bmp", x[0])
    save(root / test / "dog" / "z.png", x[3])
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    return x


def load(root, image_size=0):
    return load_dataset(DataConfig(source=f"folder:{root}", image_size=image_size), 0)


@pytest.mark.parametrize("test", ["test", "val"])
def test_classes_and_files_in_sorted_order(tmp_path, test):
    x = make(tmp_path / "pets", test=test)
    dataset = load(tmp_path / "pets")
    assert dataset.name == "folder:pets"
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.x_train, np.stack(x[:3]))
    np.testing.assert_array_equal(dataset.y_train, [0, 0, 1])
    np.testing.assert_array_equal(dataset.x_test, x[3][None])
    np.testing.assert_array_equal(dataset.y_test, [1])


def test_gray_stays_gray_until_one_image_has_colour(tmp_path):
    x = make(tmp_path, shape=(4, 6))
    np.testing.assert_array_equal(load(tmp_path).x_train, np.stack(x[:3])[..., None])
    save(tmp_path / "train" / "dog" / "b.png", pixels(9, 4, 6, 3))
    mixed = load(tmp_path).x_train
    np.testing.assert_array_equal(mixed[:3], np.repeat(np.stack(x[:3])[..., None], 3, axis=-1))
    np.testing.assert_array_equal(mixed[3], pixels(9, 4, 6, 3))


def test_palettes_and_transparency_become_rgb(tmp_path):
    make(tmp_path)
    colour = pixels(5, 4, 6, 3)
    palette = Image.fromarray(colour).quantize(24)
    path = tmp_path / "train" / "dog" / "b.png"
    palette.save(path, transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(load(tmp_path).x_train[3], np.asarray(palette.convert("RGB")))


def test_resizing_averages_what_it_shrinks(tmp_path):
    make(tmp_path)
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, 4:] = 200
    save(tmp_path / "train" / "cat" / "a.bmp", halves)
    dataset = load(tmp_path, image_size=2)
    assert dataset.x_train.shape == (3, 2, 2, 3)
    assert dataset.name.endswith("at 2×2")
    left, right = dataset.x_train[0, :, 0], dataset.x_train[0, :, 1]
    assert 0 < left.max() < 50 < 150 < right.min() < 200  # the filter reaches across the edge, so no aliasing
    assert left.max() + right.min() == 200


def test_gray_images_can_be_resized(tmp_path):
    make(tmp_path, shape=(4, 6))
    assert load(tmp_path, image_size=5).x_train.shape == (3, 5, 5, 1)


def test_tiny_imagenet_as_it_is_distributed(tmp_path):
    x = [pixels(i, 4, 4, 3) for i in range(4)]
    save(tmp_path / "train" / "n01" / "images" / "n01_0.png", x[0])
    save(tmp_path / "train" / "n02" / "images" / "n02_0.png", x[1])
    (tmp_path / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.png\t0\t0\t3\t3\n")
    save(tmp_path / "val" / "images" / "val_1.png", x[3])
    save(tmp_path / "val" / "images" / "val_0.png", x[2])
    save(tmp_path / "test" / "images" / "test_0.png", pixels(9, 4, 4, 3))  # unlabelled
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("val_1.png\tn01\t0\t0\t3\t3\nval_0.png\tn02\t0\t0\t3\t3\n")
    dataset = load(tmp_path)
    np.testing.assert_array_equal(dataset.x_train, np.stack(x[:2]))
    np.testing.assert_array_equal(dataset.x_test, np.stack(x[2:]))
    np.testing.assert_array_equal(dataset.y_test, [1, 0])
    annotations.write_text("val_1.png\tn03\t0\t0\t3\t3\n")
    with pytest.raises(InputError, match=r"val_annotations.txt line 1"):
        load(tmp_path)
    annotations.write_text("val_7.png\tn01\n")
    with pytest.raises(InputError, match=r"val_7.png cannot be decoded"):
        load(tmp_path)


def test_sizes_that_differ_need_image_size(tmp_path):
    make(tmp_path)
    save(tmp_path / "train" / "dog" / "b.png", pixels(7, 5, 6, 3))
    with pytest.raises(InputError, match=r"b.png has shape \(5, 6, 3\).*image_size"):
        load(tmp_path)
    assert load(tmp_path, image_size=4).x_train.shape == (4, 4, 4, 3)


def test_corrupt_truncated_and_16_bit_images_are_named(tmp_path):
    make(tmp_path)
    path = tmp_path / "train" / "dog" / "b.png"
    path.write_bytes(b"not a png")
    with pytest.raises(InputError, match=r"dog/b.png cannot be decoded"):
        load(tmp_path)
    save(path, pixels(7, 4, 6, 3))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"dog/b.png cannot be decoded"):
        load(tmp_path)
    save(path, np.full((4, 6), 30000, np.uint16))
    with pytest.raises(InputError, match=r"dog/b.png has pixels of mode I"):
        load(tmp_path)


def test_layouts_that_are_not_class_folders(tmp_path):
    make(tmp_path)
    (tmp_path / "train" / "eel").mkdir()
    with pytest.raises(InputError, match="eel holds no images"):
        load(tmp_path)
    (tmp_path / "train" / "eel").rmdir()
    (tmp_path / "test" / "fox").mkdir()
    with pytest.raises(InputError, match="'fox', which train lacks"):
        load(tmp_path)
    (tmp_path / "test" / "fox").rmdir()
    (tmp_path / "test" / "dog" / "z.png").unlink()
    with pytest.raises(InputError, match="test holds no images"):
        load(tmp_path)
    (tmp_path / "test").rename(tmp_path / "held_out")
    with pytest.raises(InputError, match="neither test nor val"):
        load(tmp_path)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="no class folders"):
        load(tmp_path / "empty")
