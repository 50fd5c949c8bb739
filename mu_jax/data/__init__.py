"""Images and labels from any source, their splits, and augmentation on the device."""

from mu_jax.data.augmentation import augment, normalize
from mu_jax.data.dataset import Dataset
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits, make_splits

__all__ = ["Dataset", "Splits", "augment", "load_dataset", "make_splits", "normalize"]
