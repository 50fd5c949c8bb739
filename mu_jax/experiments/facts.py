"""What every experiment's results.json says of its data, its model and its adversarial sets."""

from typing import Any

import jax
import numpy as np

from mu_jax.adversarial.stored import StoredAdversarialSet
from mu_jax.data.splits import Splits

PyTree = Any


def data_facts(setting: Any) -> dict[str, Any]:
    """Of a setting's data, what does not depend on a split."""
    config, dataset = setting.config.data, setting.dataset
    return {
        "source": config.source,
        "name": dataset.name,
        "classes": dataset.num_classes,
        "image_shape": list(dataset.image_shape),
        "label_noise": config.label_noise,
    }


def split_sizes(splits: Splits) -> dict[str, int]:
    """How many examples lie where; `train` are those that are retained and those that are forgotten."""
    return {
        "train": len(splits.retain) + len(splits.forget),
        "retain": len(splits.retain),
        "forget": len(splits.forget),
        "test": len(splits.test),
        "validation": len(splits.validation),
    }


def parameter_count(variables: PyTree) -> int:
    """Of one model."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(variables["params"]))


def model_facts(setting: Any, parameters: int) -> dict[str, Any]:
    """Of a setting's architecture, and how its convolutions are lowered."""
    config = setting.config.model
    return {
        "name": config.name,
        "width": config.width,
        "parameters": parameters,
        "compute_dtype": config.compute_dtype,
        "convolution": setting.lowering,
    }


def neighbours_facts(stored: StoredAdversarialSet) -> dict[str, Any]:
    """Of an adversarial set: how many there are, what was left out and why, and at which radius they flipped."""
    radius, count = np.unique(stored.epsilon[stored.epsilon > 0], return_counts=True)
    return {
        "norm": stored.norm,
        "examples": len(stored.images),
        "not_flipped": stored.not_flipped.tolist(),
        "flipped_back": stored.flipped_back.tolist(),
        "misclassified": int((stored.epsilon == 0).sum()),
        "epsilon": radius.astype(float).tolist(),
        "count": count.tolist(),
        "mean_distance": float(stored.distance.mean()),
    }
