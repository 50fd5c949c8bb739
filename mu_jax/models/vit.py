"""A vision transformer for small images (Dosovitskiy et al. 2021): pre-norm, class token, learned positions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mu_jax.config import InputError
from mu_jax.models.layers import Linear
from mu_jax.models.model import Model, check_image_shape, from_module

MLP_RATIO = 4
"""Hidden units of each block's two dense layers, as a multiple of `width`."""
EPSILON = 1e-6
"""Of layer-norm, as the authors, torchvision and timm have it; `torch.nn.LayerNorm` by itself has 1e-5."""


def patches_of(images: Float[Array, "B H W D"], size: int) -> Float[Array, "B T _"]:
    """Images cut into T = (H/size)·(W/size) patches, row by row; each is flattened in the order [size,size,D]."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)


def self_attention(mixed: Float[Array, "B T _"], heads: int) -> Float[Array, "B T _"]:
    """softmax(q·kᵀ/√d)·v in each head, [B,T,3·E] → [B,T,E] with d = E/heads; the softmax is taken in float32.

    `mixed` holds queries, keys and values one after another, and each of them head after head.
    """
    batch, tokens, features = mixed.shape
    q, k, v = jnp.moveaxis(mixed.reshape(batch, tokens, 3, heads, features // (3 * heads)), 2, 0)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
    return jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v).reshape(batch, tokens, -1)


def layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    """γ·(x − μ)/√(σ² + 1e-6) + β over a token's features; statistics are taken in float32, σ² in two passes."""
    return nn.LayerNorm(
        epsilon=EPSILON, dtype=dtype, param_dtype=jnp.float32, use_fast_variance=False, name=name
    )


class EncoderBlock(nn.Module):
    """x ← x + attention(norm(x)), then x ← x + mlp(norm(x)), with the exact GELU; no dropout."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        features = x.shape[-1]
        y = layer_norm(self.dtype, "norm1")(x)
        y = self_attention(Linear(3 * features, self.dtype, name="qkv")(y), self.heads)
        x = x + Linear(features, self.dtype, name="projection")(y)
        y = layer_norm(self.dtype, "norm2")(x)
        y = nn.gelu(Linear(MLP_RATIO * features, self.dtype, name="mlp1")(y), approximate=False)
        return x + Linear(features, self.dtype, name="mlp2")(y)


class VisionTransformer(nn.Module):
    """Patches, a dense embedding, `depth` blocks, the class token's layer-norm, a head; [B,H,W,D] → float32 [B,C].

    The embedding is a dense layer on patches rather than a convolution with a stride, so a ViT is the same whatever
    convolutions are lowered to. Dense layers start as PyTorch's do (±1/√D), positions from N(0, 0.02²), and the class
    token at zero, as the authors'. With `width` 192, `depth` 12, patches of 4 pixels on 32×32×3 images and ten classes
    it has 5,362,762 parameters.
    """

    width: int
    num_classes: int
    patch_size: int
    depth: int
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "B H W D"], *, train: bool) -> Float32[Array, "B C"]:
        x = Linear(self.width, self.dtype, name="patches")(patches_of(images, self.patch_size))
        batch, tokens, _ = x.shape
        token = self.param("class_token", nn.initializers.zeros, (self.width,), jnp.float32)
        position = self.param("position", nn.initializers.normal(0.02), (tokens + 1, self.width), jnp.float32)
        first = jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.width))
        x = jnp.concatenate([first, x], axis=1) + position.astype(self.dtype)
        for block in range(1, self.depth + 1):
            x = EncoderBlock(self.heads, self.dtype, name=f"block{block}")(x)
        # One token's norm and the head cost nothing, so they stay in float32 in bfloat16 models too.
        return Linear(self.num_classes, name="head")(layer_norm(jnp.float32, "norm")(x[:, 0]))


def vit_model(
    width: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    patch_size: int = 4,
    depth: int = 6,
    heads: int = 4,
    compute_dtype: str = "float32",
) -> Model:
    """A ViT with embeddings of `width`; InputError where patches do not tile the images or heads not the embedding."""
    check_image_shape(image_shape, patch_size, f"a ViT with patches of {patch_size} pixels")
    if patch_size < 1 or image_shape[0] % patch_size or image_shape[1] % patch_size:
        raise InputError(
            f"The images are {image_shape[0]}×{image_shape[1]} pixels, but expected multiples of the ViT's patches of "
            f"{patch_size} pixels; change --config.model.patch_size or --config.data.image_size."
        )
    if heads < 1 or width % heads:
        raise InputError(
            f"The ViT's width is {width} with {heads} heads, but expected a multiple of the heads; change "
            "--config.model.width or --config.model.heads."
        )
    return from_module(
        VisionTransformer(width, num_classes, patch_size, depth, heads, jnp.dtype(compute_dtype)), image_shape
    )
