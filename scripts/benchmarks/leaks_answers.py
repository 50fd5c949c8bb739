"""The plan's file, and what models are right on; with NumPy alone, so that any interpreter's worker can read it."""

from collections.abc import Mapping

import numpy as np


def read_plan(path: str) -> dict[str, np.ndarray]:
    """The arrays of `leaks_data.write_plan`."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def right_shares(plan: Mapping[str, np.ndarray], posteriors: np.ndarray) -> dict[str, float]:
    """Shares of originals' right answers: on what they learned, and on what no model of their side learned.

    `posteriors` [K,Q,C] are what model k says of its side's digits.
    """
    right = {"members": [], "others": []}
    for original in np.unique(plan["before"]):
        side = plan["side"][original]
        rows = plan["side_rows"][side]
        is_right = posteriors[original].argmax(-1) == plan["labels"][rows]
        right["members"].append(is_right[np.isin(rows, plan["rows"][original])].mean())
        right["others"].append(is_right[plan["never"]].mean())
    return {name: round(float(np.mean(shares)), 4) for name, shares in right.items()}
