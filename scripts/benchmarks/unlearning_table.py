"""What the benchmark of unlearning methods makes of its rounds, and what it prints."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.orchestrator import Contender
from benchmarks.table import aligned

SPAN = 3600.0
"""Rates are requests an hour."""
# Both sides run the same recipe; AMUN's adversarial sets may differ by a few examples, which moves the steps.
_ALIKE = 0.02


def retrain_figures(one: Contender | None, rounds: int) -> dict[str, Any] | None:
    """Retraining's seconds, extrapolated: the recipe's images by the median images a second of the last rounds."""
    if one is None or not one.rates:
        return None
    # Before the first round the worker has tried how many steps one holds.
    rate = statistics.median(one.facts["images_per_second"][-rounds:])
    images = one.facts["retrain_images"]
    return {
        "images_per_second": round(rate, 2),
        "images": images,
        "seconds": round(images / rate, 3),
        "extrapolated": True,
        "compile_seconds": one.facts.get("compile_seconds"),
    }


def method_figures(one: Contender | None, retrain: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Medians of a method's rounds, in seconds, and how many times retraining takes as long."""
    if one is None or not one.rates:
        return None
    parts = {
        name: statistics.median(one.facts[name])
        for name in ("adversarial_seconds", "plan_seconds", "training_seconds", "images")
    }
    seconds = SPAN / one.rate
    return {
        "seconds": round(seconds, 3),
        **{
            name: round(parts[name], 3)
            for name in ("adversarial_seconds", "plan_seconds", "training_seconds")
        },
        "compile_seconds": one.facts.get("compile_seconds"),
        "prepare_seconds": one.facts.get("prepare_seconds"),
        "images": int(parts["images"]),
        "images_per_second": round(parts["images"] / parts["training_seconds"], 2),
        "neighbours": one.facts.get("neighbours"),
        "last_accuracy": one.facts["last_accuracy"],
        "faster_than_retraining": None if retrain is None else round(retrain["seconds"] / seconds, 2),
    }


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> str:
    """A warning where PyTorch trained on another number of images; empty where it did not."""
    if theirs is None or abs(ours["images"] - theirs["images"]) <= _ALIKE * ours["images"]:
        return ""
    return (
        f"WARNING: ours trained on {ours['images']:,} images and PyTorch on {theirs['images']:,}: their seconds say "
        "little about one another."
    )


def parts_table(figures: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Where the seconds of a method went, a side a line."""
    rows = [("side", "s in all", "adversarial set", "plan", "training", "compile s", "images/s", "accuracy")]
    for side, one in figures.items():
        if one is None:
            continue
        rows.append(
            (
                side,
                _seconds(one["seconds"]),
                _seconds(one["adversarial_seconds"]),
                _seconds(one["plan_seconds"]),
                _seconds(one["training_seconds"]),
                _seconds(one["compile_seconds"]),
                f"{one['images_per_second']:,.0f}",
                f"{one['last_accuracy']:.1%}",
            )
        )
    return aligned(rows, 1)


def summary(rows: Sequence[Mapping[str, Any]], no_torch: str | None) -> str:
    """All methods as a Markdown table, and what retraining would take; `no_torch` says why there is no PyTorch."""
    lines = [
        "| method | ours, s | of it adversarial set | training | compile s (apart) | images/s | retraining ÷ method | "
        "PyTorch, s | of it adversarial set | training | PyTorch ÷ ours |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, theirs = row["details"]["ours"], row["details"]["torch"]
        beside = (no_torch or row["details"]["torch_absent"] or "–", "–", "–", "–")
        if theirs is not None:
            beside = (
                _seconds(theirs["seconds"]),
                _seconds(theirs["adversarial_seconds"]),
                _seconds(theirs["training_seconds"]),
                f"{row['ratio']:.2f}",
            )
        faster = ours["faster_than_retraining"]
        cells = (
            row["case"],
            _seconds(ours["seconds"]),
            _seconds(ours["adversarial_seconds"]),
            _seconds(ours["training_seconds"]),
            _seconds(ours["compile_seconds"]),
            f"{ours['images_per_second']:,.0f}",
            "–" if faster is None else f"{faster:.1f}×",
            *beside,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def retrain_lines(details: Mapping[str, Any]) -> str:
    """What retraining takes on each side, and how that is known."""
    lines = []
    for side, figures in (("ours", details["retrain"]), ("PyTorch", details["torch_retrain"])):
        if figures is not None:
            lines.append(
                f"retraining, {side}: {_seconds(figures['seconds'])} s for {details['retrain_epochs']:g} epochs, "
                f"extrapolated from {figures['images_per_second']:,.0f} images/s at the same recipe"
            )
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
