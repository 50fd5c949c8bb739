"""The answer in words on attacks: after the deletion, does any of them still see who was deleted?"""

from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from mu_jax.evaluation.report.answer import Answer, auc_difference, interval_level
from mu_jax.evaluation.report.sisa_data import PARTS, SisaReportData
from mu_jax.evaluation.report.sisa_tables import (
    RETAIN,
    Row,
    attack_names,
    attack_title,
    measures,
    points,
    with_unit,
)


class Look(NamedTuple):
    """One interval that a verdict on attacks looks at, of a figure that is ½ for a guess."""

    attack: str
    value: float
    bounds: tuple[float, float]

    @property
    def excludes_guess(self) -> bool:
        return self.bounds[0] > 0.5 or self.bounds[1] < 0.5

    def allowing_for(self, number: int, level: float) -> "Look":
        """With bounds that would all hold at once if there were so many of them (Bonferroni, as if normal)."""
        missed = (1 - level) / 2
        if not 0 < missed < 0.5:
            return self
        quantile = NormalDist().inv_cdf
        widening = quantile(missed / max(number, 1)) / quantile(missed)
        low, high = (self.value + (bound - self.value) * widening for bound in self.bounds)
        return self._replace(bounds=(low, high))


def attack_answer(data: SisaReportData) -> Answer:
    """Whether any attack on the ensemble after the deletion is shown to tell deleted from test images."""
    question = "Does an attacker still see who was deleted?"
    models, level = data.results["models"], interval_level(data.results)
    looks = list(_looks(models, "sisa_unlearned"))
    if not looks:
        return Answer(
            question, "Not measured", "No attack on the ensemble after the deletion has an interval.", ()
        )
    differs = unequal(data)
    tried = len({look.attack for look in looks})
    which = "the attack" if tried == 1 else f"any of {tried} attacks"
    seen = [look for look in looks if look.excludes_guess]
    sure = [look for look in seen if look.allowing_for(len(looks), level).excludes_guess]
    if not seen:
        verdict = f"Not shown by {which}"
        if differs == []:
            verdict += ", and all figures are those of an ensemble that never saw them"
    elif not sure:
        verdict = "Perhaps: more than a guess, but chance may explain it"
    elif differs == []:
        verdict = "It tells them apart, but not by memory of them"
    else:
        verdict = "Yes"
    main = attack_names({"": models["sisa_unlearned"]})[0]
    sentence = (
        f"After the deletion, the attack {_named(main)} on the ensemble has "
        f"{_figures(models, 'sisa_unlearned', main)}. A guess has 50%, 50% and 0."
    )
    details = (
        _which_see(seen, sure, len(looks)),
        "" if seen else _too_weak(models),
        _exactness(differs),
        _before(models, main),
        _change(data),
        _retained(models, main),
        "Attacks here see the ensemble after the deletion alone. Who also kept its answers from before can compare the "
        "two, which may show more; that is not measured on this page.",
    )
    return Answer(question, verdict, sentence, tuple(detail for detail in details if detail))


def unequal(data: SisaReportData) -> list[str] | None:
    """What differs between the ensemble after the deletion and the one fitted without the deleted; None: no such one.

    Deletion being exact, accuracies, attacks and posteriors are equal to the last bit.
    """
    models = data.results["models"]
    if not {"sisa_unlearned", "sisa_retrained"} <= models.keys():
        return None
    mine, theirs = (
        dict(_leaves({part: models[name].get(part, {}) for part in ("accuracy", "attacks")}))
        for name in ("sisa_unlearned", "sisa_retrained")
    )
    differs = [key for key in mine | theirs if mine.get(key, ...) != theirs.get(key, ...)]
    shown = data.largest_posterior
    if {"sisa_unlearned", "sisa_retrained"} <= shown.keys():
        differs += [
            f"largest posterior {part}"
            for part in PARTS
            if not np.array_equal(shown["sisa_unlearned"][part], shown["sisa_retrained"][part])
        ]
    return differs


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    children = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    )
    if children is None:
        yield path.strip(), value
        return
    for key, child in children:
        yield from _leaves(child, f"{path} {key}")


