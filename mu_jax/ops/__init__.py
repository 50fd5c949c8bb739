"""Kernels that the models stand on: one convolution, with the lowering chosen by backend."""

from mu_jax.ops.convolution import LOWERINGS, choose_lowering, conv

__all__ = ["LOWERINGS", "choose_lowering", "conv"]
