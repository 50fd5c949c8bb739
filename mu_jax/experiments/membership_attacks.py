"""From signals of targets and references to every attack's scores and what they are worth."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8

from mu_jax.attacks.calibrated_loss import calibrated_loss_scores, leave_one_out_calibrated_loss
from mu_jax.attacks.lira import leave_one_out_lira, lira_scores
from mu_jax.attacks.rmia import leave_one_out_rmia, rmia_scores, search_offline_a
from mu_jax.config import AttackConfig, InputError
from mu_jax.evaluation.exposure import exposure
from mu_jax.evaluation.many_targets import evaluate_targets
from mu_jax.evaluation.report.attack_data import AttackReportData, AttackScores, attack_name

Say = Callable[[str], None]


class PoolTargets:
    """Models of a pool as targets in turn, the pool's other models as their references."""

    def __init__(
        self,
        phi: Float[np.ndarray, "K N A"],
        probability: Float[np.ndarray, "K N A"],
        member: Bool[np.ndarray, "K N"],
        targets: int = 0,
    ) -> None:
        """`targets`: the first so many are attacked; 0: all."""
        self._phi, self._probability, self._member = phi, probability, member
        self._targets = np.arange(min(targets or len(phi), len(phi)))
        self.is_member = np.asarray(member)[self._targets]
        self.references = len(phi) - 1

    def loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, averaged over query augmentations."""
        return _loss_scores(self._phi[self._targets])

    def calibrated_loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, less what the references without the example have."""
        return leave_one_out_calibrated_loss(self._phi, self._member, targets=self._targets)

    def lira(self, mode: str, variance: str) -> Float64[np.ndarray, "T N"]:
        """LiRA, leaving each target out of its references."""
        return leave_one_out_lira(
            self._phi, self._member, mode=mode, variance=variance, targets=self._targets
        )

    def rmia(self, mode: str, settings: AttackConfig, seed: int) -> Float64[np.ndarray, "T N"]:
        """RMIA, leaving each target out of its references."""
        return leave_one_out_rmia(
            self._probability,
            self._member,
            mode=mode,
            gamma=settings.gamma,
            offline_a=max(settings.offline_a, 0.0),  # online it is not used, nor searched
            vote=settings.vote,
            population=settings.population,
            seed=seed,
            targets=self._targets,
        )

    def search_offline_a(self, gamma: float) -> float:
        """RMIA's a, by attacks on models of the pool: each is a shadow of the others."""
        return search_offline_a(self._probability, self._member, gamma=gamma)


class SeparateTargets:
    """Targets that are none of the references."""

    def __init__(
        self,
        target_member: Bool[np.ndarray, "T N"],
        target_phi: Float[np.ndarray, "T N A"],
        target_probability: Float[np.ndarray, "T N A"],
        shadow_phi: Float[np.ndarray, "K N A"],
        shadow_probability: Float[np.ndarray, "K N A"],
        shadow_member: Bool[np.ndarray, "K N"],
    ) -> None:
        self._target, self._shadow, self._member = target_phi, shadow_phi, shadow_member
        self._target_probability, self._probability = target_probability, shadow_probability
        self.is_member = target_member
        self.references = len(shadow_phi)

    def loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, averaged over query augmentations."""
        return _loss_scores(self._target)

    def calibrated_loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, less what the references without the example have."""
        return np.stack([calibrated_loss_scores(phi, self._shadow, self._member) for phi in self._target])

    def lira(self, mode: str, variance: str) -> Float64[np.ndarray, "T N"]:
        """LiRA of each target against all references."""
        return np.stack(
            [
                lira_scores(phi, self._shadow, self._member, mode=mode, variance=variance)
                for phi in self._target
            ]
        )

    def rmia(self, mode: str, settings: AttackConfig, seed: int) -> Float64[np.ndarray, "T N"]:
        """RMIA of each target, its non-members being the population."""
        reference = self._probability
        found = []
        for target, (probability, member) in enumerate(
            zip(self._target_probability, self.is_member, strict=True)
        ):
            z = np.flatnonzero(~member)
            if 0 < settings.population < z.size:
                draw = np.random.default_rng([seed, target])
                z = np.sort(draw.choice(z, settings.population, replace=False))
            found.append(
                rmia_scores(
                    probability,
                    reference,
                    self._member,
                    probability[z],
                    reference[:, z],
                    population_member=self._member[:, z],
                    population_index=z,
                    mode=mode,
                    gamma=settings.gamma,
                    offline_a=max(settings.offline_a, 0.0),
                    vote=settings.vote,
                )
            )
        return np.stack(found)

    def search_offline_a(self, gamma: float) -> float:
        """RMIA's a, by attacks on the references alone."""
        return search_offline_a(self._probability, self._member, gamma=gamma)