def _looks(models: Mapping[str, Row], name: str) -> Iterator[Look]:
    model = models.get(name, {})
    for attack in attack_names({"": model}):
        found = measures(model["attacks"][attack])
        for name in ("auc", "balanced_accuracy"):
            value, bounds = found[name]
            if value is not None and bounds is not None and None not in bounds:
                yield Look(attack, float(value), (float(bounds[0]), float(bounds[1])))


def _which_see(seen: list[Look], sure: list[Look], looks: int) -> str:
    if not seen:
        return (
            f"None of the {looks} intervals of AUC and balanced accuracy excludes a guess. That is no proof: another "
            "attack, or more images, may find something."
        )
    names = "; ".join(_named(name) for name in dict.fromkeys(look.attack for look in seen))
    text = f"More than a guess by their own intervals: {names}."
    if len(sure) == len(seen):
        return f"{text} That holds also when allowing for the {looks} intervals looked at."
    if sure:
        return f"{text} Not all of that holds when allowing for the {looks} intervals looked at."
    return f"{text} Allowing for the {looks} intervals looked at, none excludes a guess any more."


def _too_weak(models: Mapping[str, Row]) -> str:
    """Where attacks saw nothing before either, that they see nothing now is no merit of the deletion."""
    before = list(_looks(models, "sisa"))
    if not before or any(look.excludes_guess for look in before):
        return ""
    return (
        "Nor is any of them shown to see those images in the ensemble before the deletion, so these attacks, on so "
        "many images, had nothing to lose: they do not show what deleting hides."
    )


def _exactness(differs: list[str] | None) -> str:
    if differs is None:
        return "There is no ensemble fitted without the deleted images to compare with."
    if differs:
        return (
            f"The deletion is not exact here: {len(differs):,} figures differ from those of the ensemble fitted "
            f"without the deleted images ({', '.join(differs[:3])}{', …' if len(differs) > 3 else ''})."
        )
    return (
        "The ensemble after the deletion equals the one that never saw the deleted images in every accuracy and "
        "attack figure. So whatever an attack finds in it alone is how deleted and test images differ, or chance, and "
        "not memory."
    )


def _before(models: Mapping[str, Row], attack: str) -> str:
    parts = [
        f"{what} {_figures(models, name, attack)}"
        for name, what in (("base", "on one model"), ("sisa", "on the ensemble"))
        if attack in models.get(name, {}).get("attacks", {})
    ]
    return f"Before it, while those images were in training: {'; '.join(parts)}." if parts else ""


def _change(data: SisaReportData) -> str:
    """What deleting changed, on the same images, by the attack whose scores are at hand."""
    shown = data.largest_posterior
    if not {"sisa", "sisa_unlearned"} <= shown.keys():
        return ""
    after, before = (
        [shown[name][part].astype(np.float64) for part in ("forget", "test")]
        for name in ("sisa_unlearned", "sisa")
    )
    if [side.shape for side in after] != [side.shape for side in before]:
        return ""
    found = auc_difference(*after, *before, level=interval_level(data.results))
    text = (
        f"By the largest posterior alone, deleting changed the AUC by {points(found.value)} points "
        f"[{points(found.low)}, {points(found.high)}] on the same images"
    )
    if not found.found:
        return f"{text}, which cannot be told from zero."
    return f"{text}: it {'took away some of' if found.value < 0 else 'added to'} what this attack could see."


def _retained(models: Mapping[str, Row], attack: str) -> str:
    name = attack + RETAIN
    if name not in models["sisa_unlearned"].get("attacks", {}):
        return ""
    return (
        "Who stays is another matter: on retained training images the same attack has "
        f"{_figures(models, 'sisa_unlearned', name)} after the deletion."
    )


def _figures(models: Mapping[str, Row], model: str, attack: str) -> str:
    found = measures(models[model]["attacks"][attack])
    texts = {name: with_unit(*found[name]) for name in ("auc", "balanced_accuracy", "advantage")}
    advantage = texts["advantage"].replace("%", " points", 1)
    return f"AUC {texts['auc']}, balanced accuracy {texts['balanced_accuracy']} and advantage {advantage}"


def _named(attack: str) -> str:
    return f"“{attack_title(attack)}”"
