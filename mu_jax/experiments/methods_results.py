"""From what the compared models say to what results.json says of them: means and spreads over all cases."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.attacks.svc import FEATURES
from mu_jax.evaluation.comparison import Gap, gap_to_retrain
from mu_jax.experiments.comparison_results import environment
from mu_jax.experiments.facts import data_facts, model_facts, neighbours_facts, split_sizes
from mu_jax.experiments.methods_answers import Answer
from mu_jax.experiments.methods_judge import Found, Judged, judge
from mu_jax.experiments.methods_models import Neighbours
from mu_jax.experiments.methods_setting import Case, MethodsSetting
from mu_jax.unlearning.amun_bound import bound_terms
from mu_jax.unlearning.methods import METHODS

QUESTION = (
    "After some training images are deleted, which method leaves a model that behaves most like one retrained without "
    "them, and what does it cost?"
)


def results_of(found: Found) -> dict[str, Any]:
    """Everything that results.json says."""
    setting, made = found.setting, found.made
    config = setting.config
    judged = {case: _judge(found, case, answer) for case, answer in made.answers.items()}
    gaps = {
        case: gap_to_retrain(figures.behaviour, judged[_retrained(case)].behaviour)
        for case, figures in judged.items()
    }
    # `original` first, then as they were made.
    methods = list(dict.fromkeys(case.method for case in judged))
    references = found.references
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": data_facts(setting)
        | split_sizes(setting.splits[0])
        | {"nonmembers": len(setting.nonmembers)},
        "model": model_facts(setting, made.parameters),
        "study": {**vars(config.study), "retained_data": _uses_retained(setting)},
        "pool": references
        and {
            "models": len(references.member),
            "member_accuracy": references.member_accuracy,
            "nonmember_accuracy": references.nonmember_accuracy,
        },
        "models": {
            method: _summary(method, judged, gaps, made.answers)
            | {
                "diverged": sum(case.method == method for case in made.diverged),
                "left_out": sum(case.method == method for case in made.left_out),
            }
            for method in methods
        },
        "neighbours": [_describe(neighbours) for neighbours in made.neighbours],
        "tables": {
            "runs": [_row(case, judged[case], gaps[case], made.answers[case]) for case in judged],
            "bound": _bound_rows(found, gaps),
            "requests": _request_rows(found),
            **{
                title: [{**dataclasses.asdict(case), "reason": reason} for case, reason in lost.items()]
                for title, lost in (("diverged", made.diverged), ("left_out", made.left_out))
            },
        },
        "environment": environment(),
    }


def _retrained(case: Case) -> Case:
    return Case("retrain", case.base, case.forget_set)


def _uses_retained(setting: MethodsSetting) -> bool:
    """Whether some method visits retained examples."""
    used = (METHODS[name].settings_of(setting.config.methods) for name in setting.config.names)
    return any(getattr(settings, "retain", True) for settings in used)


def _judge(found: Found, case: Case, answer: Answer) -> Judged:
    splits = found.setting.splits[case.forget_set]
    return judge(found, answer, splits.retain, splits.forget)


def _summary(
    method: str,
    judged: Mapping[Case, Judged],
    gaps: Mapping[Case, Gap],
    answers: Mapping[Case, Answer],
) -> dict[str, Any]:
    cases = [case for case in judged if case.method == method]
    figures = [judged[case] for case in cases]

    def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
        known = [value for value in values if value is not None]
        if not known:
            return None, None
        return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None

    def areas(values: Sequence[float]) -> dict[str, float | None]:
        return dict(zip(("auc", "auc_sd"), spread(values), strict=True))

    attacks: dict[str, Any] = {"loss_threshold": areas([one.loss_auc for one in figures])}
    if figures[0].aucs is not None:
        for pair in ("forget_vs_test", "forget_vs_retain", "retain_vs_test"):
            attacks[f"rmia_{pair}"] = areas([getattr(one.aucs, pair) for one in figures])
    svc: dict[str, float | None] = {}
    for feature in FEATURES:
        svc[feature], svc[f"{feature}_sd"] = spread([one.svc[feature] for one in figures])
    parts = {part: spread([one.accuracy[part] for one in figures]) for part in ("retain", "forget", "test")}
    robust = spread([one.robust_accuracy for one in figures])
    gap = spread([gaps[case].gap for case in cases])
    gap_parts = {
        part: float(np.mean([gaps[case].parts[part] for case in cases])) for part in gaps[cases[0]].parts
    }

    def mean(field: str) -> float:
        return float(np.mean([getattr(answers[case], field) for case in cases]))

    return {
        "n": len(cases),
        "accuracy": {part: value for part, (value, _) in parts.items()},
        "accuracy_sd": {part: sd for part, (_, sd) in parts.items()},
        "attacks": attacks | {"svc": svc},
        "robust_accuracy": robust[0],
        "robust_accuracy_sd": robust[1],
        "gap_to_retrain": gap[0],
        "gap_sd": gap[1],
        "gap_parts": gap_parts,
        **{
            field: mean(field)
            for field in ("seconds", "preparation_seconds", "compile_seconds", "trained_samples")
        },
    }


def _row(case: Case, figures: Judged, gap: Gap, answer: Answer) -> dict[str, Any]:
    aucs = figures.aucs
    return {
        **_place(case),
        "model": case.method,
        **figures.accuracy,
        "ft_auc": aucs and aucs.forget_vs_test,
        "fr_auc": aucs and aucs.forget_vs_retain,
        "rt_auc": aucs and aucs.retain_vs_test,
        "loss_auc": figures.loss_auc,
        "svc_confidence": figures.svc["confidence"],
        "robust_accuracy": figures.robust_accuracy,
        "gap": gap.gap,
        "seconds": answer.seconds,
        "preparation_seconds": answer.preparation_seconds,
    }


def _place(case: Case) -> dict[str, int]:
    return {"base": case.base, "forget_set": case.forget_set, "run": case.run}


def _describe(neighbours: Neighbours) -> dict[str, Any]:
    return {
        "kind": neighbours.kind,
        "base": neighbours.base,
        "forget_set": neighbours.forget_set,
        **neighbours_facts(neighbours.stored),
        "seconds": neighbours.seconds,
    }


def _bound_rows(found: Found, gaps: Mapping[Case, Gap]) -> list[dict[str, Any]]:
    """The terms of AMUN's Theorem 4.1 for each model, as if its step had been AMUN's."""
    answers, labels = found.made.answers, found.setting.dataset.labels
    own = {(one.base, one.forget_set): one.stored for one in found.made.neighbours if one.kind == "own"}
    rows = []
    for case, answer in answers.items():
        stored = own.get((case.base, case.forget_set))
        if case.method == "original" or stored is None:
            continue
        original = answers[Case("original", case.base, case.forget_set)]
        retrained = answers[_retrained(case)]
        terms = bound_terms(
            original_logits=original.logits[stored.index],
            original_adversarial_logits=original.neighbour_logits,
            unlearned_adversarial_logits=answer.neighbour_logits,
            retrained_logits=retrained.logits[stored.index],
            retrained_adversarial_logits=retrained.neighbour_logits,
            labels=labels[stored.index],
            adversarial_labels=stored.adversarial_labels,
            delta=stored.distance,
        ).summary()
        rows.append(
            {
                **_place(case),
                "model": case.method,
                "distance": terms["delta"],
                "transfer": terms["transfer"],
                "loss_original": terms["original_adversarial_loss"],
                "loss_unlearned": terms["unlearned_adversarial_loss"],
                "loss_retrained": terms["retrained_loss"],
                "loss_retrained_adversarial": terms["retrained_adversarial_loss"],
                "c": terms["c"],
                "weights_distance": answer.weights_distance,
                "gap": gaps[case].gap,
            }
        )
    return rows


def _request_rows(found: Found) -> list[dict[str, Any]]:
    rows, deleted = [], {}
    for request in found.requests:
        figures = judge(found, request.answer, request.retain, request.forget)
        deleted[request.kind] = deleted.get(request.kind, 0) + len(request.forget)
        aucs = figures.aucs
        rows.append(
            {
                "kind": request.kind,
                "request": request.number,
                "deleted": deleted[request.kind],
                "ft_auc": aucs and aucs.forget_vs_test,
                "fr_auc": aucs and aucs.forget_vs_retain,
                "fr_minus_ft": aucs and aucs.forget_vs_retain - aucs.forget_vs_test,
                **figures.accuracy,
            }
        )
    return rows
