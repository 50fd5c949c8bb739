"""Classifiers as pure `(init, apply)` pairs: ResNet-18, VGG and ViT for small images, a small CNN, an MLP."""

from mu_jax.models.build import build_model
from mu_jax.models.model import Model, Variables

__all__ = ["Model", "Variables", "build_model"]
