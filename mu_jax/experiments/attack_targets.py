"""Who is attacked, and with the help of which references: models of a pool in turn, or targets apart from it."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from mu_jax.attacks.balance import balanced_references, is_balanced, take_references
from mu_jax.attacks.calibrated_loss import (
    calibrated_loss_scores,
    leave_one_out_calibrated_loss,
    loss_scores_from_phi,
)
from mu_jax.attacks.lira import leave_one_out_lira, lira_scores_of_targets
from mu_jax.attacks.rmia import leave_one_out_rmia, rmia_scores, search_offline_a
from mu_jax.config import AttackConfig

_SHADOW_TARGETS = 8
"""References that are attacked themselves, to learn thresholds on."""


class SeparateTargets:
    """Targets that are none of the references.

    Examples are judged by equally many references each (`attacks.balance`): where targets and references were cut from
    one pool, how many an example has would tell whether the target was trained on it.
    """

    def __init__(
        self,
        target_member: Bool[np.ndarray, "T N"],
        target_phi: Float[np.ndarray, "T N A"],
        target_probability: Float[np.ndarray, "T N A"],
        shadow_phi: Float[np.ndarray, "K N A"],
        shadow_probability: Float[np.ndarray, "K N A"],
        shadow_member: Bool[np.ndarray, "K N"],
    ) -> None:
        self._phi, self._probability = target_phi, target_probability
        self._shadow_phi, self._shadow_probability = shadow_phi, shadow_probability
        self._member = shadow_member
        self._found_a: dict[float, float] = {}
        self.is_member = target_member
        self.references = len(shadow_phi)

    def loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, averaged over query augmentations."""
        return loss_scores_from_phi(self._phi)

    def calibrated_loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, less what the references without the example have."""
        member, references = self._references(False, self._shadow_phi)
        return np.stack([calibrated_loss_scores(phi, references, member) for phi in self._phi])

    def lira(self, mode: str, variance: str) -> Float64[np.ndarray, "T N"]:
        """LiRA of each target against the references."""
        member, references = self._references(mode == "online", self._shadow_phi)
        return lira_scores_of_targets(self._phi, references, member, mode=mode, variance=variance)

    def rmia(self, mode: str, settings: AttackConfig, seed: int) -> Float64[np.ndarray, "T N"]:
        """RMIA of each target, its non-members being the population."""
        a = self._offline_a(settings.gamma) if settings.offline_a == -1 and mode == "offline" else None
        member, references = self._references(mode == "online", self._shadow_probability)
        found = []
        for target, (probability, inside) in enumerate(zip(self._probability, self.is_member, strict=True)):
            z = np.flatnonzero(~inside)
            if 0 < settings.population < z.size:
                draw = np.random.default_rng([seed, target])
                z = np.sort(draw.choice(z, settings.population, replace=False))
            found.append(
                rmia_scores(
                    probability,
                    references,
                    member,
                    probability[z],
                    references[:, z],
                    population_member=member[:, z],
                    population_index=z,
                    mode=mode,
                    gamma=settings.gamma,
                    offline_a=max(settings.offline_a, 0.0) if a is None else a,
                    vote=settings.vote,
                )
            )
        return np.stack(found)

    def offline_a(self, settings: AttackConfig) -> list[float]:
        """RMIA's a offline: given, or searched by attacks on the references alone."""
        return [self._offline_a(settings.gamma) if settings.offline_a == -1 else settings.offline_a]

    def shadows(self) -> "PoolTargets | None":
        """Some of the references as targets of the others; None where no example has both kinds of references."""
        both = self._member.any(axis=0) & ~self._member.all(axis=0)
        sides = self._member[:, both]
        if not both.all() or (sides.all(axis=1) | ~sides.any(axis=1)).any():
            return None
        return PoolTargets(self._shadow_phi, self._shadow_probability, self._member, _SHADOW_TARGETS)

    def _offline_a(self, gamma: float) -> float:
        if gamma not in self._found_a:
            self._found_a[gamma] = _searched_a(self._shadow_probability, self._member, gamma)
        return self._found_a[gamma]

    def _references(
        self, online: bool, signals: Float[np.ndarray, "K N A"]
    ) -> tuple[Bool[np.ndarray, "R N"], Float[np.ndarray, "R N A"]]:
        if is_balanced(self._member):
            return self._member, signals
        rows, inside = balanced_references(self._member, online=online)
        return inside, take_references(signals, rows)


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
        self._phi, self._probability, self._member = phi, probability, np.asarray(member)
        self._targets = np.arange(min(targets or len(phi), len(phi)))
        self.is_member = self._member[self._targets]
        self.references = len(phi) - 1
        # Else the sums over the pool would leave examples with unequal numbers of references.
        self._at_once = is_balanced(self._member)
        self._found_groups: dict[float, list[tuple[Int[np.ndarray, "_"], float]]] = {}

    def loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, averaged over query augmentations."""
        return loss_scores_from_phi(self._phi[self._targets])

    def calibrated_loss(self) -> Float64[np.ndarray, "T N"]:
        """Minus the loss, less what the references without the example have."""
        if self._at_once:
            return leave_one_out_calibrated_loss(self._phi, self._member, targets=self._targets)
        return np.concatenate([self._alone(int(target)).calibrated_loss() for target in self._targets])

    def lira(self, mode: str, variance: str) -> Float64[np.ndarray, "T N"]:
        """LiRA, leaving each target out of its references."""
        if self._at_once:
            return leave_one_out_lira(
                self._phi, self._member, mode=mode, variance=variance, targets=self._targets
            )
        return np.concatenate([self._alone(int(target)).lira(mode, variance) for target in self._targets])

    def rmia(self, mode: str, settings: AttackConfig, seed: int) -> Float64[np.ndarray, "T N"]:
        """RMIA, leaving each target out of its references; a searched a is never that of a target's own group."""
        found = np.empty(self.is_member.shape)
        groups = self._groups(settings) if mode == "offline" else [(self._targets, 0.0)]
        for targets, a in groups:
            options = {"gamma": settings.gamma, "vote": settings.vote, "population": settings.population}
            if self._at_once:
                found[targets] = leave_one_out_rmia(
                    self._probability,
                    self._member,
                    mode=mode,
                    offline_a=a,
                    seed=seed,
                    targets=targets,
                    **options,
                )
                continue
            alone = AttackConfig(names=("rmia",), offline_a=a, **options)
            for target in targets:
                found[target] = self._alone(int(target)).rmia(mode, alone, seed + int(target))[0]
        return found

    def offline_a(self, settings: AttackConfig) -> list[float]:
        """RMIA's a offline: given, or searched by attacks on models that are not attacked with it."""
        return [a for _, a in self._groups(settings)]

    def shadows(self) -> "PoolTargets | None":
        """None: to each other, targets are the shadow models."""
        return None

    def _groups(self, settings: AttackConfig) -> list[tuple[Int[np.ndarray, "_"], float]]:
        """Targets that share an a: found on the models that are no targets, or else on the other half of them."""
        if settings.offline_a != -1:
            return [(self._targets, settings.offline_a)]
        if settings.gamma not in self._found_groups:
            self._found_groups[settings.gamma] = self._search_groups(settings.gamma)
        return self._found_groups[settings.gamma]

    def _search_groups(self, gamma: float) -> list[tuple[Int[np.ndarray, "_"], float]]:
        models = np.arange(len(self._phi))
        rest = models[len(self._targets) :]
        halves = np.array_split(self._targets, 2)
        apart = len(rest) >= _SHADOW_TARGETS
        found = []
        for targets in [self._targets] if apart else halves:
            others = rest if apart else np.setdiff1d(models, targets)
            found.append((targets, _searched_a(self._probability[others], self._member[others], gamma)))
        return found

    def _alone(self, target: int) -> SeparateTargets:
        """One target against the pool's other models, but for one that holds exactly what the target does not."""
        others = np.array(
            [
                k
                for k in range(len(self._phi))
                if k != target and not np.array_equal(self._member[k], ~self._member[target])
            ]
        )
        own = slice(target, target + 1)
        return SeparateTargets(
            self._member[own],
            self._phi[own],
            self._probability[own],
            self._phi[others],
            self._probability[others],
            self._member[others],
        )


Targets = PoolTargets | SeparateTargets
"""T targets on N examples (`is_member` bool[T,N]), and whatever serves them as `references`, so many at most."""


def _searched_a(
    probability: Float[np.ndarray, "K N A"], member: Bool[np.ndarray, "K N"], gamma: float
) -> float:
    """By the examples that keep references on both sides when a target and its opposite are gone."""
    inside = member.sum(axis=0)
    kept = (inside >= 2) & (len(member) - inside >= 2)
    return search_offline_a(probability[:, kept], member[:, kept], gamma=gamma)
