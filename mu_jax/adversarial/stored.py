"""An adversarial set on disk, bound to the weights it was made on, every example with the label it claims.

A set used with another checkpoint than its own is the likely cause of AMUN's one open report of failure (its
repository's issue 1): nothing was forgotten. So the file carries the weights' SHA-256, and each label is what the model
says of the very array that is stored.
"""

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, Int, Int32, Int64, Shaped

from mu_jax.adversarial.examples import AdversarialExamples, NothingFlipsError
from mu_jax.adversarial.pixels import PixelModel, check_images, predict, to_bytes, to_pixels
from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write

PyTree = Any

FORMAT = 1
"""Of the file; another number is refused."""

TOLERATED = 0.01
"""Share of labels that may differ when a set is loaded: other hardware moves a few that lie on the boundary."""


@dataclasses.dataclass(frozen=True)
class StoredAdversarialSet:
    """M adversarial examples of one model."""

    norm: str
    model_sha256: str
    """of the variables it was made on"""
    images: Shaped[np.ndarray, "M H W D"]
    """uint8, or float32 in [0, 1]"""
    labels: Int32[np.ndarray, "M"]
    """the true classes"""
    adversarial_labels: Int32[np.ndarray, "M"]
    """the model's classes of these images"""
    epsilon: Float32[np.ndarray, "M"]
    """0 where the image was misclassified from the start"""
    distance: Float32[np.ndarray, "M"]
    """‖x_adv − x‖ of what is stored, in `norm`"""
    index: Int64[np.ndarray, "M"]
    """the training example that each was made from"""
    not_flipped: Int64[np.ndarray, "_"]
    """training examples left out, because they did not flip within the largest ε"""
    flipped_back: Int64[np.ndarray, "_"]
    """training examples left out, because the array as it is stored has its true label"""

    def __post_init__(self) -> None:
        number = len(self.images)
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if number == 0 or set(lengths.values()) != {number}:
            raise InputError(
                f"An adversarial set has {lengths} entries, but expected as many of each, and one at least; make it "
                "anew."
            )


def variables_sha256(variables: PyTree) -> str:
    """The SHA-256 of all parameters and running statistics: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def make_stored(
    found: AdversarialExamples,
    images: Shaped[Array | np.ndarray, "..."],
    index: Int[np.ndarray, "N"],
    attacked: PixelModel,
    variables: PyTree,
    *,
    dtype: str = "float32",
    batch_size: int = 128,
) -> StoredAdversarialSet:
    """The set that an untargeted attack on `images`, which are the training examples `index`, found.

    Left out are examples that did not flip, and those that the model gives their true label as they are stored. In
    bytes (`dtype` `uint8`) that can be many, because ℓ2 neighbours are often nearer than the rounding: attack with
    `quantize` where the set is to be bytes. NothingFlipsError where nothing is left; InputError for a targeted attack.
    """
    images, index = check_images(images), np.asarray(index, np.int64)
    if dtype not in ("float32", "uint8"):
        raise InputError(f"dtype is {dtype!r}, but expected float32 or uint8; change it.")
    if found.targeted:
        raise InputError(
            "The examples are of a targeted attack, but a set needs true labels; attack without targets."
        )
    if images.shape != found.images.shape or index.shape != found.labels.shape:
        raise InputError(
            f"There are {len(found.images)} adversarial examples of shape {found.images.shape[1:]}, but {len(images)} "
            f"images of shape {images.shape[1:]} and {len(index)} of index; pass what was attacked."
        )
    stored = found.images if dtype == "float32" else to_bytes(found.images)
    says = predict(attacked, variables, stored, batch_size=batch_size)
    wrong = says != found.labels
    rows = np.flatnonzero(found.flipped & wrong)
    if len(rows) == 0:
        raise NothingFlipsError(
            f"None of the {len(index)} examples is adversarial as it would be stored ({dtype}); "
            f"{found.describe_left_out(index) or 'rounding undoes the attack, so attack with quantize=True.'}"
        )
    return StoredAdversarialSet(
        norm=found.norm,
        model_sha256=variables_sha256(variables),
        images=stored[rows],
        labels=found.labels[rows],
        adversarial_labels=says[rows],
        epsilon=found.epsilon[rows],
        distance=_distance(to_pixels(stored[rows]) - to_pixels(images[rows]), found.norm),
        index=index[rows],
        not_flipped=index[~found.flipped],
        flipped_back=index[found.flipped & ~wrong],
    )


def save(path: pathlib.Path, stored: StoredAdversarialSet) -> None:
    """Write the set whole or not at all."""
    arrays = {name: getattr(stored, name) for name in (*_COLUMNS, "not_flipped", "flipped_back")}
    texts = {name: np.array(getattr(stored, name)) for name in ("norm", "model_sha256")}
    with atomic_write(pathlib.Path(path)) as file:
        np.savez(file, format=np.int64(FORMAT), **arrays, **texts)


def load(
    path: pathlib.Path,
    attacked: PixelModel,
    variables: PyTree,
    *,
    transferred: bool = False,
    batch_size: int = 128,
) -> StoredAdversarialSet:
    """The set, for the model it was made on; `transferred` allows another one and keeps the first one's labels.

    Every label is tested again. An example whose label differs on this machine is left out and named in
    `flipped_back`; where that is more than a hundredth of them, the set is refused. InputError for that, for another
    model's set, and for a file that cannot be read.
    """
    path = pathlib.Path(path)
    stored = _read(path)
    if transferred:
        return stored
    sha256 = variables_sha256(variables)
    if stored.model_sha256 != sha256:
        raise InputError(
            f"{path} was made on a model with SHA-256 {stored.model_sha256[:12]}…, but this one has {sha256[:12]}…; "
            "make the set anew for this model, or ask for the transferred variant."
        )
    agrees = predict(attacked, variables, stored.images, batch_size=batch_size) == stored.adversarial_labels
    if agrees.all():
        return stored
    if np.mean(~agrees) > TOLERATED:
        raise InputError(
            f"{path} claims labels that the model does not give for {np.sum(~agrees)} of {len(agrees)} examples; check "
            "mean and std of the data, or make the set anew."
        )
    columns = {name: getattr(stored, name)[agrees] for name in _COLUMNS}
    lost = np.concatenate([stored.flipped_back, stored.index[~agrees]])
    return dataclasses.replace(stored, **columns, flipped_back=lost)


_COLUMNS = ("images", "labels", "adversarial_labels", "epsilon", "distance", "index")


def _read(path: pathlib.Path) -> StoredAdversarialSet:
    try:
        with open_archive(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        version = int(arrays.pop("format"))
        texts = {name: str(arrays.pop(name)) for name in ("norm", "model_sha256")}
        if version != FORMAT:
            raise ValueError(f"format {version}, where {FORMAT} is known")
        stored = StoredAdversarialSet(**arrays, **texts)
        check_images(stored.images)
    except (*UNREADABLE, InputError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a whole adversarial set ({reason}); make it anew.") from error
    return stored


def _distance(delta: np.ndarray, norm: str) -> Float32[np.ndarray, "M"]:
    flat = np.abs(delta).reshape(len(delta), -1)
    return (np.linalg.norm(flat, axis=1) if norm == "l2" else flat.max(axis=1)).astype(np.float32)
