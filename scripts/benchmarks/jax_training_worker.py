"""The worker that trains with mu_jax.

A variant is `{"lowering": "auto" or a name, "mapping": "one" or a mapping}`. `vmap` advances all models step by
step in batched operations; `map` runs one model's whole chunk after another's, inside one program; `pmap_vmap`
and `pmap_map` first split the models over the devices.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from benchmarks import machine
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from benchmarks.training_case import (
    CHUNK_STEPS,
    EXAMPLES,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    NUM_CLASSES,
    STD,
    WEIGHT_DECAY,
    TrainingCase,
)
from mu_jax.config import InputError, ModelConfig
from mu_jax.models import build_model
from mu_jax.ops.choice import choose_lowering
from mu_jax.ops.convolution import LOWERINGS
from mu_jax.training.batches import batch_indices
from mu_jax.training.chunk import ChunkInputs, Examples, label_targets, make_run_chunk
from mu_jax.training.cpu_threads import compiler_options
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.state import TrainState, initial_state
from mu_jax.training.step import Batch, Recipe, make_step

_HYPERPARAMETERS = Hyperparameters(np.float32(MOMENTUM), np.float32(WEIGHT_DECAY))
# Of run_chunk's arguments: models have their own state, rows and key, and share all else.
_MODELS_AXES = (0, None, ChunkInputs(index=0, learning_rate=None, progress=None), None, 0, None)


def describe() -> dict[str, Any]:
    """The device and the lowerings there are."""
    backend = jax.default_backend()
    return {
        "backend": backend,
        "device": machine.cpu_name() if backend == "cpu" else jax.devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "lowerings": list(LOWERINGS),
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__},
    }


def prepare(case: TrainingCase, variant: dict[str, Any]) -> Prepared:
    """Compiles the case's training."""
    try:
        lowering = choose_lowering(
            variant["lowering"],
            jax.default_backend(),
            width=case.width,
            image_size=case.side,
            models=case.models,
            in_loop=case.mode != "single",
            dtype=case.dtype,
        )
        model = build_model(
            ModelConfig(width=case.width, compute_dtype=case.dtype),
            num_classes=NUM_CLASSES,
            image_shape=(case.side, case.side, 3),
            convolution=lowering,
        )
    except InputError as error:
        raise BadRequest(str(error)) from None
    recipe = Recipe(model, mean=(MEAN,), std=(STD,))
    if case.mode == "single":
        run_steps = _single(recipe, case)
        run_steps(1)
    else:
        run_steps = _PREPARE[variant["mapping"]](recipe, case)
        run_steps(0)
    return Prepared(
        run_steps,
        case.images_a_step,
        1 if case.mode == "single" else CHUNK_STEPS,
        {"lowering": lowering, "mapping": variant["mapping"]},
    )


def _examples(case: TrainingCase) -> Examples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, case.side, case.side, 3), dtype=np.uint8)
    labels = rng.integers(0, NUM_CLASSES, EXAMPLES)
    return Examples(images, label_targets(labels, NUM_CLASSES), np.ones(EXAMPLES, np.float32))


def _rows(case: TrainingCase, model: int) -> np.ndarray:
    return batch_indices(np.arange(EXAMPLES), case.batch, 0, CHUNK_STEPS, seed=[model])


def _initial(recipe: Recipe, key: jax.Array) -> TrainState:
    return initial_state(recipe.model, recipe.make_optimizer(), key)


def _inputs(index: np.ndarray) -> ChunkInputs:
    return ChunkInputs(
        index, np.full(CHUNK_STEPS, LEARNING_RATE, np.float32), np.zeros(CHUNK_STEPS, np.float32)
    )


def _single(recipe: Recipe, case: TrainingCase):
    """One model, one call of the compiled step for each batch."""
    step = make_step(recipe)

    @functools.partial(jax.jit, donate_argnums=0)
    def call(state: TrainState, examples: Examples, rows: jax.Array, key: jax.Array):
        batch = Batch(
            examples.images[rows],
            examples.targets[rows],
            examples.weights[rows],
            learning_rate=jnp.float32(LEARNING_RATE),
            progress=jnp.float32(0),
        )
        return step(state, batch, jax.random.fold_in(key, state.step), _HYPERPARAMETERS)

    key = jax.random.key(0)
    examples, rows = jax.device_put((_examples(case), list(_rows(case, 0))))
    state = jax.jit(functools.partial(_initial, recipe))(key)

    def run_steps(count: int) -> float:
        nonlocal state
        for i in range(count):
            state, metrics = call(state, examples, rows[i % CHUNK_STEPS], key)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return run_steps