Targets = PoolTargets | SeparateTargets
"""T targets on N examples (`is_member` bool[T,N]), and whatever serves them as `references`, so many at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What all attacks found."""

    attacks: list[AttackScores]
    """The one with the largest AUC first, or the smallest where that lies farther from ½."""
    offline_a: float | None
    """RMIA's, where an offline one was asked for."""
    impossible: list[dict[str, Any]]
    """Forms of attacks that these signals do not allow, with the `reason`."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """`tables.attacks` of results.json."""
        return [attack.row for attack in self.attacks]


def attack_all(
    targets: Targets,
    settings: AttackConfig,
    seed: int,
    say: Say = lambda text: None,
    *,
    allow_impossible: bool = False,
) -> Outcome:
    """Every attack that `settings` names, in every form that it has, each judged over all targets.

    A form that asks for more references than there are is an InputError; with `allow_impossible` it is left out and
    told.
    """
    a = settings.offline_a if "rmia" in settings.names and "offline" in settings.modes else None
    found, impossible = [], []
    for form in _forms(settings):
        try:
            if form["attack"] == "rmia" and form["mode"] == "offline" and settings.offline_a == -1:
                a = targets.search_offline_a(settings.gamma)
                settings = dataclasses.replace(settings, offline_a=a)
                say(f"RMIA's a = {a:g}, found by attacks on shadow models")
            scores = _scores(targets, form, settings, seed)
        except InputError as error:
            if not allow_impossible:
                raise
            impossible.append(form | {"reason": str(error)})
            say(f"{attack_name(form)} is left out: {error}")
            continue
        evaluated = evaluate_targets(
            scores,
            targets.is_member,
            fpr=settings.fpr,
            level=settings.interval_level,
            samples=settings.bootstrap_samples,
            seed=seed,
        )
        exposed = exposure(scores, targets.is_member)
        row = form | evaluated
        row["false_positives"] = [point["false_positives"] for point in evaluated["tpr_at_fpr"]]
        row["stability"] = {
            "rank_correlation": exposed.rank_correlation,
            "top_jaccard": exposed.top_jaccard,
        }
        found.append(AttackScores(row, scores))
        say(f"{found[-1].name}: AUC {100 * row['auc']:.1f}%")
    found.sort(key=lambda attack: -attack.row["auc_distance"])
    return Outcome(found, a, impossible)


def _forms(settings: AttackConfig) -> list[dict[str, Any]]:
    """Each attack in each of its modes, by the names that its row has."""
    modes = {"lira": settings.modes, "rmia": settings.modes}
    variances = {"lira": settings.variances}
    return [
        {"attack": name, "mode": mode, "variance": variance}
        for name in settings.names
        for mode in modes.get(name, (None,))
        for variance in variances.get(name, (None,))
    ]


def _scores(
    targets: Targets, form: dict[str, Any], settings: AttackConfig, seed: int
) -> Float64[np.ndarray, "T N"]:
    if form["attack"] == "lira":
        return targets.lira(form["mode"], form["variance"])
    if form["attack"] == "rmia":
        return targets.rmia(form["mode"], settings, seed)
    return targets.loss() if form["attack"] == "loss" else targets.calibrated_loss()


def report_of(
    outcome: Outcome,
    targets: Targets,
    *,
    examples: Int[np.ndarray, "N"],
    labels: Int[np.ndarray, "N"],
    class_names: tuple[str, ...] = (),
    images: UInt8[np.ndarray, "N H W D"] | None = None,
) -> AttackReportData:
    """What a page shows; the examples are looked at by the strongest attack."""
    return AttackReportData(
        attacks=outcome.attacks,
        is_member=targets.is_member,
        exposure=exposure(outcome.attacks[0].scores, targets.is_member).exposure,
        examples=examples,
        labels=labels,
        class_names=class_names,
        images=images,
    )


def score_arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    """Of each attack's form its scores float64[T,N], by a name such as `lira_online_global`."""
    names = ("attack", "mode", "variance")
    return {
        "_".join(str(attack.row[name]) for name in names if attack.row[name]): attack.scores
        for attack in outcome.attacks
    }


def _loss_scores(phi: Float[np.ndarray, "T N A"]) -> Float64[np.ndarray, "T N"]:
    """−log p = softplus(−φ), minus its mean over query augmentations."""
    return -np.logaddexp(0.0, -np.asarray(phi, np.float64)).mean(axis=2)
