"""A second opinion on a group's signals, before they are stored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.attacks.signals import logit_margin
from mu_jax.experiments.setting import build_models
from mu_jax.experiments.sweep_setting import SweepSetting
from mu_jax.training.parallel import TrainedGroup
from mu_jax.training.query import make_query

_EXAMPLES = 64
# Rounding moves φ by some 1e-5 of its size; what this is for was off by a tenth.
_TOLERANCE = 1e-2


class SignalCheck:
    """Reads φ of a few images again, on one device by itself, and compares.

    XLA's CPU backend computes some matrix products wrongly where its threads' queues are full
    (`training.cpu_threads`), which is how this check earned its place: it costs a second of a group's minutes, and a
    wrong signal is worse than none.
    """

    def __init__(self, setting: SweepSetting) -> None:
        self._setting = setting
        number = len(setting.dataset.labels)
        # The last images, where it happened, and some others.
        last = np.arange(max(number - _EXAMPLES // 2, 0), number)
        others = np.random.default_rng(0).choice(number, min(_EXAMPLES - len(last), number), replace=False)
        self._rows = np.concatenate([last, others])

    @functools.cached_property
    def _images(self) -> jax.Array:
        return jnp.asarray(self._setting.examples.images[self._rows])

    @functools.cached_property
    def _query(self):
        setting = self._setting
        _, model = build_models(setting.config.model, setting.dataset, setting.lowering)
        return make_query(model, setting.config.data.mean, setting.config.data.std, len(self._rows))

    def __call__(self, group: TrainedGroup) -> None:
        """RuntimeError where φ of the image as it is is another one than the group says, in a model that is sound."""
        labels = self._setting.dataset.labels[self._rows]
        for i in np.flatnonzero(group.diverged_step < 0):
            expected = np.asarray(logit_margin(self._query(group.of(int(i)), self._images), labels))
            found = group.signals["phi"][i, self._rows, 0]
            off = np.abs(found - expected) / (1 + np.abs(expected))
            if not off.max() < _TOLERANCE:
                raise RuntimeError(
                    f"φ of example {self._rows[off.argmax()]} is {found[off.argmax()]} by the sweep and "
                    f"{expected[off.argmax()]} by a second computation, but expected the same: this machine's JAX "
                    "computes wrongly with several devices; run the sweep with --config.sweep.mapping=map and "
                    "--config.sweep.devices=1 in a new --workdir, and report it. Nothing of this group was stored."
                )
