"""What the benchmark of FastClip makes of its rounds, and prints beside what all benchmarks do."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.fastclip_case import AGREED, CHUNK_STEPS, POWER_ITERATIONS, TRAINING
from benchmarks.table import number


def training_figures(
    rates: Mapping[str, Sequence[float]], batch: int, torch: Mapping[str, Sequence[float]] | None
) -> dict[str, Any]:
    """Milliseconds a step and ratios to plain training, from images a second of each form, a value a round.

    A ratio is the median of those within a round, whose forms ran in turn. `clipping_ms` is what the clippings of
    CHUNK_STEPS steps cost: two of the layers by themselves, and one of those composed with batch-norm.
    """
    step = {form: 1000 * batch / statistics.median(of_rounds) for form, of_rounds in rates.items()}
    pairs = zip(rates["track"], rates["fastclip"], strict=True)
    clipping = statistics.median(1000 * batch * (1 / clipped - 1 / tracked) for tracked, clipped in pairs)
    return {
        "ms_a_step": {form: round(value, 3) for form, value in step.items()},
        "ratio": _ratio(rates, "fastclip"),
        "track_ratio": _ratio(rates, "track"),
        "ratios": [round(a / b, 3) for a, b in zip(rates["plain"], rates["fastclip"], strict=True)],
        "clipping_ms": round(CHUNK_STEPS * clipping, 2),
        "torch_ratio": torch and _ratio(torch, "fastclip"),
    }


def _ratio(rates: Mapping[str, Sequence[float]], form: str) -> float:
    pairs = zip(rates["plain"], rates[form], strict=True)
    return round(statistics.median(plain / other for plain, other in pairs), 3)


def differences(norms: Mapping[str, float], true: Mapping[str, float]) -> dict[str, Any]:
    """Relative differences of the norms of the same layers: the largest, whose it is, and the median."""
    if norms.keys() != true.keys():
        raise ValueError(f"The layers {sorted(norms.keys() ^ true.keys())} are on one side only.")
    apart = {name: abs(norms[name] - value) / value for name, value in true.items()}
    worst = max(apart, key=apart.__getitem__)
    return {"largest": apart[worst], "layer": worst, "median": statistics.median(apart.values())}


def training_lines(figures: Mapping[str, Any]) -> str:
    """The figures in words."""
    step = figures["ms_a_step"]
    lines = [
        f"with FastClip a step takes {figures['ratio']:.3f} times as long as plain: {number(step['fastclip'])} ms, "
        f"plain {number(step['plain'])} ms; tracking alone {figures['track_ratio']:.3f} times",
        f"clipping adds {number(figures['clipping_ms'])} ms to {CHUNK_STEPS} steps",
    ]
    if figures["torch_ratio"]:
        lines.append(
            f"the published scheme in PyTorch: {figures['torch_ratio']:.3f} times its own plain step"
        )
    return "\n".join(lines)


def measuring_lines(details: Mapping[str, Any]) -> str:
    """How the sides compare, and what plain power iteration makes of the same layers."""
    lines = []
    if details["agreement"]:
        apart = details["agreement"]
        lines.append(f"the sides' norms differ by at most {apart['largest']:.1e} ({apart['layer']})")
        if apart["largest"] > AGREED:
            lines.append(f"WARNING: that is more than {AGREED:g}: one of them is wrong.")
    for side, power in details["power"].items():
        lines.append(
            f"PowerQR, {POWER_ITERATIONS} iterations of one vector, {side}: {number(power['seconds'])} s, too small by "
            f"{power['largest']:.1e} at most ({power['layer']}), {power['median']:.1e} in the median"
        )
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as Markdown tables, one a kind."""
    training = [row for row in rows if row["details"]["kind"] == TRAINING]
    measuring = [row for row in rows if row["details"]["kind"] != TRAINING]
    tables = []
    if training:
        lines = [
            "| case | plain, ms a step | with FastClip | ratio | tracking alone | "
            f"clippings of {CHUNK_STEPS} steps, ms | PyTorch's ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in training:
            details = row["details"]
            theirs = f"{details['torch_ratio']:.2f}" if details["torch_ratio"] else "–"
            cells = (row["case"], number(row["plain"]), number(row["ours"]), f"{row['ratio']:.3f}")
            cells += (f"{details['track_ratio']:.3f}", number(details["clipping_ms"]), theirs)
            lines.append("| " + " | ".join(cells) + " |")
        tables.append("\n".join(lines))
    if measuring:
        lines = [
            "| case | ours, s | PyTorch, s | ratio | norms differ by | PowerQR, s | its error |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in measuring:
            details, power = row["details"], row["details"]["power"]["ours"]
            theirs = ("–", "–", "–")
            if row["torch"] is not None:
                largest = details["agreement"]["largest"]
                theirs = (number(row["torch"]), f"{row['ratio']:.2f}", f"{largest:.1e}")
            cells = (row["case"], number(row["ours"]), *theirs)
            cells += (number(power["seconds"]), f"{power['largest']:.1e}")
            lines.append("| " + " | ".join(cells) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