def _in_chunks(run_chunk, state: TrainState, arguments: tuple, count_of, key: jax.Array):
    """Steps by calls of `run_chunk`, each of at most CHUNK_STEPS; with 0 steps it only compiles."""
    examples, inputs, hyperparameters = arguments

    def run_steps(count: int) -> float:
        nonlocal state
        loss, left = 0.0, count
        while True:
            now = min(left, CHUNK_STEPS)
            state, metrics = run_chunk(state, examples, inputs, count_of(now), key, hyperparameters)
            left -= now
            if left == 0:
                break
        jax.block_until_ready(state)
        if now:
            loss = float(np.mean(np.asarray(metrics["loss"])[..., now - 1]))
        return loss

    return run_steps


def _one(recipe: Recipe, case: TrainingCase):
    key = jax.random.key(0)
    state = jax.jit(functools.partial(_initial, recipe))(key)
    arguments = jax.device_put((_examples(case), _inputs(_rows(case, 0)), _HYPERPARAMETERS))
    return _in_chunks(make_run_chunk(recipe), state, arguments, np.int32, key)


def _vmapped(recipe: Recipe):
    """`run_chunk` for K models: stacked states, rows and keys; one data set."""
    return jax.vmap(make_run_chunk(recipe), in_axes=_MODELS_AXES)


def _in_turn(recipe: Recipe):
    """The same, one model's chunk after another's."""
    run_chunk = make_run_chunk(recipe)

    def run(state, examples, inputs, count, keys, hyperparameters):
        def one(model):
            state, index, key = model
            return run_chunk(state, examples, inputs.replace(index=index), count, key, hyperparameters)

        return jax.lax.map(one, (state, inputs.index, keys))

    return run


def _stacked(recipe: Recipe, case: TrainingCase) -> tuple[TrainState, tuple, jax.Array]:
    keys = jax.random.split(jax.random.key(0), case.models)
    state = jax.jit(jax.vmap(functools.partial(_initial, recipe)))(keys)
    index = np.stack([_rows(case, model) for model in range(case.models)])
    return state, (_examples(case), _inputs(index), _HYPERPARAMETERS), keys


def _on_one_device(mapped, recipe: Recipe, case: TrainingCase):
    state, arguments, keys = _stacked(recipe, case)
    run_chunk = jax.jit(mapped(recipe), donate_argnums=0)
    return _in_chunks(run_chunk, state, jax.device_put(arguments), np.int32, keys)


def _over_devices(mapped, recipe: Recipe, case: TrainingCase):
    """The models split over the devices, and mapped inside each."""
    devices = jax.local_device_count()
    if devices == 1:
        raise Unavailable("pmap needs more than one device")
    if case.models % devices:
        raise Unavailable(f"pmap needs a multiple of {devices} models, as many on each device")
    state, (examples, inputs, hyperparameters), keys = _stacked(recipe, case)

    def split(array):
        return array.reshape(devices, -1, *array.shape[1:])

    def copies(tree):
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (devices, *np.shape(leaf))), tree)

    # Placed once: what pmap has to spread itself it spreads at every call.
    place = jax.pmap(lambda tree: tree)
    shared = copies((examples, inputs.learning_rate, inputs.progress, hyperparameters))
    examples, learning_rate, progress, hyperparameters = place(shared)
    state, index, keys = place(jax.tree.map(split, (state, inputs.index, keys)))
    counts = functools.cache(lambda count: place(np.full(devices, count, np.int32)))
    arguments = (examples, ChunkInputs(index, learning_rate, progress), hyperparameters)
    lowered = jax.pmap(mapped(recipe), donate_argnums=0).lower(
        state, *arguments[:2], counts(0), keys, hyperparameters
    )
    run_chunk = lowered.compile(compiler_options=compiler_options(devices))
    return _in_chunks(run_chunk, state, arguments, counts, keys)


_PREPARE = {
    "one": _one,
    "vmap": functools.partial(_on_one_device, _vmapped),
    "map": functools.partial(_on_one_device, _in_turn),
    "pmap_vmap": functools.partial(_over_devices, _vmapped),
    "pmap_map": functools.partial(_over_devices, _in_turn),
}


def device_peak_bytes() -> int | None:
    """Of the accelerator's memory, the most in use at once; None on CPU."""
    statistics = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return statistics and statistics.get("peak_bytes_in_use")


if __name__ == "__main__":
    serve(TrainingCase, describe, prepare, device_peak_bytes)
