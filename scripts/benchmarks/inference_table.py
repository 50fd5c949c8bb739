"""What the benchmark of inference makes of both sides' logits, and prints beside what all benchmarks do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.inference_case import AGREED
from benchmarks.table import number


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """The largest difference of logits [N,C] over their largest magnitude, and whether it is small enough."""
    if ours.shape != theirs.shape:
        raise ValueError(f"The logits have shapes {ours.shape} and {theirs.shape}, but expected the same.")
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    # Not a number is no agreement.
    return {"max_difference": difference, "agree": bool(difference <= AGREED)}


def agreement_line(compared: Mapping[str, Any]) -> str:
    """The comparison in words."""
    line = f"the sides' logits differ by at most {compared['max_difference']:.1e} of the largest"
    return line if compared["agree"] else f"WARNING: {line}, more than {AGREED:g}: one of them is wrong."


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as a Markdown table."""
    lines = [
        "| case | ours, images/s | how | PyTorch, images/s | ratio | PyTorch's form | logits differ by |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        details, theirs = row["details"], ("–", "–", "–", "–")
        if row["torch"] is not None:
            theirs = (number(row["torch"]), f"{row['ours'] / row['torch']:.2f}", details["torch_reference"])
            theirs += (f"{details['agreement']['max_difference']:.1e}",)
        cells = (row["case"], number(row["ours"]), details["ours_best"], *theirs)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
