"""What the words of the study of leaks mean, and how its figures came about."""

from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.leaks_remarks import MANY_TIES
from mu_jax.evaluation.report.leaks_rows import plain_rows, scenarios, shown_rate
from mu_jax.evaluation.report.tables import count

Row = Mapping[str, Any]


def terms(results: Row) -> dict[str, str]:
    """Of the main table."""
    rate = shown_rate(plain_rows(results))
    methods = {row["method"] for row in results["tables"]["leaks"]}
    return {
        "Model": "a kind of model, and how what is deleted leaves it"
        + (f" (here always by {methods.pop()})" if len(methods) == 1 else "")
        + ". With a shared start, a retrained model has the initial weights, augmentation and batches of its original, "
        "another example in each deleted one's place; a real retraining shares nothing.",
        "AUC": "how well the attack on pairs tells deleted examples from those that neither model learned; 50% is a "
        "guess. Classical AUC: the same classifier on the first model's posteriors alone.",
        "DegCount": "share of examples of whose true answer the attack on pairs is surer than the classical one. "
        "DegRate: by how much, on average, in percentage points of confidence; above 0 the deletion leaks.",
        "TPR": "deleted examples found where at most so many of the others are called deleted"
        + ("." if rate is None else f", here {100 * float(rate):g}%."),
        "Newly exposed": "share of deleted examples that the attack on pairs calls members and the classical one does "
        "not.",
        "Ties": "share of examples whose posteriors are equal to the bit before and after the deletion. Above "
        f"{100 * MANY_TIES:g}% of never-members, attacks by differences are suspect.",
        "Train / test": "accuracy of the target's originals on what they learned, and on what no model learned.",
        "In brackets": f"intervals of {100 * results['study']['interval_level']:g}%, over originals and over pairs of "
        "each. Rows are called apart where their intervals do not overlap.",
    }


def scenario_terms(results: Row) -> dict[str, str]:
    """Of the scenarios that a study has."""
    words = {
        "single": ("Single deletion", "one example is deleted, and asked about."),
        "group": ("Group", "so many examples are deleted at once, and each is asked about."),
        "intermediates": (
            "Intermediates",
            "so many examples are deleted one after another; the attacker holds two of the models at random, and an "
            "example deleted between them is asked about.",
        ),
        "online": ("Online", "so many examples are deleted, and as many others learned."),
        "remaining": (
            "Remaining members",
            "the members asked about are in both models; one other was deleted.",
        ),
    }
    return dict(
        words[kind] for kind in dict.fromkeys(kind for kind, _ in scenarios(results)) if kind in words
    )


def defense_terms() -> dict[str, str]:
    """Of the table of defences."""
    return {
        "top-k": "the k largest posteriors are released, the rest of the mass spread evenly over the other classes.",
        "label only": "the most likely class alone is released.",
        "temperature": "softmax of the logits divided by T.",
        "DP-SGD": "trained with clipped and noised gradients; ε bounds what any attack can learn of one example.",
        "Brier score": "mean squared distance of the released posteriors from the true label, over test examples: what "
        "is left of them for a user; 0 is best, 2 worst.",
    }


def how(results: Row, config: Row) -> dict[str, str]:
    """What was done, in the order in which it was."""
    study, facts = results["study"], results["data"]
    samples = (config.get("evaluation") or {}).get("bootstrap_samples")
    return {
        "Sides": f"The data are cut into a shadow and a target of {count(facts['side'])} examples each, which share "
        "none. Four fifths of a side may be learned; the others never are. On each side "
        f"{study['originals']} originals learn {count(facts['training_examples'])} examples each, and of each original "
        "come versions without some of them.",
        "Attack": "A classifier learns on features of shadow pairs which examples were deleted, and is asked about the "
        "target's pairs, as many deleted as never learned. Features: both posteriors (concatenation), their "
        "difference, either sorted by the first model's posteriors, or the ℓ2 norm of the difference.",
        "Choice": "Features and classifier are chosen on shadow pairs, for each kind of model, scenario and defence.",
        "Intervals": ("" if samples is None else f"{samples:,} bootstrap resamples ")
        + "of originals, and of pairs within them, since an original's pairs are not independent.",
        "Defences": "A defence is applied to shadow and target alike: the attacker knows it.",
    }
