"""What one model of the comparison is like: its accuracies, and what the attacks make of it."""

import dataclasses

import numpy as np

from mu_jax.attacks.loss import loss_scores
from mu_jax.attacks.svc import svc_attack
from mu_jax.evaluation.comparison import Behaviour
from mu_jax.evaluation.forget_aucs import ForgetAucs, forget_aucs
from mu_jax.evaluation.roc import auc
from mu_jax.experiments.methods_answers import Answer
from mu_jax.experiments.methods_models import Made
from mu_jax.experiments.methods_pool import References, probability_of
from mu_jax.experiments.methods_requests import Request
from mu_jax.experiments.methods_setting import MethodsSetting


@dataclasses.dataclass(frozen=True)
class Found:
    """All that the experiment found."""

    setting: MethodsSetting
    made: Made
    references: References | None
    requests: list[Request]


@dataclasses.dataclass(frozen=True)
class Judged:
    """One model's figures; fractions, None where a figure was not measured."""

    accuracy: dict[str, float]
    aucs: ForgetAucs | None
    loss_auc: float
    svc: dict[str, float]
    robust_accuracy: float | None

    @property
    def behaviour(self) -> Behaviour:
        """What the gap is taken of: RMIA where there is a pool, else the loss attack."""
        return Behaviour(
            unlearn_accuracy=self.accuracy["forget"],
            retain_accuracy=self.accuracy["retain"],
            test_accuracy=self.accuracy["test"],
            forget_vs_test_auc=self.loss_auc if self.aucs is None else self.aucs.forget_vs_test,
        )


def judge(found: Found, answer: Answer, retain: np.ndarray, forget: np.ndarray) -> Judged:
    """A model's figures for one forget set."""
    setting = found.setting
    config, labels = setting.config, setting.dataset.labels
    rows = {"retain": retain, "forget": forget, "test": setting.splits[0].test}
    correct = answer.logits.argmax(axis=1) == labels
    scores = np.asarray(loss_scores(answer.logits, labels), np.float64)
    unseen = setting.nonmembers
    compared = np.concatenate([scores[forget], scores[unseen]])
    aucs = None
    references = found.references
    if references is not None:
        seen = references.rows
        aucs = forget_aucs(
            probability_of(config, answer.logits[seen], labels[seen]),
            references.probability,
            references.member,
            retain=references.places(retain),
            forget=references.places(forget),
            test=references.places(unseen),
            gamma=config.pool.gamma,
            draws=config.pool.draws,
            seed=config.seed,
        )
    svc = svc_attack(answer.logits, labels, retain=retain, forget=forget, test=unseen, seed=config.seed)
    return Judged(
        accuracy={part: float(correct[index].mean()) for part, index in rows.items()},
        aucs=aucs,
        loss_auc=float(auc(compared, np.arange(len(compared)) < len(forget))),
        svc={name: attack.score for name, attack in svc.items()},
        robust_accuracy=answer.robust_accuracy if np.isfinite(answer.robust_accuracy) else None,
    )
