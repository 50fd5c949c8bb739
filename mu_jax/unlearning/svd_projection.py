"""SVD projection: what deleted examples put into a layer and retained ones do not is projected out of its inputs.

Kodge et al., "Deep Unlearning: Fast and Efficient Training-free Approach to Controlled Forgetting", TMLR 2024.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax
from jaxtyping import Array, Float, Float32, Int, UInt8

from mu_jax.config.class_methods import SvdProjectionConfig
from mu_jax.data.augmentation import normalize
from mu_jax.data.random_streams import host_stream
from mu_jax.models import Model
from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.layers import kernel_of, refuse_unknown, with_kernel
from mu_jax.unlearning.plan import Edit, Task

PyTree = Any

BLOCK = 50
"""Images in one forward pass: the windows that a convolution sees are h·w times as large as its images."""


def svd_projection(task: Task, settings: SvdProjectionConfig, name: str = "svd_projection") -> Edit:
    """x·W → (x·P)·W in every convolution and dense layer, with P = I − M_f + M_f·M_r; biases and norms stay.

    M = U·diag(Λ)·Uᵀ, with U and σ the left singular vectors and values of the layer's inputs in the original (the
    windows that a convolution multiplies; a column each), l = σ²/Σσ², and Λ = α·l/((α − 1)·l + 1); M_r of samples of
    the retained examples, M_f of the deleted ones. P follows the authors' code in the order of its factors. What
    differs from it: it tries several pairs of α and keeps the best by the accuracies of a sample; a pair is a setting
    here. Samples are drawn by the seed and the name, without crops and mirroring.
    """
    task.require(name, retain=True, original=True)
    for layer in task.reader.layers():
        refuse_unknown(layer)
    grams_of = make_input_grams(task.reader, tuple(task.data.mean), tuple(task.data.std))
    samples = {
        kind: _sample(rows, settings.samples, host_stream(task.seed, f"{kind} samples of {name}"))
        for kind, rows in (("retained", task.retain), ("deleted", task.forget))
    }
    retained, deleted = (grams_of(task.original, task.images, *_blocks(rows)) for rows in samples.values())
    params = task.original["params"]
    for layer in task.reader.layers():
        kernel = np.asarray(kernel_of(params, layer))
        matrix = kernel.astype(np.float64).reshape(-1, kernel.shape[-1])
        projected = without_deleted(
            matrix, retained[layer.name], deleted[layer.name], settings.alpha_retain, settings.alpha_forget
        )
        params = with_kernel(params, layer, projected.reshape(kernel.shape).astype(kernel.dtype))
    return Edit(name, {**task.original, "params": params}, read_samples=sum(map(len, samples.values())))


def without_deleted(
    matrix: Float[np.ndarray, "D E"],
    retained_gram: Float[Array | np.ndarray, "D D"],
    deleted_gram: Float[Array | np.ndarray, "D D"],
    alpha_retain: float,
    alpha_forget: float,
) -> Float[np.ndarray, "D E"]:
    """P·W = W − M_f·(W − M_r·W), from the Gram matrices XᵀX of the inputs X, a row each; float64."""
    kept = scaled_projection(retained_gram, alpha_retain, matrix)
    return matrix - scaled_projection(deleted_gram, alpha_forget, matrix - kept)


def scaled_projection(
    gram: Float[Array | np.ndarray, "D D"], alpha: float, matrix: Float[np.ndarray, "D E"]
) -> Float[np.ndarray, "D E"]:
    """M·W, with M = U·diag(α·l/((α − 1)·l + 1))·Uᵀ of a Gram matrix's eigenvectors and eigenvalues l·trace; float64.

    M is a rational function of L = gram/trace, α·L·((α − 1)·L + I)⁻¹, so no singular vector is needed: solving is
    several times cheaper, and as exact, its condition number being at most max(α, 1/α). Inputs that are all 0 have
    M = 0.
    """
    share = np.array(gram, np.float64)
    trace = np.trace(share)
    if trace <= 0:
        return np.zeros_like(matrix)
    share /= trace
    right = alpha * (share @ matrix)
    share *= alpha - 1
    share[np.diag_indices_from(share)] += 1
    return scipy.linalg.solve(share, right, assume_a="pos", overwrite_a=True, overwrite_b=True)


# The cache is what keeps a second forget set from compiling anew.
@functools.cache
def make_input_grams(model: Model, mean: tuple[float, ...], std: tuple[float, ...]):
    """`grams(variables, images uint8[N,H,W,D], rows int32[blocks,B], weights float32[blocks,B]) -> {layer: [D,D]}`.

    Compiled: Σ weight·xᵀx over the rows x that a layer's kernel, as a matrix [D,E], multiplies, batch-norm in eval
    mode; a convolution's D is h·w·(its input's channels), in the kernel's order.
    """
    layers = {layer.name: layer for layer in model.layers()}

    def block(variables: PyTree, images: UInt8[Array, "B H W D"], weights: Float32[Array, "B"]) -> PyTree:
        with jax.default_matmul_precision("highest"):
            _, _, inputs = model.inputs(variables, normalize(images, mean, std), train=False)
            grams = {}
            for name, layer in layers.items():
                rows = windows(inputs[name].astype(jnp.float32), layer)
                weighed = rows * weights.reshape(-1, *[1] * (rows.ndim - 1))
                flat = rows.reshape(-1, rows.shape[-1])
                grams[name] = weighed.reshape(flat.shape).T @ flat
        return grams

    @jax.jit
    def grams(
        variables: PyTree,
        images: UInt8[Array, "N H W D"],
        rows: Int[Array | np.ndarray, "blocks B"],
        weights: Float32[Array | np.ndarray, "blocks B"],
    ) -> PyTree:
        def add(i: Array, total: PyTree) -> PyTree:
            new = block(variables, images[jnp.asarray(rows)[i]], jnp.asarray(weights)[i])
            return jax.tree.map(jnp.add, total, new)

        sizes = {name: int(np.prod(layer.kernel_shape[:-1])) for name, layer in layers.items()}
        zeros = {name: jnp.zeros((size, size), jnp.float32) for name, size in sizes.items()}
        return lax.fori_loop(0, rows.shape[0], add, zeros)

    return grams


def windows(x: Float[Array, "B *sizes D"], layer: AffineLayer) -> Float[Array, "B *places hwD"]:
    """What a layer's kernel multiplies: [B,H',W',h·w·D] windows of a convolution's images [B,H,W,D], else x itself."""
    if layer.kind == "dense":
        return x
    height, width = layer.kernel_shape[:2]
    x = jnp.pad(x, ((0, 0), (layer.padding,) * 2, (layer.padding,) * 2, (0, 0)))
    rows, columns = (layer.stride * (size - 1) + 1 for size in layer.output_shape[:2])
    return jnp.concatenate(
        [
            x[:, u : u + rows : layer.stride, v : v + columns : layer.stride]
            for u in range(height)
            for v in range(width)
        ],
        axis=-1,
    )


def _sample(rows: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= number else generator.choice(rows, number, replace=False)


def _blocks(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in blocks of equal size, and their weights: 0 for what fills the last block up."""
    size = min(BLOCK, len(rows))
    number = -(-len(rows) // size)
    padded, weights = np.full(number * size, rows[0], np.int32), np.zeros(number * size, np.float32)
    padded[: len(rows)], weights[: len(rows)] = rows, 1
    return padded.reshape(number, size), weights.reshape(number, size)
