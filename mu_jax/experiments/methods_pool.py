"""The reference models behind RMIA, and what each says of the true class of every image."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mu_jax.attacks.signals import confidence
from mu_jax.attacks.taylor_softmax import taylor_softmax
from mu_jax.config import InputError, UnlearningMethods
from mu_jax.data.files import user_path
from mu_jax.experiments import shadow_sweep
from mu_jax.experiments.methods_setting import MethodsSetting
from mu_jax.experiments.signal_pool import Pool, read_pool
from mu_jax.experiments.sweep_progress import SweepProgress
from mu_jax.training.query_views import View


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """K models, each trained on half of the training and test images, and what they say of these M images."""

    rows: Int[np.ndarray, "M"]
    """of the data, sorted: all but validation images"""
    probability: Float[np.ndarray, "K M"]
    member: Bool[np.ndarray, "K M"]
    member_accuracy: float
    nonmember_accuracy: float

    def places(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Where some rows of the data are among the M."""
        return np.searchsorted(self.rows, rows)


def given_pool(setting: MethodsSetting) -> Pool | None:
    """The finished pool that the config names, checked against the data; None where it names none."""
    folder = setting.config.pool.folder
    if not folder:
        return None
    pool = read_pool(user_path(folder))
    _check(pool, setting)
    return pool


def make_references(
    setting: MethodsSetting, given: Pool | None, folder: pathlib.Path, progress: SweepProgress
) -> References | None:
    """Those of the given pool, or else trained in `folder`; None where none are asked for."""
    config = setting.config
    if given is None and not config.pool.models:
        return None
    if given is None:
        shadow_sweep.run(setting.sweep(), folder, progress=progress)
    pool = given or read_pool(folder)
    rows, usable = _rows(setting), np.flatnonzero(pool.usable)
    # The first query is the image as it is.
    if config.pool.probability == "taylor_softmax":
        signals = [probability_of(config, pool.logits[model, rows, 0], pool.labels[rows]) for model in usable]
    else:
        signals = [pool.probability[model, rows, 0] for model in usable]
    right = np.stack([pool.phi[model, rows, 0] > 0 for model in usable])
    member = np.asarray(pool.member)[usable][:, rows]
    return References(
        rows=rows,
        probability=np.stack(signals),
        member=member,
        member_accuracy=float(right[member].mean()),
        nonmember_accuracy=float(right[~member].mean()),
    )


def _rows(setting: MethodsSetting) -> Int[np.ndarray, "M"]:
    first = setting.splits[0]
    return np.sort(np.concatenate([first.retain, first.forget, first.test]))


def probability_of(
    config: UnlearningMethods, logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """The true class's probability, as RMIA compares it."""
    signal: Any = taylor_softmax if config.pool.probability == "taylor_softmax" else confidence
    return np.asarray(signal(np.asarray(logits), np.asarray(labels)), np.float64)


def _check(pool: Pool, setting: MethodsSetting) -> None:
    config, labels = setting.config, setting.dataset.labels
    folder = config.pool.folder
    made_of = pool.produced_by.get("data", {}).get("fingerprint")
    if not np.array_equal(pool.labels, labels) or made_of != setting.dataset.fingerprint():
        raise InputError(
            f"The pool in {folder} is of {len(pool.labels)} examples that are not the data's {len(labels)}; use a "
            "sweep over the same data, cut to size by the same seed."
        )
    plain = View(flip=False, down=0, right=0)._asdict()
    if pool.queries[:1] != [plain]:
        raise InputError(
            f"The first query of the pool in {folder} is {(pool.queries or [None])[0]}, but expected {plain}, the "
            "image as it is, which models here are asked about; use a sweep whose first view is that."
        )
    member = np.asarray(pool.member)[pool.usable][:, _rows(setting)]
    lacking = int((~member.any(axis=0) | member.all(axis=0)).sum())
    if lacking:
        raise InputError(
            f"In the pool in {folder}, {lacking} examples lack models that were trained on them, or models that were "
            "not; use a sweep with --config.sweep.candidates=train+test."
        )
    if config.pool.probability == "taylor_softmax" and pool.logits is None:
        raise InputError(
            f"The pool in {folder} holds no logits, but pool.probability is taylor_softmax; make it with "
            "--config.query.logits=True, or choose softmax."
        )
