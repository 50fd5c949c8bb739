"""What the benchmark of class unlearning makes of its rounds, and prints beside what all benchmarks do."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.table import aligned, number
from benchmarks.ulira_case import BATCH, TRW_STEP

RUN_EPOCHS = 10.0
"""Of the run that TRW's preparation is set beside: its default."""
MOST = 1.1
"""What a step of TRW may cost at most, in steps of fine-tuning."""
# Sides that do the same work differ less, unless one of the loops is broken; so much of the class is not forgotten.
_ALIKE, _REMEMBERED = 0.1, 0.1


def models_lines(method: str, sides: Mapping[str, Mapping[str, Any]]) -> str:
    """Where a model's seconds went, and what the models are right on, a side a line; then what is odd about them."""
    rows = [
        ("side", "s a model", "of it preparation", "images", "retained", "forgotten", "test", "of the class")
    ]
    for side, facts in sides.items():
        preparing, right = facts["preparation_seconds_a_model"], facts["accuracy"]
        rows.append(
            (
                side,
                number(preparing + facts["training_seconds_a_model"]),
                number(preparing),
                f"{facts['images_a_model']:,}",
                *(f"{right[part]:.1%}" for part in ("retain", "forget", "test", "test_forget")),
            )
        )
    return "\n".join([aligned(rows, 1), *warnings(method, sides)])


def warnings(method: str, sides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences on sides that did other work than one another, or did not do it."""
    found = []
    if len({facts["images_a_model"] for facts in sides.values()}) > 1:
        found.append("WARNING: the sides trained on different numbers of images; the ratio says little.")
    for part, name in (("retain", "retained"), ("forget", "forgotten")):
        right = [facts["accuracy"][part] for facts in sides.values()]
        if max(right) - min(right) > _ALIKE:
            found.append(
                f"WARNING: the accuracies on what is {name} differ much: one of the loops is broken."
            )
    if method == "trw":
        for side, facts in sides.items():
            if facts["accuracy"]["forget"] > _REMEMBERED:
                found.append(
                    f"WARNING: {side} did not forget the class; give --share or --training-epochs more."
                )
    return found


def step_figures(
    rates: Mapping[str, Sequence[float]], facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Milliseconds of a step and TRW's ratio to fine-tuning, from steps a second of each, a value a round.

    The ratio is the median of those within a round, whose methods ran in turn. Preparation is set beside the steps of
    TRW's run of RUN_EPOCHS.
    """
    step = {method: 1 / statistics.median(of_rounds) for method, of_rounds in rates.items()}
    ratios = [plain / tilted for plain, tilted in zip(rates["finetune"], rates["trw"], strict=True)]
    preparing = facts["trw"]["preparation_seconds"]
    steps = {method: RUN_EPOCHS * one["images_an_epoch"] / BATCH for method, one in facts.items()}
    return {
        "ms_a_step": {method: round(1000 * seconds, 4) for method, seconds in step.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "preparation_seconds": preparing,
        "preparation_share": round(preparing / (steps["trw"] * step["trw"]), 4),
        # TRW's epochs visit the class too.
        "run_ratio": round(
            (preparing + steps["trw"] * step["trw"]) / (steps["finetune"] * step["finetune"]), 3
        ),
        "images_an_epoch": {method: one["images_an_epoch"] for method, one in facts.items()},
        "compile_seconds": {method: one["compile_seconds"] for method, one in facts.items()},
    }


def step_lines(figures: Mapping[str, Any]) -> str:
    """The figures of `step_figures` in words."""
    step, images = figures["ms_a_step"], figures["images_an_epoch"]
    lines = [
        f"a step: TRW {step['trw']:.3f} ms, fine-tuning {step['finetune']:.3f} ms, ratio {figures['ratio']:.3f} "
        f"(rounds: {', '.join(f'{ratio:.3f}' for ratio in figures['ratios'])})",
        f"TRW's preparation: {1000 * figures['preparation_seconds']:.1f} ms, {figures['preparation_share']:.1%} of "
        f"{RUN_EPOCHS:g} epochs' steps",
        f"whole runs of {RUN_EPOCHS:g} epochs with it: {figures['run_ratio']:.3f} times fine-tuning's, whose epochs "
        f"have {images['finetune']:,} images to TRW's {images['trw']:,}",
    ]
    if figures["ratio"] > MOST:
        lines.append(f"WARNING: a step of TRW costs more than {MOST:g} of fine-tuning's.")
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as Markdown: a table of unlearned models a minute, and one of steps."""
    models = [row for row in rows if row["case"] != TRW_STEP]
    steps = [row for row in rows if row["case"] == TRW_STEP]
    lines = []
    if models:
        lines += [
            "| case | ours, models/min | PyTorch, models/min | ratio | PyTorch's form | ours compile s | "
            "retained, forgotten right: ours | PyTorch |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for row in models:
        details = row["details"]
        theirs, right = (details["torch_missing"] or "–", "–", "–"), "–"
        if row["torch"] is not None:
            form = details["torch_reference"]
            theirs = (number(row["torch"]), f"{row['ratio']:.2f}", form)
            right = _right(details["torch"][form])
        ours = details["ours"][details["ours_best"]]
        cells = (
            row["case"],
            number(row["ours"]),
            *theirs,
            f"{ours['compile_seconds']:.1f}",
            _right(ours),
            right,
        )
        lines.append("| " + " | ".join(cells) + " |")
    if models and steps:
        lines.append("")
    if steps:
        lines += [
            "| case | TRW, ms/step | fine-tuning, ms/step | ratio | TRW's preparation, ms | of 10 epochs' steps |",
            "|---|---|---|---|---|---|",
        ]
    for row in steps:
        details = row["details"]
        cells = (
            row["case"],
            f"{row['ours']:.3f}",
            f"{details['ms_a_step']['finetune']:.3f}",
            f"{row['ratio']:.3f}",
            f"{1000 * details['preparation_seconds']:.1f}",
            f"{details['preparation_share']:.1%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _right(facts: Mapping[str, Any]) -> str:
    return f"{facts['accuracy']['retain']:.1%}, {facts['accuracy']['forget']:.1%}"
