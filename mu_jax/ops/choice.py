"""Which lowering a convolution gets, and how several models advance: the fastest measured (`choices.json` beside this).

`scripts/bench_ops.py --write-table` measures its rows, with `--lowerings=all` or those worth comparing.
"""

import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mu_jax.config import InputError
from mu_jax.ops.convolution import LOWERINGS

MAPPINGS = ("one", "map", "vmap", "pmap_one", "pmap_map", "pmap_vmap")

TABLE = pathlib.Path(__file__).with_name("choices.json")
"""Rows of `backend`, `width`, `image_size`, `models`, `in_loop`, `dtype`, `lowering` (the fastest), `mapping` (over the
models, that it was the fastest under), `images_per_second` (of each lowering measured, under its fastest mapping) and
`device`; the first six name the row."""

# In octaves of size: an entry from inside a loop says less about the outside than one of 64 times the size, because
# XLA's own convolution slows down twentyfold in there; float32 and bfloat16 are nearer.
_OTHER_LOOP, _OTHER_DTYPE = 6.0, 3.0
# One model or several is a difference of kind: only several make XLA's convolution a grouped one.
_ONE_OR_SEVERAL = 6.0


def choose_lowering(
    setting: str,
    backend: str,
    *,
    width: int | None = None,
    image_size: int | None = None,
    models: int = 1,
    in_loop: bool = True,
    dtype: str = "float32",
    mapping: str | None = None,
) -> str:
    """The setting itself, unless it is `auto`: then that of the backend's nearest measured entry.

    `backend` is `cpu`, `gpu` or `tpu`; `width` the channels of the model's first stage, `image_size` the side in
    pixels, `models` how many are trained together, `in_loop` whether the step runs inside a compiled loop. The
    distance is Σ |log2 ratio| over the sizes given, plus constants where the loop or the dtype differs, or where one
    of the two has one model and the other several. A backend without entries gets `xla`, but `patches` for several
    models advanced together (a `mapping` that ends in `vmap`, or none given), whose `xla` would be a grouped
    convolution. InputError for an unknown setting.
    """
    if setting != "auto":
        if setting not in LOWERINGS:
            raise InputError(
                f"The convolution lowering is {setting!r}, but expected one of auto, {', '.join(LOWERINGS)}; "
                "change it with --config.model.convolution=VALUE."
            )
        return setting
    rows = [row for row in measured_rows() if row["backend"] == backend]
    if not rows:
        together = models > 1 and (mapping is None or mapping.endswith("vmap"))
        return "patches" if together else "xla"
    sizes = {"width": width, "image_size": image_size, "models": models}
    return min(rows, key=lambda row: _distance(row, sizes, in_loop, dtype))["lowering"]


def choose_mapping(
    setting: str,
    backend: str,
    *,
    width: int | None = None,
    image_size: int | None = None,
    models: int = 1,
    dtype: str = "float32",
) -> str:
    """How `models` models advance together: the setting itself, unless it is `auto`, as in `choose_lowering`.

    `map`, `vmap` or `one` (`mu_jax.training.parallel` says what they mean), with `pmap_` before it where the models
    are first split over all devices of the process; a CPU's devices are virtual, one a core. A backend without entries
    gets `pmap_map`: published timings of small networks on GPUs have `lax.map` ahead of `vmap`
    (github.com/jax-ml/jax/issues/26568).
    """
    if setting != "auto":
        if setting not in MAPPINGS:
            raise InputError(
                f"The mapping over models is {setting!r}, but expected one of auto, {', '.join(MAPPINGS)}; change it "
                "with --config.sweep.mapping=VALUE."
            )
        return setting
    rows = [row for row in measured_rows() if row["backend"] == backend and row["models"] > 1]
    if not rows:
        return "pmap_map"
    sizes = {"width": width, "image_size": image_size, "models": max(models, 2)}
    return min(rows, key=lambda row: _distance(row, sizes, True, dtype))["mapping"]


def signal_lowering(lowering: str) -> str:
    """The lowering for signals of a model trained with `lowering`: the same, but `patches` for `winograd`.

    Winograd's rounding is up to three times that of a plain sum, and its tiles depend on the batch: an image's signal
    should depend on neither.
    """
    return "patches" if lowering == "winograd" else lowering


@functools.cache
def measured_rows() -> Sequence[Mapping[str, Any]]:
    """The table's rows."""
    return tuple(json.loads(TABLE.read_text()))


def _distance(row: Mapping[str, Any], sizes: Mapping[str, int | None], in_loop: bool, dtype: str) -> float:
    octaves = sum(abs(math.log2(row[key] / size)) for key, size in sizes.items() if size is not None)
    octaves += _ONE_OR_SEVERAL * ((row["models"] == 1) != (sizes["models"] == 1))
    return octaves + _OTHER_LOOP * (row["in_loop"] != in_loop) + _OTHER_DTYPE * (row["dtype"] != dtype)
