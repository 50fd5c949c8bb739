"""The worker that asks a network for logits by mu_jax.

A variant is `{"form": "weights"}`, which writes the network that both sides ask and takes no step; or
`{"form": "query", "lowering", "block"}`, whose step is the logits of all images, so many at a time inside one compiled
loop, on the host.
"""

from typing import Any

import jax
import numpy as np

from benchmarks.inference_case import InferenceCase
from benchmarks.jax_training_worker import describe, device_peak_bytes
from benchmarks.serving import BadRequest, Prepared, serve
from benchmarks.torch_weights import from_state_dict, to_state_dict
from benchmarks.training_case import MEAN, NUM_CLASSES, STD
from mu_jax.config import InputError, ModelConfig
from mu_jax.models import Model, build_model
from mu_jax.ops import choose_lowering
from mu_jax.training.query import make_query


def prepare(case: InferenceCase, variant: dict[str, Any]) -> Prepared:
    """Writes the weights, or compiles the query."""
    try:
        lowering = choose_lowering(
            variant.get("lowering", "auto"), jax.default_backend(), width=case.width, image_size=case.side
        )
        model = _build(case, lowering)
    except InputError as error:
        raise BadRequest(str(error)) from None
    if variant["form"] == "weights":
        write_weights(case, model)
        return Prepared(lambda count: 0.0, 0)
    with np.load(case.weights, allow_pickle=False) as arrays:
        variables = from_state_dict(dict(arrays), jax.eval_shape(model.init, jax.random.key(0)))
    query = make_query(model, (MEAN,), (STD,), variant["block"])
    variables, images = jax.device_put((variables, random_images(case)))

    def run(count: int) -> float:
        for _ in range(count):
            logits = np.asarray(query(variables, images))
        np.save(case.logits("ours"), logits)
        return 0.0

    run(1)
    return Prepared(run, case.images, facts={"lowering": lowering, "block": variant["block"]})


def write_weights(case: InferenceCase, model: Model) -> None:
    """Fresh kernels; batch-norm's statistics and scales are random, or its part of the work could not go wrong."""
    rng = np.random.default_rng(0)

    def drawn(path: tuple, leaf: jax.Array) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        if path[-1].key in ("bias", "mean"):
            return rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return np.asarray(leaf)

    variables = model.init(jax.random.key(0))
    np.savez(case.weights, **to_state_dict(jax.tree_util.tree_map_with_path(drawn, variables)))


def random_images(case: InferenceCase) -> np.ndarray:
    """uint8[N,H,W,3], the same in every process."""
    shape = (case.images, case.side, case.side, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def _build(case: InferenceCase, lowering: str) -> Model:
    shape = (case.side, case.side, 3)
    config = ModelConfig(width=case.width)
    return build_model(config, num_classes=NUM_CLASSES, image_shape=shape, convolution=lowering)


if __name__ == "__main__":
    serve(InferenceCase, describe, prepare, device_peak_bytes)
