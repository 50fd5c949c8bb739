"""The answer in words: which method is nearest to retraining, whether that is noise, and what fine-tuning does."""

import numpy as np

from mu_jax.evaluation.report.answer import Answer
from mu_jax.evaluation.report.methods_tables import (
    Row,
    methods_by_gap,
    points,
    rows_of,
    total_seconds,
)
from mu_jax.evaluation.report.tables import Number, duration

_FINETUNE = "finetune"


def methods_answer(results: Row) -> Answer:
    """The nearest method by the gap, beside the noise floor and beside fine-tuning, with n and standard deviations."""
    question, models = "Which method is nearest to retraining?", results["models"]
    names = [name for name in methods_by_gap(models) if models[name].get("gap_to_retrain") is not None]
    if not names:
        return Answer(question, "No method was compared", "There are no figures of any method.", ())
    best = names[0]
    gap, untouched = (
        models[best]["gap_to_retrain"],
        models.get("original", {}).get("gap_to_retrain"),
    )
    floor = models.get("retrain_again", {}).get("gap_to_retrain")
    verdict = f"{best}, with a gap of {_gap(models[best])}"
    if untouched is not None and floor is not None and untouched <= floor:
        verdict = (
            f"No verdict: the original model, which forgot nothing, has a gap of {_gap(models['original'])}, and two "
            f"retrainings differ by {_gap(models['retrain_again'])}, so this measure sees nothing to forget"
        )
    elif untouched is not None and gap >= untouched:
        verdict = (
            f"None: the best, {best} with {_gap(models[best])}, is no nearer than the original model, which forgot "
            f"nothing: {_gap(models['original'])}"
        )
    sentence = " ".join(part for part in (_floor(models, best), _finetune(results, best)) if part)
    details = (_single(models, best), _next(results, names), _untouched(models, names), _cost(models, best))
    return Answer(question, verdict, sentence, tuple(detail for detail in details if detail))


def paired(results: Row, name: str, other: str) -> list[float]:
    """Gap of one method less that of another, for each base model, forget set and run that both have."""
    found: dict[str, dict[tuple, float]] = {name: {}, other: {}}
    for row in rows_of(results, "runs"):
        if row["model"] in found and row.get("gap") is not None:
            found[row["model"]][row["base"], row["forget_set"], row["run"]] = row["gap"]
    mine, theirs = found[name], found[other]
    return [mine[case] - theirs[case] for case in mine if case in theirs]


def _floor(models: Row, best: str) -> str:
    again = models.get("retrain_again", {})
    gap, floor = models[best]["gap_to_retrain"], again.get("gap_to_retrain")
    if floor is None:
        return "There is no second retrained model, so nothing says how much of that is noise."
    named = f"the noise floor, which is the gap between two retrainings, {_gap(again)}"
    spread = again.get("gap_sd")
    if gap <= floor:
        return f"That is within {named}: by this measure it cannot be told from retraining."
    if spread is None:
        return f"That is above {named}; from one pair of them nobody knows how far the floor itself varies."
    if gap <= floor + spread:
        return f"That is above {named}, but by less than the floor's own standard deviation."
    times = gap / floor if floor > 0 else np.inf
    ratio = f"{times:.1f} times " if times < 99.5 else "far above "
    return f"That is {ratio}{named}: it can still be told from retraining."


def _finetune(results: Row, best: str) -> str:
    models = results["models"]
    gap = models.get(_FINETUNE, {}).get("gap_to_retrain")
    if gap is None:
        return ""
    if best == _FINETUNE:
        return "It does no more than train on: no method that is made to forget comes nearer."
    return f"Fine-tuning ({_FINETUNE}) has {_gap(models[_FINETUNE])}, {_farther(results, best, _FINETUNE)}."


def _farther(results: Row, best: str, other: str) -> str:
    """By how much another method's gap is larger: pair by pair where they share base model, forget set and run."""
    models = results["models"]
    differences = paired(results, other, best)
    if not differences:
        return f"{points(models[other]['gap_to_retrain'] - models[best]['gap_to_retrain'])} more"
    if len(differences) == 1:
        return f"{points(differences[0])} more, in one run"
    larger, n = sum(difference > 0 for difference in differences), len(differences)
    spread = float(np.std(differences, ddof=1))
    amount = float(np.mean(differences))
    more = "more" if amount >= 0 else "less"
    text = f"{points(abs(amount))} ± {points(spread)} {more} run by run, and the larger gap"
    if larger == n:
        return f"{text} in all {n} runs"
    return f"{text} in {larger} of {n} runs only"


def _single(models: Row, best: str) -> str:
    if models[best].get("n", 1) > 1:
        return (
            "± is the standard deviation over base models, forget sets and runs. Runs that share a base model or a "
            "forget set are not independent, so it is rather too small."
        )
    return "n = 1: every figure is from a single run, so there is no spread, and small differences may be chance."


def _next(results: Row, names: list[str]) -> str:
    models = results["models"]
    if len(names) < 2 or names[1] == _FINETUNE:
        return ""
    return f"Next comes {names[1]} with {_gap(models[names[1]])}, {_farther(results, names[0], names[1])}."


def _untouched(models: Row, names: list[str]) -> str:
    original = models.get("original", {})
    if original.get("gap_to_retrain") is None:
        return ""
    worse = [name for name in names if models[name]["gap_to_retrain"] >= original["gap_to_retrain"]]
    text = f"The original model, which forgot nothing, has {_gap(original)}"
    if not worse or len(worse) == len(names):
        return f"{text}."
    return f"{text}; no nearer to retraining than it: {', '.join(worse)}."


def _cost(models: Row, best: str) -> str:
    mine, retrain = (total_seconds(models.get(name, {})) for name in (best, "retrain"))
    if not (mine and retrain):
        return ""
    share = 100 * mine / retrain
    shown = f"{share:,.0f}" if share >= 1 else f"{share:.2g}"
    before = models[best].get("preparation_seconds") or 0.0
    apart = f", {duration(before)} of it before training" if before >= 0.05 * mine else ""
    return f"{best} took {duration(mine)}{apart}: {shown}% of the {duration(retrain)} of retraining."


def _gap(model: Row) -> str:
    return (
        f"{_with_spread(model.get('gap_to_retrain'), model.get('gap_sd'))} points (n = {model.get('n', 1)})"
    )


def _with_spread(value: Number, spread: Number) -> str:
    return points(value) if spread is None else f"{points(value)} ± {points(spread)}"
