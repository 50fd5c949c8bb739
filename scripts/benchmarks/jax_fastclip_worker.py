"""The worker that trains with FastClip, and measures layers, by mu_jax.

A variant is `{"form"}`. Forms of training are `plain`, `track` (norms are followed, nothing is clipped) and `fastclip`
(clipped on the published schedule); a step is a chunk of CHUNK_STEPS training steps, so that every round has its due
share of clippings. Forms of measuring are `measure` and `power`, the published PowerQR with one vector and a fixed
number of iterations; a step is all layers, by themselves and with their batch-norm. `weights` writes what both sides
measure.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks.fastclip_case import CHUNK_STEPS, CLIP, POWER_ITERATIONS, TOLERANCE, TRAINING, FastclipCase
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import Prepared, serve
from benchmarks.torch_weights import from_state_dict, to_state_dict
from benchmarks.training_case import (
    EXAMPLES,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    NUM_CLASSES,
    STD,
    WEIGHT_DECAY,
)
from mu_jax.config import ClippingConfig, ModelConfig
from mu_jax.models import Model, build_model
from mu_jax.ops import choose_lowering, signal_lowering
from mu_jax.smoothness.layers import groups, input_shape, kernel_fn, kernel_of, norm_scale
from mu_jax.smoothness.model import measure_layers
from mu_jax.smoothness.tracking import initial_extra, make_post_step
from mu_jax.training.batches import batch_indices
from mu_jax.training.chunk import ChunkInputs, Examples, label_targets, make_run_chunk
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.state import initial_state
from mu_jax.training.step import Recipe

PyTree = Any


def prepare(case: FastclipCase, variant: dict[str, Any]) -> Prepared:
    """Compiles a form of training, or of measuring."""
    if case.kind == TRAINING:
        return _training(case, variant["form"])
    if variant["form"] == "weights":
        return _write_weights(case)
    return _measuring(case, variant["form"])


def build(case: FastclipCase) -> tuple[Model, str]:
    """The network, and the lowering of its convolutions."""
    lowering = choose_lowering("auto", jax.default_backend(), width=case.width, image_size=case.side)
    shape = (case.side, case.side, 3)
    config = ModelConfig(width=case.width)
    return build_model(config, num_classes=NUM_CLASSES, image_shape=shape, convolution=lowering), lowering


def _training(case: FastclipCase, form: str) -> Prepared:
    model, lowering = build(case)
    tracking, clipping, layers = signal_lowering(lowering), ClippingConfig(), model.layers()
    extra, post_step = None, None
    if form != "plain":
        clip = CLIP if form == "fastclip" else np.inf
        key = jax.random.key(1)
        extra = initial_extra(layers, clipping, tracking, clip=clip, rows=CHUNK_STEPS, key=key)
        post_step = make_post_step(layers, clipping, tracking)
    recipe = Recipe(model, mean=(MEAN,), std=(STD,), post_step=post_step)
    start = functools.partial(initial_state, model, recipe.make_optimizer())
    state = jax.jit(start)(jax.random.key(0), extra)
    inputs = ChunkInputs(
        batch_indices(np.arange(EXAMPLES), case.batch, 0, CHUNK_STEPS, seed=[0]),
        np.full(CHUNK_STEPS, LEARNING_RATE, np.float32),
        np.zeros(CHUNK_STEPS, np.float32),
    )
    hyperparameters = Hyperparameters(np.float32(MOMENTUM), np.float32(WEIGHT_DECAY))
    run_chunk, key = make_run_chunk(recipe), jax.random.key(0)
    examples, inputs, hyperparameters = jax.device_put((_examples(case), inputs, hyperparameters))
    found: dict[str, Any] = {}

    def run(count: int, steps: int = CHUNK_STEPS) -> float:
        nonlocal state
        for _ in range(count):
            state, metrics = run_chunk(state, examples, inputs, np.int32(steps), key, hyperparameters)
        state, metrics = jax.block_until_ready((state, metrics))
        if extra is not None:
            found["largest_norm"] = float(np.max(state.extra["norms"]))
        return float(metrics["loss"][steps - 1])

    # The first step has the hundred iterations that a training begins with: no round is to have them.
    run(1, 1)
    facts = {"lowering": lowering, "tracking_lowering": tracking}
    return Prepared(run, CHUNK_STEPS * case.batch, facts=facts, found=found)


def _examples(case: FastclipCase) -> Examples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, case.side, case.side, 3), dtype=np.uint8)
    labels = rng.integers(0, NUM_CLASSES, EXAMPLES)
    return Examples(images, label_targets(labels, NUM_CLASSES), np.ones(EXAMPLES, np.float32))


def _write_weights(case: FastclipCase) -> Prepared:
    """Fresh kernels; batch-norm's scales and variances are random, or composing with it would change nothing."""
    variables = build(case)[0].init(jax.random.key(0))
    rng = np.random.default_rng(0)

    def drawn(path: tuple, leaf: jax.Array) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        return np.asarray(leaf)

    np.savez(case.weights, **to_state_dict(jax.tree_util.tree_map_with_path(drawn, variables)))
    return Prepared(lambda count: 0.0, 0)


