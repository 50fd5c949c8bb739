"""From signals of targets and references to every attack's scores and what they are worth."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, UInt8

from mu_jax.config import AttackConfig, InputError
from mu_jax.evaluation.exposure import exposure
from mu_jax.evaluation.many_targets import evaluate_targets
from mu_jax.evaluation.report.attack_data import AttackReportData, AttackScores, attack_name, by_strength
from mu_jax.experiments.attack_targets import Targets

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What all attacks found."""

    attacks: list[AttackScores]
    """The strongest first."""
    offline_a: list[float] | None
    """RMIA's, where an offline one was asked for: one, or of two halves of the targets, each searched on the other."""
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
    shadows = targets.shadows()
    found, impossible, a = [], [], None
    for form in _forms(settings):
        try:
            scores = _scores(targets, form, settings, seed)
            row = form | _judged(
                scores, targets, _shadow_scores(shadows, form, settings, seed), settings, seed
            )
            if form["attack"] == "rmia" and form["mode"] == "offline":
                a = targets.offline_a(settings)
                if settings.offline_a == -1:
                    say(f"RMIA's a = {', '.join(f'{one:g}' for one in a)}, found by attacks on other models")
        except InputError as error:
            if not allow_impossible:
                raise
            impossible.append(form | {"reason": str(error)})
            say(f"{attack_name(form)} is left out: {error}")
            continue
        found.append(AttackScores(row, scores))
        say(f"{found[-1].name}: AUC {100 * row['auc']:.1f}%")
    return Outcome(by_strength(found), a, impossible)


def _judged(
    scores: Float64[np.ndarray, "T N"],
    targets: Targets,
    shadow_scores: dict[str, Any],
    settings: AttackConfig,
    seed: int,
) -> dict[str, Any]:
    evaluated = evaluate_targets(
        scores,
        targets.is_member,
        fpr=settings.fpr,
        level=settings.interval_level,
        samples=settings.bootstrap_samples,
        seed=seed,
        **shadow_scores,
    )
    exposed = exposure(scores, targets.is_member)
    stability = {"rank_correlation": exposed.rank_correlation, "top_jaccard": exposed.top_jaccard}
    return evaluated | {
        "false_positives": [point["false_positives"] for point in evaluated["tpr_at_fpr"]],
        "stability": stability,
    }


def _shadow_scores(
    shadows: Targets | None, form: dict[str, Any], settings: AttackConfig, seed: int
) -> dict[str, Any]:
    """The same attack on the attacker's own models, to learn thresholds on; nothing where they are too few."""
    if shadows is None:
        return {}
    try:
        return {
            "shadow_scores": _scores(shadows, form, settings, seed),
            "shadow_is_member": shadows.is_member,
        }
    except InputError:
        return {}


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
    labels: Int[np.ndarray, "N"] | None,
    class_names: tuple[str, ...] = (),
    images: UInt8[np.ndarray, "N H W D"] | None = None,
) -> AttackReportData:
    """What a page shows; the examples are looked at by the strongest attack."""
    first = outcome.attacks[0]
    # An attack that is wrong more often than right tells members all the same, by its low scores.
    scores = first.scores if first.row["auc"] >= 0.5 else -first.scores
    return AttackReportData(
        attacks=outcome.attacks,
        is_member=targets.is_member,
        exposure=exposure(scores, targets.is_member).exposure,
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
