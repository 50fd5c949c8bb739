"""Largest singular values of a PyTorch layer: the algorithm of `mu_jax.smoothness`, and the published PowerQR.

A layer is a linear map of images or rows in batches: `F.conv2d` with its transpose `F.conv_transpose2d`, or a product.
"""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK, DEGREE, MAX_ROUNDS = 5, 8, 60
"""As `mu_jax.smoothness.singular_values` has them for one value: k + SPARE vectors, the polynomial's degree, rounds."""


@dataclasses.dataclass(frozen=True)
class Map:
    """The linear part of a convolution (kernel OIHW) or of a dense layer (kernel [out, in])."""

    kernel: Tensor
    shape: tuple[int, ...]
    """of one input: (D, H, W), or (D,)"""
    stride: int = 1
    padding: int = 0

    def apply(self, x: Tensor) -> Tensor:
        """[m, *shape] ↦ [m, ...]"""
        if self.kernel.ndim == 2:
            return x @ self.kernel.T
        return F.conv2d(x, self.kernel, stride=self.stride, padding=self.padding)

    def transpose(self, y: Tensor) -> Tensor:
        """Of `apply`, back to [m, *shape]."""
        if self.kernel.ndim == 2:
            return y @ self.kernel
        # A stride leaves rows and columns at the far edge that no window begins at: which, only the input's size says.
        spare = [
            self.shape[axis]
            - ((y.shape[axis + 1] - 1) * self.stride - 2 * self.padding + self.kernel.shape[axis + 1])
            for axis in (1, 2)
        ]
        return F.conv_transpose2d(
            y, self.kernel, stride=self.stride, padding=self.padding, output_padding=spare
        )


def largest_singular_value(layer: Map, tolerance: float, generator: torch.Generator) -> tuple[float, float]:
    """(σ₁, its estimated relative error): block iteration with Rayleigh–Ritz and a Chebyshev polynomial of MᵀM."""
    size = math.prod(layer.shape)
    block = min(BLOCK, size)
    rows = _random(layer, block, generator)

    def rayleigh_ritz(rows: Tensor) -> tuple[Tensor, Tensor, float]:
        flat = rows.flatten(1)
        flat = torch.linalg.qr((flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-30)).T)[0].T
        images = layer.apply(flat.reshape(rows.shape))
        response = images.flatten(1)
        values, turn = torch.linalg.eigh(response @ response.T)
        values, turn = values.flip(0).clamp_min(0), turn.flip(1).T
        flat, images = turn @ flat, (turn @ response).reshape(images.shape)
        moved = layer.transpose(images).flatten(1)[0]
        residual = float(torch.linalg.norm(moved - values[0] * flat[0]))
        gap = max(float(values[0] - values[-1]), 1e-7 * float(values[0]))
        error = 0.0
        if values[0] > 0:
            error = min(residual, residual**2 / gap) / (2 * float(values[0]))
        return flat.reshape(rows.shape), values, error

    rows, values, error = rayleigh_ritz(rows)
    rounds, still = 1, 0
    while rounds < MAX_ROUNDS and error > tolerance and still < 2 and block < size and values[0] > 0:
        before = float(values[0])
        bound = max(float(values[-1]), 1e-3 * before)
        rows, values, error = rayleigh_ritz(_chebyshev(layer, rows, before, bound))
        still = 0 if abs(float(values[0]) - before) > 0.2 * tolerance * float(values[0]) else still + 1
        rounds += 1
    return math.sqrt(float(values[0])), error


def _chebyshev(layer: Map, rows: Tensor, largest: float, bound: float) -> Tensor:
    centre = radius = bound / 2
    sigma = first = radius / (largest - centre)
    now = (layer.transpose(layer.apply(rows)) - centre * rows) * (first / radius)
    before = rows
    for _ in range(1, DEGREE):
        after = 1 / (2 / first - sigma)
        new = layer.transpose(layer.apply(now)) - centre * now
        before, now = now, new.mul_(2 * after / radius).sub_(before, alpha=sigma * after)
        sigma = after
    return now


def power_qr(layer: Map, iterations: int, generator: torch.Generator) -> float:
    """σ₁ by the published iteration with one vector, x ← (I + MᵀM)x / ‖·‖, and σ = √(‖(I + MᵀM)x‖ − 1)."""
    x = _random(layer, 1, generator)
    x, length = x / torch.linalg.norm(x), torch.ones(())
    for _ in range(iterations):
        x = x + layer.transpose(layer.apply(x))
        length = torch.linalg.norm(x)
        x = x / length
    return math.sqrt(max(float(length) - 1, 0.0))


def _random(layer: Map, block: int, generator: torch.Generator) -> Tensor:
    rows = torch.randn((block, *layer.shape), generator=generator)
    layout = torch.channels_last if _is_channels_last(layer.kernel) else torch.contiguous_format
    return rows.to(layer.kernel.device, memory_format=layout)


def _is_channels_last(kernel: Tensor) -> bool:
    if kernel.ndim != 4 or kernel.is_contiguous():
        return False
    return kernel.is_contiguous(memory_format=torch.channels_last)
