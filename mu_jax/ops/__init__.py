"""Kernels that the models stand on: one convolution, its lowering and the layout that goes with it."""

from mu_jax.ops.choice import MAPPINGS, choose_lowering, choose_mapping, signal_lowering
from mu_jax.ops.convolution import LOWERINGS, conv, layout_of
from mu_jax.ops.layout import BATCH_LAST, CHANNELS_LAST, Layout

__all__ = [
    "BATCH_LAST",
    "CHANNELS_LAST",
    "LOWERINGS",
    "MAPPINGS",
    "Layout",
    "choose_lowering",
    "choose_mapping",
    "conv",
    "layout_of",
    "signal_lowering",
]