def _read_weights(case: FastclipCase, model: Model) -> PyTree:
    with np.load(case.weights, allow_pickle=False) as arrays:
        return from_state_dict(dict(arrays), jax.eval_shape(model.init, jax.random.key(0)))


def _measuring(case: FastclipCase, form: str) -> Prepared:
    model, lowering = build(case)
    variables = _read_weights(case, model)
    lowering = signal_lowering(lowering)
    layers, found = model.layers(), {}

    def run(count: int) -> float:
        for _ in range(count):
            if form == "measure":
                measured = measure_layers(variables, layers, lowering, tolerance=TOLERANCE)
                norms = {name: one.norm for name, one in measured.items()}
                norms |= {
                    f"{name}+norm": one.composed for name, one in measured.items() if one.composed is not None
                }
            else:
                norms = power_iterated(variables, layers, lowering)
        found["norms"] = norms
        return 0.0

    run(1)
    return Prepared(run, 1, facts={"lowering": lowering}, most=1, found=found)


def power_iterated(variables: PyTree, layers: tuple, lowering: str) -> dict[str, float]:
    """What the published PowerQR finds of every layer, alone and with its batch-norm, from one random vector."""
    norms = {}
    for members in groups(layers):
        kernels, names = [], []
        for layer in members:
            kernel = kernel_of(variables["params"], layer)
            kernels.append(kernel)
            names.append(layer.name)
            if layer.norm is not None:
                kernels.append(kernel * norm_scale(variables["params"], variables["batch_stats"], layer))
                names.append(f"{layer.name}+norm")
        program = _power_program(kernel_fn(members[0], lowering), input_shape(members[0], lowering))
        norms |= dict(zip(names, np.asarray(program(jax.numpy.stack(kernels))).tolist(), strict=True))
    return norms


@functools.cache
def _power_program(apply: Callable, shape: tuple[int, ...]) -> Callable:
    def norm(kernel: jax.Array) -> jax.Array:
        def one(_: int, carry: tuple) -> tuple:
            x, _ = carry
            y, back = jax.vjp(functools.partial(apply, kernel), x)
            x = x + back(y)[0]
            length = jax.numpy.linalg.norm(x)
            return x / length, length

        start = jax.random.normal(jax.random.key(0), (int(np.prod(shape)),)).reshape(shape)
        start = (start / jax.numpy.linalg.norm(start), jax.numpy.float32(1))
        _, length = lax.fori_loop(0, POWER_ITERATIONS, one, start)
        # λ of I + MᵀM, of which the public code takes σ² = |λ − 1|.
        return jax.numpy.sqrt(jax.numpy.maximum(length - 1, 0))

    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda kernels: lax.map(norm, kernels))


if __name__ == "__main__":
    serve(FastclipCase, describe, prepare, device_peak_bytes)
