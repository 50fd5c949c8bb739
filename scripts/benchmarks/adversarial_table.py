"""What the benchmark of adversarial search prints beside what all benchmarks do, and how both sides are compared."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.table import aligned, number

AGREED = 0.95
"""Share of the examples for which both sides must find one ε; on the boundary rounding decides."""


def agreement(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How the searches of the same examples on the same weights compare: `epsilon`, `predicted`, `flipped`, [N] each.

    Counts are of examples by the ε at which they flipped; `none` are those that did not. An ε is the same within
    a ten-thousandth: a ladder in float32 and one in float64 round differently.
    """
    flipped = ours["flipped"] & theirs["flipped"]
    same = np.isclose(ours["epsilon"], theirs["epsilon"], rtol=1e-4, atol=0)
    both = same & (ours["flipped"] == theirs["flipped"])
    near = flipped & (ours["steps"] > 0)
    gap = np.abs(ours["distance"] - theirs["distance"])[near] / np.maximum(theirs["distance"][near], 1e-12)
    return {
        "same_epsilon": round(float(both.mean()), 4),
        "same_label": round(float((ours["predicted"] == theirs["predicted"]).mean()), 4),
        "distance_gap": round(float(np.median(gap)), 6) if len(gap) else None,
        "agrees": bool(both.mean() >= AGREED),
    }


def epsilon_counts(found: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many examples flipped at each ε, in its order; `none` did not flip."""
    flipped = found["flipped"]
    values, counts = np.unique(found["epsilon"][flipped].astype(np.float32), return_counts=True)
    table = {f"{value:.4g}": int(count) for value, count in zip(values, counts, strict=True)}
    return table | ({"none": int((~flipped).sum())} if not flipped.all() else {})


def epsilon_table(ours: Mapping[str, int], theirs: Mapping[str, int] | None) -> str:
    """The counts of both sides, or of ours alone, beside one another."""
    numbers = sorted({*ours, *(theirs or {})} - {"none"}, key=float)
    rows = [("ε at which they flip", "examples, ours", "PyTorch")]
    for key in [*numbers, *(["none"] if "none" in {*ours, *(theirs or {})} else [])]:
        label = {"0": "0, misclassified as it is", "none": "not within the largest ε"}.get(key, key)
        rows.append((label, str(ours.get(key, 0)), "–" if theirs is None else str(theirs.get(key, 0))))
    return aligned(rows, 1)


def agreement_line(figures: Mapping[str, Any]) -> str:
    """The comparison, in words."""
    gap = "–" if figures["distance_gap"] is None else f"{figures['distance_gap']:.2%}"
    line = (
        f"both sides find the same ε for {figures['same_epsilon']:.1%} of the examples, and the same label for "
        f"{figures['same_label']:.1%}; their distances differ by {gap} (median)"
    )
    if figures["agrees"]:
        return line
    return f"{line}\nWARNING: that is less than {AGREED:.0%}: one of the searches is broken, or the model is unsure."


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as a Markdown table; memory is the peak of each side's process, or of its share of the device."""
    lines = [
        "| case | ours, examples/min | PyTorch | ratio | ours, s a search | PyTorch's form | same ε | "
        "gradient steps an example | ours compile s | memory ours / theirs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        details = row["details"]
        theirs = (details["torch_missing"] or "–", "–")
        form = same = "–"
        if row["torch"] is not None:
            theirs = (number(row["torch"]), f"{row['ours'] / row['torch']:.2f}")
            form, same = details["torch_reference"], f"{details['agreement']['same_epsilon']:.1%}"
        best = details["ours"][details["ours_best"]]
        cells = (
            f"{row['case']} on {details['data']}",
            number(row["ours"]),
            *theirs,
            number(60 * details["examples"] / row["ours"]),
            form,
            same,
            number(best["gradient_steps"] / details["examples"]),
            f"{best['compile_seconds']:.1f}",
            " / ".join(_gibibytes(details["memory"].get(name)) for name in ("JAX", "PyTorch")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gibibytes(peaks: Mapping[str, int | None] | None) -> str:
    if peaks is None:
        return "–"
    return f"{(peaks['device_peak_bytes'] or peaks['peak_bytes']) / 2**30:.2f} GiB"
