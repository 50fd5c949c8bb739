"""Every layer of a model by every method: the norm it claims, beside the measured one, and the seconds it takes."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.config import Spectra
from mu_jax.experiments.spectra_source import MeasuredModel
from mu_jax.models.affine import AffineLayer
from mu_jax.smoothness.fourier import circular_norm, fourier_bound
from mu_jax.smoothness.layers import (
    input_shape,
    kernel_fn,
    kernel_of,
    norm_scale,
    refuse_unknown,
    with_kernel,
)
from mu_jax.smoothness.model import measure_layers
from mu_jax.smoothness.reshaped import (
    composed_bound,
    patches_per_pixel,
    power_norm,
    reshaped_norm,
    reshaped_power_norm,
)

Row = dict[str, Any]


class SpectraRows:
    """The rows of one model, layer by layer."""

    def __init__(self, config: Spectra, measured: MeasuredModel) -> None:
        self.config, self.measured = config, measured
        self._programs: dict[tuple, dict[str, Callable]] = {}

    def __iter__(self) -> Iterator[tuple[Row, list[Row]]]:
        """Of each layer, (what was measured, a row a method: `claimed`, its `ratio` to the norm, `seconds`)."""
        for layer in self.measured.model.layers():
            refuse_unknown(layer)
            row = self._measured(layer)
            yield row, list(self._claims(layer, row["norm"]))

    def _measured(self, layer: AffineLayer) -> Row:
        variables = self.measured.variables
        found, seconds = self._timed(lambda: self._norm(variables, layer), layer.shape not in self._programs)
        row = {
            "layer": layer.name,
            "kind": layer.kind,
            "input_shape": list(layer.input_shape),
            "output_shape": list(layer.output_shape),
            "kernel_shape": list(layer.kernel_shape),
            "stride": layer.stride,
            "padding": layer.padding,
            "norm": found.norm,
            "error": found.error,
            "seconds": seconds,
            # The layer and the batch-norm behind it, in eval mode, as one map; and each by itself.
            "composed": None,
            "composed_error": None,
            "batch_norm": None,
            "product": None,
            "product_ratio": None,
        }
        if layer.norm is not None:
            scale = norm_scale(variables["params"], variables["batch_stats"], layer)
            kernel = kernel_of(variables["params"], layer) * scale
            together = self._norm({"params": with_kernel(variables["params"], layer, kernel)}, layer)
            product = float(composed_bound(jnp.float32(found.norm), jnp.asarray(scale)))
            row |= {
                "composed": together.norm,
                "composed_error": together.error,
                "batch_norm": float(np.abs(scale).max()),
                "product": product,
                "product_ratio": _ratio(product, together.norm),
            }
        return row

    def _norm(self, variables: Any, layer: AffineLayer) -> Any:
        alone = dataclasses.replace(layer, norm=None)
        found = measure_layers(variables, (alone,), self.measured.lowering, tolerance=self.config.tolerance)
        return found[layer.name]

    def _claims(self, layer: AffineLayer, true: float) -> Iterator[Row]:
        first = layer.shape not in self._programs
        if first:
            self._programs[layer.shape] = self._compiled(layer)
        kernel = jnp.asarray(kernel_of(self.measured.variables["params"], layer))
        for method, program in self._programs[layer.shape].items():
            value, seconds = self._timed(lambda program=program: float(program(kernel)), first)
            found = {method: value}
            if method == "miyato":
                # The same iteration, times a number that is known.
                found["reshaped_bound"] = value * patches_per_pixel(layer) ** 0.5
            for name, claimed in found.items():
                yield {
                    "layer": layer.name,
                    "method": name,
                    "claimed": claimed,
                    "ratio": _ratio(claimed, true),
                    "seconds": seconds,
                }

    def _compiled(self, layer: AffineLayer) -> dict[str, Callable]:
        config, key = self.config, jax.random.key(self.config.seed)
        apply, shape = kernel_fn(layer, self.measured.lowering), input_shape(layer, self.measured.lowering)
        programs = {
            "miyato": lambda kernel: reshaped_norm(kernel, tolerance=config.tolerance),
            "miyato_started": lambda kernel: reshaped_power_norm(
                kernel, iterations=config.miyato_iterations, key=key
            ),
            "gouk": lambda kernel: power_norm(
                lambda x: apply(kernel, x), shape, iterations=config.gouk_iterations, key=key
            ),
        }
        if layer.kind == "conv":
            height, width, _ = layer.input_shape
            programs["fourier"] = lambda kernel: circular_norm(kernel, (height, width))
            programs["fourier_bound"] = lambda kernel: fourier_bound(kernel, layer)
        return {name: jax.jit(program) for name, program in programs.items()}

    def _timed(self, call: Callable[[], Any], first: bool) -> tuple[Any, float]:
        """(what it returns, the median of its seconds); a call before those of a layer whose shape is new compiles."""
        if first:
            call()
        seconds = []
        for _ in range(self.config.repeats):
            began = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - began)
        return result, statistics.median(seconds)


def _ratio(claimed: float, true: float) -> float | None:
    return claimed / true if true > 0 else None
