"""SISA: an ensemble in which deleting an example exactly costs the retraining of one shard, from one slice on.

Bourtoule et al., "Machine Unlearning", 2021: Sharded, Isolated, Sliced, Aggregated. The examples are cut into S shards
with a model each, and a shard into R slices; step r of a shard trains on its slices 1..r, from what step r − 1 left. A
deletion takes the example out of its slice and repeats its shard's steps from there on; nothing else has ever seen it.
"""

import datetime
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Int64, UInt8

from mu_jax.config import InputError
from mu_jax.data.files import atomic_write
from mu_jax.models import Model
from mu_jax.unlearning.sisa.aggregation import majority_vote, mean_logits, mean_posterior
from mu_jax.unlearning.sisa.requests import Request, RequestLog
from mu_jax.unlearning.sisa.shard_models import ShardModels, Work
from mu_jax.unlearning.sisa.sharding import Sharding

AGGREGATIONS = ("mean_posterior", "majority_vote", "mean_logits")

Certificate = dict[str, Any]
Say = Callable[[str], None]


class Sisa:
    """A fitted ensemble in a folder, which deletes on request, exactly, and says what it did.

    | in the folder | |
    |---|---|
    | `sharding.npz` | where every example lies, deleted ones too: positions alone |
    | `models/` | a checkpoint a step, none of which has seen a deleted example |
    | `requests.jsonl` | every deletion ever asked for, on disk before its retraining begins |
    | `certificates/request_N.json` | what was done about it |
    """

    def __init__(
        self,
        folder: pathlib.Path,
        models: ShardModels,
        sharding: Sharding,
        query_model: Model,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch_size: int = 500,
        aggregation: str = "mean_posterior",
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        """`models` trains in `folder / "models"`; the sharding is the one that `fit` begins with, before any deletion.

        `environment` (versions, devices) is what certificates say of the machine.

        InputError where the folder was begun with another sharding, or for an unknown aggregation.
        """
        if aggregation not in AGGREGATIONS:
            raise InputError(
                f"The aggregation is {aggregation!r}, but expected one of {', '.join(AGGREGATIONS)}; change it."
            )
        self.folder = pathlib.Path(folder)
        self._models, self._query_model, self._aggregation = models, query_model, aggregation
        self._mean, self._std, self._batch_size = mean, std, batch_size
        self._environment = environment or {}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "sharding.npz"
        if not path.exists():
            sharding.save(path)
        self._sharding = Sharding.load(path)
        if _positions(self._sharding) != _positions(sharding):
            raise InputError(
                f"{path} deals the examples to other shards or slices than these settings; set shards, slices and seed "
                "back, or choose another folder."
            )
        self._log = RequestLog(self.folder / "requests.jsonl")

    @property
    def sharding(self) -> Sharding:
        """Of the examples that are left, those of pending requests being gone too."""
        return self._sharding.without(self._log.deleted())

    def deleted(self) -> Int64[np.ndarray, "n"]:
        """Every position that was asked to be deleted, sorted."""
        return self._log.deleted()

    def pending(self) -> list[int]:
        """Numbers of the requests that are logged and not carried out yet: a kill came between. `fit` finishes them."""
        return [request.id for request in self._log.pending()]

    def fit(self, say: Say = lambda text: None, removed: Sequence[str] = ()) -> Work:
        """Train what is not trained yet, and carry out requests that a kill left half-way.

        `removed` names what the caller took away besides, for the certificates.
        """
        pending = self._log.pending()
        for request in pending:
            say(f"finishing request {request.id}, which was cut off: {len(request.indices)} examples")
        work = self._models.train(self.sharding, say)
        for request in pending:
            self._certify(request, work, removed)
        return work

    def unlearn(
        self,
        indices: Int[Array | np.ndarray, "n"],
        say: Say = lambda text: None,
        on_logged: Callable[[], Sequence[str]] = lambda: (),
    ) -> Certificate | None:
        """Delete examples: log the request, retrain what saw them, certify. None where all were deleted before.

        `indices` are positions of the sharding. Several in one call are retrained for together. After a kill at any
        moment, `fit` (or the next `unlearn`) finishes. `on_logged` is called between log and retraining: there a caller
        removes what else is derived from the examples, and names it. InputError, and nothing logged, for positions out
        of range.
        """
        wanted = np.unique(np.asarray(indices, np.int64))
        known = self._sharding.location(wanted)[0] >= 0
        if not known.all() or not wanted.size:
            got = f"{wanted[~known][0]}, which is none of them" if wanted.size else "no position"
            raise InputError(
                f"The request has {got}, but expected positions of the {len(self._sharding.examples)} examples that "
                "the ensemble was fitted on; correct it."
            )
        if self._log.pending():
            self.fit(say)
        before = np.intersect1d(wanted, self._log.deleted())
        if before.size:
            say(f"{before.size} of {wanted.size} examples were deleted before")
        new = np.setdiff1d(wanted, before)
        if not new.size:
            return None
        touched = np.unique(self._sharding.location(new)[0]).tolist()
        old = {shard: self._sha256_of(shard) for shard in touched}
        number = self._log.append(new, datetime.datetime.now(datetime.UTC), old)
        request = next(one for one in self._log.pending() if one.id == number)
        removed = on_logged()
        work = self._models.train(self.sharding, say, touched)
        return self._certify(request, work, removed)

    def predict(self, images: UInt8[np.ndarray, "N H W D"]) -> Float[np.ndarray, "N C"]:
        """The ensemble's posteriors. Shards without an example, and those of a pending deletion, do not vote."""
        logits, votes = self._models.logits(
            self._trained(), self._query_model, images, self._mean, self._std, self._batch_size
        )
        votes = votes & self.votes()
        if self._aggregation == "mean_logits":
            return np.asarray(mean_logits(logits, votes=votes))
        posteriors = np.asarray(jax.nn.softmax(logits, axis=-1))
        combine = mean_posterior if self._aggregation == "mean_posterior" else majority_vote
        return np.asarray(combine(posteriors, votes=votes))

    def votes(self) -> np.ndarray:
        """bool[S]: which shards hold no example of a pending request."""
        votes = np.ones(len(self._sharding.slices), bool)
        for request in self._log.pending():
            shard, _ = self._sharding.location(request.indices)
            votes[shard[shard >= 0]] = False
        return votes

    def requests(self) -> list[Request]:
        """All that were ever logged, oldest first."""
        return self._log.requests()

    def certificate(self, number: int) -> Certificate:
        """Of a request that was carried out; InputError where it is missing, or not what was written."""
        path = self.certificate_path(number)
        try:
            content = path.read_bytes()
            certificate = json.loads(content)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({error}); restore it.") from None
        digest, logged = hashlib.sha256(content).hexdigest(), self._log.certificates().get(number)
        if digest != logged:
            raise InputError(
                f"{path} has the SHA-256 {digest}, but the log of requests has {logged}: the certificate was changed; "
                "restore it."
            )
        return certificate

    def certificate_path(self, number: int) -> pathlib.Path:
        """Where the certificate of a request lies once it is carried out."""
        return self.folder / "certificates" / f"request_{number:06d}.json"

    def _sha256_of(self, shard: int) -> str | None:
        try:
            return self._models.parameters_sha256(self.sharding, [shard])[0]
        except InputError:
            return None  # a damaged checkpoint, which the training finds again, says, and replaces

    def _trained(self) -> Sharding:
        """What the models that may vote are of: the shards of a pending deletion are not looked at."""
        pending = [request.indices for request in self._log.pending()]
        if not pending:
            return self.sharding
        gone = np.flatnonzero(~self.votes())
        return self.sharding.without(
            np.concatenate([part for shard in gone for part in self._sharding.slices[shard]])
        )

    def _certify(self, request: Request, work: Work, removed: Sequence[str]) -> Certificate:
        shard, slice_ = self._sharding.location(request.indices)
        left = self.sharding
        touched = sorted(set(shard.tolist()))
        after = self._models.parameters_sha256(left, touched)
        first = self._sharding.earliest(request.indices)
        # By what stands there, not by what this process did: another one may have been killed in between.
        steps = [step for of in self._models.steps(left) for step in of if step.slice >= first[step.shard]]
        samples = sum(step.trained_samples for step in steps)
        certificate = {
            "request": request.id,
            "indices": request.indices.tolist(),
            "requested": request.when.isoformat(),
            "certified": datetime.datetime.now(datetime.UTC).isoformat(),
            "places": [
                {"index": int(i), "shard": int(s), "slice": int(r)}
                for i, s, r in zip(request.indices, shard, slice_, strict=True)
            ],
            "retrained": [{"shard": step.shard, "slice": step.slice, "key": step.key} for step in steps],
            # Trained besides, because a checkpoint was damaged or a fit had been cut off.
            "repaired": [
                {"shard": step.shard, "slice": step.slice}
                for step in work.steps
                if step.slice < first[step.shard]
            ],
            "trained_samples": samples,
            "examples_retrained": round(samples / self._models.epochs, 4),
            "seconds": round(self._models.seconds(steps), 3),
            "removed": [*(f"models/{self._models.name_of(step)}" for step in steps), *removed],
            "parameters_sha256": {
                str(s): {"before": request.before.get(s), "after": digest}
                for s, digest in zip(touched, after, strict=True)
            },
            "untouched_shards": [s for s in range(len(left.slices)) if s not in touched],
            "environment": dict(self._environment),
        }
        text = json.dumps(certificate, indent=2) + "\n"
        path = self.certificate_path(request.id)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as file:
            file.write(text.encode())
        self._log.mark_done(request.id, hashlib.sha256(text.encode()).hexdigest())
        return certificate


def _positions(sharding: Sharding) -> list[list[list[int]]]:
    return [[part.tolist() for part in shard] for shard in sharding.slices]
