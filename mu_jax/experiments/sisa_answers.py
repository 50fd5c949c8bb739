"""What an ensemble answers to every image, kept in a file, so that its models need not be asked twice."""

import dataclasses
import pathlib

import jax
import numpy as np
from jaxtyping import Bool, Float32

from mu_jax.config import InputError
from mu_jax.data.array_files import open_archive
from mu_jax.data.files import UNREADABLE, atomic_write
from mu_jax.experiments.sisa_setting import SisaSetting
from mu_jax.unlearning.sisa.aggregation import majority_vote, mean_logits, mean_posterior
from mu_jax.unlearning.sisa.ensemble import AGGREGATIONS
from mu_jax.unlearning.sisa.shard_models import ShardModels
from mu_jax.unlearning.sisa.sharding import Sharding


@dataclasses.dataclass(frozen=True)
class Answers:
    """Of one ensemble, on all N images, training images first."""

    # Checked where they are read; plain arrays to the type checker.
    posteriors: dict[str, np.ndarray]
    """float32[N,C] by each aggregation"""
    right: np.ndarray
    """bool[S,N], which shards say the true class"""
    votes: np.ndarray
    """bool[S], which shards have a model"""

    def save(self, path: pathlib.Path) -> None:
        """Whole or not at all."""
        with atomic_write(path) as file:
            np.savez(file, right=self.right, votes=self.votes, **self.posteriors)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Answers | None":
        """What `save` wrote, or None where there is none; InputError where it is damaged."""
        if not path.exists():
            return None
        try:
            with open_archive(path) as found:
                return cls({name: found[name] for name in AGGREGATIONS}, found["right"], found["votes"])
        except UNREADABLE as error:
            raise InputError(f"{path} cannot be read ({error}); choose another --workdir.") from None


def ask(setting: SisaSetting, models: ShardModels, sharding: Sharding) -> Answers:
    """Every shard on every image, and the three aggregates; shards without an example do not vote."""
    data, labels = setting.config.data, setting.dataset.labels
    logits, votes = models.logits(
        sharding,
        setting.query_model,
        setting.dataset.images,
        data.mean,
        data.std,
        setting.config.evaluation.query_batch,
    )
    posteriors: Float32[np.ndarray, "S N C"] = np.asarray(jax.nn.softmax(logits, axis=-1))
    right: Bool[np.ndarray, "S N"] = logits.argmax(axis=-1) == labels
    aggregates = {
        "mean_posterior": mean_posterior(posteriors, votes=votes),
        "majority_vote": majority_vote(posteriors, votes=votes),
        "mean_logits": mean_logits(logits, votes=votes),
    }
    return Answers({name: array.astype(np.float32) for name, array in aggregates.items()}, right, votes)
