"""A sweep's models and speed as rows of strings, the same for the page and for the terminal."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from mu_jax.evaluation.report.tables import MISSING, Number, Table, count, percent, seconds


def diverged(results: Mapping[str, Any]) -> dict[str, int]:
    """The step at which each model that diverged did so, by the model's name."""
    steps = {name: model.get("diverged_step") for name, model in results["models"].items()}
    return {name: step for name, step in steps.items() if step is not None}


def over_models(results: Mapping[str, Any], *keys: str) -> Float[np.ndarray, "K"]:
    """One number of every model, as in `over_models(results, "accuracy", "member")`.

    NaN where the model diverged or has no such number.
    """
    left_out, found = diverged(results), np.full(len(results["models"]), np.nan)
    for i, (name, model) in enumerate(results["models"].items()):
        value: Any = None if name in left_out else model
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, (int, float)):
            found[i] = value
    return found


def mean(values: Float[np.ndarray, "K"]) -> float | None:
    """The mean of the numbers among the values; None without any."""
    numbers = values[np.isfinite(values)]
    return float(numbers.mean()) if numbers.size else None


def summary_table(results: Mapping[str, Any], compact: bool = False) -> Table:
    """What differs from model to model: mean ± standard deviation over the models, the lowest, the highest.

    Models that diverged are left out. `compact` keeps the two accuracies.
    """
    member, nonmember = (over_models(results, "accuracy", part) for part in ("member", "nonmember"))
    usable = len(results["models"]) - len(diverged(results))
    if compact:
        header = ["Accuracy %", "Mean ± SD", "Lowest", "Highest"]
        return header, [_row("Members", member, percent), _row("Non-members", nonmember, percent)]
    header = ["", f"Mean ± SD over {usable:,} model{'' if usable == 1 else 's'}", "Lowest", "Highest"]
    rows = [
        _row("Accuracy on members, %", member, percent),
        _row("Accuracy on non-members, %", nonmember, percent),
        _row("Difference, pp", member - nonmember, percent),
        _row("Members of a model", over_models(results, "members"), count),
    ]
    loss = over_models(results, "loss")
    # Of one kind for the whole row: a mean and its deviation are read together.
    small = (mean(loss) or 1.0) < 1e-3
    rows.append(_row("Last training loss, nats", loss, lambda x: f"{x:.1e}" if small else f"{x:.4f}"))
    return header, rows


def speed_table(results: Mapping[str, Any]) -> Table:
    """One row: what the sweep took, and how it was laid out over devices and processes."""
    sweep = results["sweep"]
    columns = {
        "Training,\u00a0s": seconds(sweep.get("seconds")),
        "Querying,\u00a0s": seconds(sweep.get("query_seconds")),
        "Compiling,\u00a0s": seconds(sweep.get("compile_seconds")),
        "Images a second": rate(sweep.get("images_per_second")),
        "Models a minute": rate(sweep.get("models_per_minute")),
        "Mapping over models": str(sweep.get("mapping", MISSING)),
        "Devices": count(sweep.get("devices")),
        "Models at once on a device": count(sweep.get("models_per_device")),
        "Groups": count(sweep.get("groups")),
        "Processes": count(sweep.get("processes")),
    }
    return ["", *columns], [["This run", *columns.values()]]


def rate(value: Number) -> str:
    """A number a second or a minute, with as many decimals as a reader can use."""
    return seconds(value)


def _row(name: str, values: Float[np.ndarray, "K"], shown: Callable[[Number], str]) -> list[str]:
    values = values[np.isfinite(values)]
    if not values.size:
        return [name, MISSING, MISSING, MISSING]
    middle = shown(float(values.mean()))
    if values.size > 1:
        middle += f" ± {shown(float(values.std(ddof=1)))}"
    return [name, middle, shown(float(values.min())), shown(float(values.max()))]
