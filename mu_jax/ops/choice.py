"""Which lowering a convolution gets: the fastest of a measured table, `choices.json` beside this file.

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
) -> str:
    """The setting itself, unless it is `auto`: then that of the backend's nearest measured entry.

    `backend` is `cpu`, `gpu` or `tpu`; `width` the channels of the model's first stage, `image_size` the side in
    pixels, `models` how many are trained together, `in_loop` whether the step runs inside a compiled loop. The
    distance is Σ |log2 ratio| over the sizes given, plus constants where the loop or the dtype differs, or where one
    of the two has one model and the other several. A backend without entries gets `xla` for one model and `patches`
    for several, whose `xla` would be a grouped convolution. InputError for an unknown setting.
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
        return "xla" if models == 1 else "patches"
    sizes = {"width": width, "image_size": image_size, "models": models}
    return min(rows, key=lambda row: _distance(row, sizes, in_loop, dtype))["lowering"]


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
